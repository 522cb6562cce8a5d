"""word2vec's training beside gensim's, on a GPU its step beside PyTorch's: speed and quality in one run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch

from ptmkernels import _environment
from ptmkernels._selector import unavailable
from ptmkernels.benchmarks.harness import Case, Comparison, Options
from ptmkernels.benchmarks.report import Row
from ptmkernels.benchmarks.word_vector_quality import (
    MIN_COUNT,
    Corpus,
    Quality,
    Task,
    Trained,
    gensim_model,
    held_out_loss,
    neighbour_overlap,
    planted_topics,
    real_text,
    topic_precision,
    train,
    train_gensim,
)
from ptmkernels.benchmarks.word_vector_steps import pytorch_rates, step_rates, topics_of
from ptmkernels.data.word_stream import Vocabulary
from ptmkernels.ops.refusals import refusals

TRAINING, COUNTING, STEP = "training", "counting", "training step"
SIZES = (100, 300)  # D
SEEDS = (1, 2)  # of trainings that are compared
OURS, PEER, ALONE = "ptmkernels", "gensim", "ptmkernels, 1 thread"
THREADS_GOAL = 1.5  # two threads or more beside one, both ours
COUNTING_GOAL = 10.0
PYTORCH_GOAL, THREAD_GOAL = (
    10.0,
    20.0,
)  # of the step on a GPU, beside PyTorch there and one CPU thread
QUICK_TOPICS = (200_000, 5000)  # words, different ones


class Corpora:
    """With planted topics, and the real text with gensim's models of it; made when first asked for.

    Args:
        quick: a few thousand sentences, else five million tokens.
    """

    def __init__(self, quick: bool):
        self.quick = quick
        self._folder = tempfile.TemporaryDirectory(prefix="ptmkernels-")

    @cached_property
    def topics(self) -> Corpus:
        # Topics, words of each, common words, sentences, epochs.
        sizes = (50, 20, 1000, 10_000, 2) if self.quick else (400, 48, 36_000, 256_000, 1)
        return planted_topics(Path(self._folder.name), *sizes)

    @cached_property
    def text(self) -> Corpus:
        return real_text(Path(self._folder.name), 10 if self.quick else 20)

    @cache  # noqa: B019 - lives as long as the benchmark
    def peers_on_text(self, task: Task) -> list[Trained]:
        """With one thread each: several would take the text in another order, which has other neighbours."""
        return [train_gensim(self.text, task, seed) for seed in SEEDS]


@cache
def _corpora(quick: bool) -> Corpora:
    return Corpora(quick)


def gpu_backends(op: str, case: Case) -> list[str]:
    """The backends that serve a case on a GPU here, each to be measured by its name; none on the CPU."""
    if case.device.type != "cuda":
        return []
    reasons = refusals(
        op, ("cuda", "triton"), torch.empty(1, 1, dtype=case.dtype, device=case.device)
    )
    return [name for name, reason in reasons.items() if not (reason or unavailable(name))]


def comparisons(
    op: str, loss: str, goals: dict[tuple[str, int], float], options: Options
) -> Iterator[Comparison]:
    """Skip-gram and CBOW at each width and number of threads.

    Args:
        goals: times as fast as gensim with one thread, by architecture and width.
    """
    if torch.float32 not in options.dtypes:
        return
    sizes = options.sizes or (SIZES[:1] if options.quick else SIZES)
    if options.device.type != "cpu":
        yield from step_comparisons(op, loss, sizes, options)
        return
    corpora = _corpora(options.quick)
    for architecture in ("skip-gram", "cbow"):
        if options.series and architecture not in options.series:
            continue
        for width in sizes:
            task, goal = Task(architecture, loss, width), goals.get((architecture, width))
            for threads in options.threads:
                yield Comparison(
                    f"{architecture} {width}, {TRAINING}, threads: {threads}",
                    partial(compare, op, task, threads, goal, corpora),
                )


def step_comparisons(
    op: str, loss: str, sizes: Sequence[int], options: Options
) -> Iterator[Comparison]:
    """On a GPU: the training step on words that lie there, beside compiled PyTorch and one CPU thread."""
    for architecture in ("skip-gram", "cbow"):
        if options.series and architecture not in options.series:
            continue
        for width in sizes:
            task = Task(architecture, loss, width)
            yield Comparison(
                f"{architecture} {width}, {STEP}", partial(compare_steps, op, task, options)
            )


def compare_steps(op: str, task: Task, options: Options) -> list[Row]:
    """Rows of a million words each: ours for each backend and bound, then the peers."""
    topics = topics_of(*QUICK_TOPICS if options.quick else ())
    on_device = topics.to(options.device)
    backends = [n for n in ("cuda", "triton") if _serves(n, task, options.device)]
    asked = {"architecture": task.architecture, "losses": (task.loss,), "widths": (task.width,)}
    found = list(step_rates(on_device, backends=backends, **asked))
    ours, goals = found[0], {"pytorch": PYTORCH_GOAL, "ptmkernels, cpu": THREAD_GOAL}
    if task.architecture == "skip-gram":
        found += pytorch_rates(on_device, losses=asked["losses"], widths=asked["widths"])
    found += step_rates(topics, backends=("cpu",), **asked)
    return [_step_row(op, row, ours, goals.get(row["provider"])) for row in found]


def _serves(backend: str, task: Task, device: torch.device) -> bool:
    op = "cbow_step_" if task.architecture == "cbow" else "skipgram_step_"
    reason = refusals(op, (backend,), torch.empty(1, 1, device=device))[backend]
    return not (reason or unavailable(backend))


def _step_row(op: str, found: dict, ours: dict, goal: float | None) -> Row:
    """Its time is that of a million words."""
    device = torch.device(found["device"])
    bound = found.get("max_in_flight", f"batches of {found.get('batch')}")
    milliseconds = 1e9 / found["words_per_second"]
    row = Row(
        op=op, provider=f"{found['provider']}, {bound}", mode=STEP, series=found["architecture"],
        size=found["width"], shape=f"V={found['vocabulary']} words={found['words']}",
        dtype="float32", device=device.type, device_name=_environment.device_name(device),
        threads=1, status="ok", q20_ms=milliseconds, q50_ms=milliseconds, q80_ms=milliseconds,
        samples=1, speedup=ours["words_per_second"] / found["words_per_second"], goal=goal,
        quality=f"precision {found['precision']:.3f}, held-out loss {found['held_out_loss']:.4f}",
    )  # fmt: skip
    row.goal_met = None if goal is None else row.speedup >= goal
    return row


def counting_comparisons(op: str, options: Options) -> Iterator[Comparison]:
    """The counting of the words, which comes before every training."""
    if options.device.type != "cpu" or (options.series and COUNTING not in options.series):
        return
    corpora = _corpora(options.quick)
    for threads in options.threads:
        yield Comparison(
            f"{COUNTING}, threads: {threads}", partial(compare_counting, op, threads, corpora)
        )


def compare(op: str, task: Task, threads: int, goal: float | None, corpora: Corpora) -> list[Row]:
    """Trainings on the planted topics: gensim's, which takes long, and before and after it ours."""
    trained, alone = [], []
    for seed in SEEDS:
        trained.append(train(corpora.topics, task, seed, threads))
        if threads > 1:
            alone.append(train(corpora.topics, task, seed))
        if seed == SEEDS[0]:
            peer = train_gensim(corpora.topics, task, seed, threads)
    runs = {OURS: trained, PEER: [peer], **({ALONE: alone} if alone else {})}
    quality = _qualities(runs, task, threads, corpora)
    seconds = {name: [run.seconds for run in trained] for name, trained in runs.items()}
    line = (task.architecture, task.width)
    rows = [
        _row(op, n, TRAINING, line, threads, corpora.topics, seconds[n], str(quality.get(n, "")))
        for n in runs
    ]
    reason = quality[OURS].shortfall(quality[PEER])
    if reason:
        rows[0].status, rows[0].reason = "wrong", reason
        return rows
    for row, wanted in zip(rows[1:], (goal if threads == 1 else None, THREADS_GOAL), strict=False):
        _set_speedup(row, rows[0], wanted)
    return rows


