"""The rows of the search for neighbours, which are compared with gensim's."""

import torch

from ptmkernels.benchmarks import harness, neighbors
from ptmkernels.benchmarks.harness import Options
from ptmkernels.models.shallow.vectors import WordVectors

OPTIONS = Options(threads=(1,), dtypes=(torch.float32,), quick=True)


def test_rows(monkeypatch):
    monkeypatch.setattr(neighbors, "QUICK_WORDS", 300)
    monkeypatch.setattr(neighbors, "QUERIES", (1, 40))
    monkeypatch.setattr(neighbors, "ROUNDS", {1: 2, 40: 1})
    groups = list(harness.run(neighbors.BENCHMARK, OPTIONS))
    assert [[(r.provider, r.size, r.status) for r in rows] for rows in groups] == [
        [("ptmkernels", size, "ok"), ("gensim", size, "ok")] for size in (1, 40)
    ]
    assert all(rows[1].speedup > 0 for rows in groups)


def test_another_answer_is_no_time(monkeypatch):
    monkeypatch.setattr(
        WordVectors, "most_similar", lambda self, word, count: [("w1", 0.5)] * count
    )
    rows = neighbors.compare(1, 300)
    assert (rows[0].status, rows[1].speedup) == ("wrong", None)
