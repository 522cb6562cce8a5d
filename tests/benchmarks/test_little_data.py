"""The rows of trainings with little data."""

import pytest
import torch

from ptmkernels.benchmarks import harness, little_data
from ptmkernels.benchmarks.harness import Options
from ptmkernels.benchmarks.word_vector_quality import Task

OPTIONS = Options(threads=(1,), sizes=(400,), dtypes=(torch.float32,), quick=True)


def test_rows(monkeypatch):
    pytest.importorskip("gensim")
    monkeypatch.setattr(little_data, "PRECISION_MARGIN", 1.0)
    groups = list(harness.run(little_data.BENCHMARK, OPTIONS))
    assert len(groups) == 4
    for rows in groups:
        assert [(r.provider, r.status, r.size) for r in rows] == [
            ("ptmkernels", "ok", 400),
            ("gensim", "ok", 400),
        ]
        assert all(r.quality.startswith("precision ") for r in rows)


@pytest.mark.parametrize(("ours", "status"), [(0.85, "ok"), (0.80, "wrong")])
def test_worse_than_gensim_is_wrong(ours, status, monkeypatch):
    pytest.importorskip("gensim")
    regime = little_data.Regime(20, 12, 300, sentences=300, length=20)
    found = iter((ours, 0.855))
    monkeypatch.setattr(little_data, "topic_precision", lambda trained: next(found))
    rows = little_data.compare(Task("cbow", "negative-sampling", 8), regime)
    assert rows[0].status == status
    assert (rows[1].speedup is None) == (status == "wrong")
