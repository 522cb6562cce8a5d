"""Word vectors where each word is seen a few dozen times, beside gensim's: each side's own start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Regime:
    """A text with planted topics: their number, words of each, common words; sentences, words in each."""

    topics: int
    words: int
    head: int
    sentences: int
    length: int


# 1 and 3 million tokens; a topic word is seen 26 and 33 times an epoch. Among few common words, most of which
# sub-sampling removes, a topic word has more neighbours of its topic: so many topics are learnt only there.
REGIMES = (Regime(400, 48, 36_000, 50_000, 20), Regime(900, 50, 30, 75_000, 40))
QUICK_REGIMES = (Regime(20, 12, 300, 2_000, 20),)


@cache
def _corpus(regime: Regime) -> tuple[Corpus, tempfile.TemporaryDirectory]:
    folder = tempfile.TemporaryDirectory(prefix="ptmkernels-")
    corpus = planted_topics(
        Path(folder.name), regime.topics, regime.words, regime.head, regime.sentences, EPOCHS,
        regime.length,
    )  # fmt: skip
    return corpus, folder


def comparisons(options: Options) -> Iterator[Comparison]:
    """Each architecture and loss on each text, one thread; `--sizes` are numbers of sentences."""
    if options.device.type != "cpu" or torch.float32 not in options.dtypes:
        return
    regimes = QUICK_REGIMES if options.quick else REGIMES
    if options.sizes:
        regimes = [replace(r, sentences=size) for r in regimes for size in options.sizes]
    for regime in regimes:
        for architecture in ARCHITECTURES:
            for loss in LOSSES:
                task = Task(architecture, loss, WIDTH)
                yield Comparison(
                    f"{regime.topics} topics, {regime.sentences} sentences, {architecture}, {loss}",
                    partial(compare, task, regime),
                )


def compare(task: Task, regime: Regime) -> list[Row]:
    """Ours is wrong where fewer of a word's neighbours are of its topic than with gensim."""
    corpus, _ = _corpus(regime)
    start = Word2VecConfig().initial_range
    trained = {OURS: train(corpus, task, initial_range=start), PEER: train_gensim(corpus, task)}
    precision = {name: topic_precision(run) for name, run in trained.items()}
    rows = [
        _row(name, task, regime, corpus, run.seconds, precision[name])
        for name, run in trained.items()
    ]
    if precision[OURS] < precision[PEER] - PRECISION_MARGIN:
        rows[0].status = "wrong"
        rows[0].reason = f"precision {precision[OURS]:.3f}, peer {precision[PEER]:.3f}"
    else:
        rows[1].speedup = rows[1].q50_ms / rows[0].q50_ms
    return rows


def _row(
    name: str, task: Task, regime: Regime, corpus: Corpus, seconds: float, precision: float
) -> Row:
    shape = f"topics={regime.topics} V={len(corpus.vocabulary)} tokens={corpus.tokens}"
    return Row(
        op="little_data", provider=name, mode=task.loss, series=task.architecture,
        size=regime.sentences, shape=shape, dtype="float32", device="cpu",
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