def _qualities(
    runs: dict[str, list[Trained]], task: Task, threads: int, corpora: Corpora
) -> dict[str, Quality]:
    peers = corpora.peers_on_text(task)
    on_text = [train(corpora.text, task, seed, threads) for seed in SEEDS]
    overlap = {
        OURS: np.mean([neighbour_overlap(a, b) for a in on_text for b in peers]),
        PEER: neighbour_overlap(*peers),
    }
    return {
        name: Quality(
            float(np.mean([topic_precision(t) for t in runs[name]])),
            float(overlap[name]),
            float(np.mean([held_out_loss(t, corpora.topics, task) for t in runs[name]])),
        )
        for name in overlap
    }


def compare_counting(op: str, threads: int, corpora: Corpora) -> list[Row]:
    """Both count the words of the same file and leave out the rare ones; gensim does so with one thread."""
    corpus, task = corpora.topics, Task("cbow", "negative-sampling", 1)
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    for _ in range(5):
        start = time.perf_counter()
        ours = Vocabulary.count(corpus.path, MIN_COUNT, threads=threads)
        middle = time.perf_counter()
        gensim_model(task, corpus.path)
        seconds[OURS].append(middle - start)
        seconds[PEER].append(time.perf_counter() - middle)
    rows = [
        _row(op, name, COUNTING, (COUNTING, len(ours)), threads, corpus, seconds[name])
        for name in seconds
    ]
    if _counts(ours) != _counts(corpus.vocabulary):
        rows[0].status, rows[0].reason = "wrong", "the words or their counts are not gensim's"
    else:
        _set_speedup(rows[1], rows[0], COUNTING_GOAL)
    return rows


def _counts(vocabulary: Vocabulary) -> dict[str, int]:
    return dict(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True))


def _set_speedup(row: Row, ours: Row, goal: float | None) -> None:
    row.speedup, row.goal = row.q50_ms / ours.q50_ms, goal
    row.goal_met = None if goal is None else row.speedup >= goal


def _row(
    op: str, name: str, mode: str, line: tuple[str, int], threads: int, corpus: Corpus,
    seconds: list[float], quality: str = "",
) -> Row:  # fmt: skip
    """Args: line: series and size."""
    low, middle, high = (np.quantile(seconds, (0.2, 0.5, 0.8)) * 1e3).tolist()
    shape = f"V={len(corpus.vocabulary)} tokens={corpus.tokens}"
    return Row(
        op=op, provider=name, mode=mode, series=line[0], size=line[1], shape=shape, dtype="float32",
        device="cpu", device_name=_environment.device_name(torch.device("cpu")), threads=threads,
        status="ok", q20_ms=low, q50_ms=middle, q80_ms=high, samples=len(seconds), quality=quality,
    )  # fmt: skip
