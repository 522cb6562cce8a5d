"""The setups of the word-vector benchmarks: every provider computes the same; trainings make rows."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ptmkernels.benchmarks import harness, hierarchical_softmax, negative_sampling, word_vectors
from ptmkernels.benchmarks.harness import BOTH, FORWARD, Options
from ptmkernels.benchmarks.word_vector_quality import Task, planted_topics, real_text

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


class FakeCorpora(word_vectors.Corpora):
    """One small corpus for both, and peers without neighbours."""

    def __init__(self, folder):
        self.topics = self.text = planted_topics(folder, 4, 12, 30, 400, epochs=2)

    def peers_on_text(self, task):
        return [None, None]


@pytest.mark.parametrize("worse", [False, True])
def test_rows_of_a_training(tmp_path, monkeypatch, worse):
    pytest.importorskip("gensim")

    def ours(corpus, task, seed, threads=1):
        return SimpleNamespace(seconds=1.0 if threads == 2 else 1.8, loss=2.0 if worse else 1.0)

    def gensim(corpus, task, seed, threads):
        return SimpleNamespace(seconds=12.0, loss=1.0)

    monkeypatch.setattr(word_vectors, "train", ours)
    monkeypatch.setattr(word_vectors, "train_gensim", gensim)
    monkeypatch.setattr(word_vectors, "held_out_loss", lambda trained, *_: trained.loss)
    monkeypatch.setattr(word_vectors, "neighbour_overlap", lambda *_: 0.7)
    monkeypatch.setattr(word_vectors, "topic_precision", lambda *_: 1.0)
    task = Task("skip-gram", "negative-sampling", 8)
    rows = word_vectors.compare("negative_sampling", task, 2, 11.0, FakeCorpora(tmp_path))
    assert [r.provider for r in rows] == ["ptmkernels", "gensim", "ptmkernels, 1 thread"]
    first, peer, alone = rows
    if worse:
        assert (first.status, peer.speedup) == ("wrong", None)
        assert "held-out loss 2.0000, peer 1.0000" in first.reason
        return
    assert "held-out loss 1.0000" in first.quality
    assert (first.status, peer.speedup, peer.goal) == ("ok", 12.0, None)
    assert (alone.speedup, alone.goal, alone.goal_met) == (1.8, 1.5, True)


@pytest.mark.parametrize("wrong", [False, True])
def test_rows_of_counting(tmp_path, monkeypatch, wrong):
    pytest.importorskip("gensim")
    corpora = FakeCorpora(tmp_path)
    if wrong:
        corpora.topics.vocabulary.counts[3] += 1
    first, peer = word_vectors.compare_counting("negative_sampling", 2, corpora)
    if wrong:
        assert (first.status, peer.speedup) == ("wrong", None)
        return
    assert (first.status, peer.goal) == ("ok", 10.0)
    assert peer.speedup == pytest.approx(peer.q50_ms / first.q50_ms)


def test_trainings_are_judged_and_stamped(monkeypatch):
    """The whole of it, on a corpus of planted topics and the real text with little training."""
    pytest.importorskip("gensim")
    monkeypatch.setattr(
        word_vectors, "planted_topics", lambda folder, *_: planted_topics(folder, 8, 12, 90, 900, 2)
    )
    monkeypatch.setattr(word_vectors, "real_text", lambda folder, _: real_text(folder, 1))
    asked = Options(
        threads=(1,), series=("skip-gram",), sizes=(8,), dtypes=(torch.float32,), quick=True
    )
    (rows,) = harness.run(hierarchical_softmax.BENCHMARK, asked)
    assert [r.provider for r in rows] == ["ptmkernels", "gensim"]
    assert all("precision" in r.quality and r.versions for r in rows)
