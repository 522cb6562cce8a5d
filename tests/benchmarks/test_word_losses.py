"""The setups of the word-vector benchmarks: every provider computes the same; trainings make rows."""

from dataclasses import replace

import pytest
import torch

from ptmkernels.benchmarks import harness, hierarchical_softmax, negative_sampling, word_vectors
from ptmkernels.benchmarks.harness import BOTH, FORWARD, Options
from ptmkernels.benchmarks.word_vectors import Corpora, Task

OPTIONS = Options(
    threads=(1,), series=("loss",), dtypes=(torch.float32,), modes=(FORWARD, BOTH), budget=0.0, quick=True
)  # fmt: skip


@pytest.mark.parametrize("module", [negative_sampling, hierarchical_softmax])
def test_ours_and_pytorch_agree(module, monkeypatch):
    monkeypatch.setattr(module, "BATCHES", (37,))
    monkeypatch.setattr(module, "VOCABULARY", 101)
    groups = list(harness.run(module.BENCHMARK, OPTIONS))
    assert [rows[0].mode for rows in groups] == [FORWARD, BOTH]
    for rows in groups:
        assert [(r.provider, r.status) for r in rows] == [("ptmkernels", "ok"), ("pytorch", "ok")]


@pytest.mark.parametrize("module", [negative_sampling, hierarchical_softmax])
def test_each_backend_of_a_gpu_has_its_row(module, monkeypatch):
    monkeypatch.setattr(module.word_vectors, "unavailable", lambda name: None)
    monkeypatch.setattr(
        module.word_vectors, "refusals", lambda *_: {"cuda": "no kernel", "triton": None}
    )
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    case = replace(next(module.cases(OPTIONS)), device=torch.device("cuda"))
    names = [provider.name for provider in module.providers(case, OPTIONS)]
    assert names == ["ptmkernels", "ptmkernels, triton", "pytorch"]


def test_comparisons_follow_the_options():
    asked = Options(threads=(1, 2), series=("cbow",), sizes=(7,), dtypes=(torch.float32,))
    names = [c.name for c in negative_sampling.BENCHMARK.comparisons(asked)]
    assert names == ["cbow 7, training, threads: 1", "cbow 7, training, threads: 2"]
    assert harness.count(negative_sampling.BENCHMARK, asked) == 2


@pytest.mark.parametrize("worse", [False, True])
def test_rows_of_a_training(tmp_path, monkeypatch, worse):
    pytest.importorskip("gensim")
    corpus = word_vectors.planted_topics(tmp_path, 4, 12, 30, 400, epochs=2)
    if worse:  # a peer that nobody reaches
        monkeypatch.setattr(
            word_vectors, "held_out_loss", lambda t, *_: t.seconds * 0 + next(losses)
        )
        losses = iter([2.0, 2.0, 1.0, 1.0])
    else:
        monkeypatch.setattr(word_vectors, "held_out_loss", lambda *_: 1.0)
        monkeypatch.setattr(word_vectors, "neighbour_overlap", lambda *_: 0.7)
        monkeypatch.setattr(word_vectors, "topic_precision", lambda *_: 1.0)
    task = Task("skip-gram", "negative-sampling", 8)
    rows = word_vectors.compare("negative_sampling", task, 2, 11.0, Corpora(corpus, corpus))
    assert [r.provider for r in rows] == ["ptmkernels", "gensim", "ptmkernels, 1 thread"]
    ours, gensim, alone = rows
    assert "held-out loss" in ours.quality
    if worse:
        assert (ours.status, gensim.speedup) == ("wrong", None)
        assert "held-out loss 2.0000, peer 1.0000" in ours.reason
        return
    assert gensim.speedup == pytest.approx(gensim.q50_ms / ours.q50_ms)
    assert (ours.status, gensim.goal, alone.goal) == ("ok", None, 1.5)
    assert alone.goal_met == (alone.speedup >= 1.5)
