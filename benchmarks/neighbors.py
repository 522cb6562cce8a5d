"""The nearest words, of one word and of a thousand, beside gensim's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np
import torch

from ptmkernels import _environment
from ptmkernels.benchmarks.harness import Benchmark, Comparison, Options
from ptmkernels.benchmarks.report import Row
from ptmkernels.models.shallow.vectors import WordVectors

OURS, PEER = "ptmkernels", "gensim"
QUERIES = (1, 1000)
WORDS, WIDTH, NEIGHBOURS = 200_000, 100, 10
QUICK_WORDS = 5_000
ROUNDS = {1: 30, 1000: 3}  # of each side, in turns
GOAL = 0.95  # times as fast as gensim: as fast but for noise, for one query is the time to read all vectors
TOLERANCE = 1e-5  # between cosines

Found = list[list[tuple[str, float]]]


@cache
def _both(size: int):
    """The same vectors, ours and gensim's."""
    from gensim.models import KeyedVectors

    words = [f"w{i}" for i in range(size)]
    vectors = np.random.default_rng(1).standard_normal((size, WIDTH)).astype(np.float32)
    peer = KeyedVectors(WIDTH)
    peer.add_vectors(words, vectors)
    return WordVectors(words, vectors), peer


def comparisons(options: Options) -> Iterator[Comparison]:
    """Each number of queries, on as many threads as NumPy takes."""
    if options.device.type != "cpu" or torch.float32 not in options.dtypes:
        return
    for queries in options.sizes or QUERIES:
        size = QUICK_WORDS if options.quick else WORDS
        yield Comparison(f"{queries} of {size} words", partial(compare, queries, size))


def compare(queries: int, size: int) -> list[Row]:
    """Both in turns; the neighbours and their cosines are compared, too."""
    ours, peer = _both(size)
    words = ours.words[:queries]
    calls: dict[str, Callable[[], Found]] = {
        OURS: lambda: (
            [ours.most_similar(words[0], count=NEIGHBOURS)]
            if queries == 1
            else ours.neighbors(words, NEIGHBOURS)
        ),
        PEER: lambda: [peer.most_similar(word, topn=NEIGHBOURS) for word in words],
    }
    answers = {name: call() for name, call in calls.items()}  # norms are made here
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS.get(queries, ROUNDS[QUERIES[-1]])):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    rows = [_row(name, queries, size, seconds[name]) for name in calls]
    if not _alike(answers[OURS], answers[PEER]):
        rows[0].status, rows[0].reason = "wrong", "the neighbours or their cosines are not gensim's"
        return rows
    rows[1].speedup, rows[1].goal = rows[1].q50_ms / rows[0].q50_ms, GOAL
    rows[1].goal_met = rows[1].speedup >= GOAL
    return rows


def _alike(ours: Found, peer: Found) -> bool:
    """Cosines that are equal but for round-off may stand in either order."""
    mine, other = (np.array([[cosine for _, cosine in found] for found in x]) for x in (ours, peer))
    same = [
        len({w for w, _ in a} ^ {w for w, _ in b}) <= 2 for a, b in zip(ours, peer, strict=True)
    ]
    return mine.shape == other.shape and np.allclose(mine, other, atol=TOLERANCE) and all(same)


def _row(name: str, queries: int, size: int, seconds: list[float]) -> Row:
    low, middle, high = (np.quantile(seconds, (0.2, 0.5, 0.8)) * 1e3).tolist()
    return Row(
        op="neighbors", provider=name, mode="search", series="words", size=queries,
        shape=f"V={size} D={WIDTH}", dtype="float32", device="cpu",
        device_name=_environment.device_name(torch.device("cpu")), threads=_environment.usable_cores(),
        status="ok", q20_ms=low, q50_ms=middle, q80_ms=high, samples=len(seconds),
    )  # fmt: skip


BENCHMARK = Benchmark(
    "neighbors",
    PEER,
    cases=lambda options: (),
    providers=lambda case, options: (),
    goal=lambda case, mode, provider: None,
    comparisons=comparisons,
)
