"""Word vectors where each word is seen a few dozen times, beside gensim's: each side's own start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import torch

from ptmkernels import _environment
from ptmkernels.benchmarks.harness import Benchmark, Comparison, Options
from ptmkernels.benchmarks.report import Row
from ptmkernels.benchmarks.word_vector_quality import (
    PRECISION_MARGIN,
    Corpus,
    Task,
    planted_topics,
    topic_precision,
    train,
    train_gensim,
)
from ptmkernels.models.shallow.word2vec import ARCHITECTURES, LOSSES, Word2VecConfig

OURS, PEER = "ptmkernels", "gensim"
WIDTH, EPOCHS = 100, 2
SIZES = (50_000, 150_000)  # sentences of 20 words
QUICK_SIZES = (2_000,)
TOPICS = 400, 48, 36_000  # number, words of each, common words
QUICK_TOPICS = 20, 12, 300


@cache
def _corpus(sentences: int, quick: bool) -> tuple[Corpus, tempfile.TemporaryDirectory]:
    folder = tempfile.TemporaryDirectory(prefix="ptmkernels-")
    topics = QUICK_TOPICS if quick else TOPICS
    return planted_topics(Path(folder.name), *topics, sentences, EPOCHS), folder


def comparisons(options: Options) -> Iterator[Comparison]:
    """Each architecture and loss on each number of sentences, one thread."""
    if options.device.type != "cpu" or torch.float32 not in options.dtypes:
        return
    for sentences in options.sizes or (QUICK_SIZES if options.quick else SIZES):
        for architecture in ARCHITECTURES:
            for loss in LOSSES:
                task = Task(architecture, loss, WIDTH)
                yield Comparison(
                    f"{sentences} sentences, {architecture}, {loss}",
                    partial(compare, task, sentences, options.quick),
                )


def compare(task: Task, sentences: int, quick: bool) -> list[Row]:
    """Ours is wrong where fewer of a word's neighbours are of its topic than with gensim."""
    corpus, _ = _corpus(sentences, quick)
    start = Word2VecConfig().initial_range
    trained = {OURS: train(corpus, task, initial_range=start), PEER: train_gensim(corpus, task)}
    precision = {name: topic_precision(run) for name, run in trained.items()}
    rows = [
        _row(name, task, sentences, corpus, run.seconds, precision[name])
        for name, run in trained.items()
    ]
    if precision[OURS] < precision[PEER] - PRECISION_MARGIN:
        rows[0].status = "wrong"
        rows[0].reason = f"precision {precision[OURS]:.3f}, peer {precision[PEER]:.3f}"
    else:
        rows[1].speedup = rows[1].q50_ms / rows[0].q50_ms
    return rows


def _row(
    name: str, task: Task, sentences: int, corpus: Corpus, seconds: float, precision: float
) -> Row:
    return Row(
        op="little_data", provider=name, mode=task.loss, series=task.architecture, size=sentences,
        shape=f"V={len(corpus.vocabulary)} tokens={corpus.tokens}", dtype="float32", device="cpu",
        device_name=_environment.device_name(torch.device("cpu")), threads=1, status="ok",
        q20_ms=seconds * 1e3, q50_ms=seconds * 1e3, q80_ms=seconds * 1e3, samples=1,
        quality=f"precision {precision:.3f}",
    )  # fmt: skip


BENCHMARK = Benchmark(
    "little_data",
    PEER,
    cases=lambda options: (),
    providers=lambda case, options: (),
    goal=lambda case, mode, provider: None,
    comparisons=comparisons,
)
