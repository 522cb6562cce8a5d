"""The rates of the training step: every provider trains the same text, and its vectors are judged."""

import pytest
import torch

from ptmkernels.benchmarks import word_vector_steps, word_vectors
from ptmkernels.benchmarks.harness import Options
from ptmkernels.benchmarks.planted_topics import held_out_loss, plant, topic_precision
from ptmkernels.benchmarks.word_vector_batches import Noise, Paths, pairs_of, sgd_step
from ptmkernels.benchmarks.word_vector_quality import Task
from ptmkernels.benchmarks.word_vector_steps import LOSSES, pytorch_rates, step_rates
from ptmkernels.ops import AliasTable, HuffmanTree


def test_rows_of_the_cpu_and_of_pytorch_learn_the_topics():
    topics = plant(6, 12, 60, 3000)
    rows = [
        *step_rates(topics, losses=LOSSES[:1], widths=(16,), backends=("cpu",)),
        *pytorch_rates(topics, losses=LOSSES[:1], widths=(16,), batch=128, compiled=False),
    ]
    assert [row["provider"] for row in rows] == ["ptmkernels, cpu", "pytorch"]
    for row in rows:
        assert row["words_per_second"] > 0
        assert row["precision"] > 0.5, row  # 0.15 by chance
    assert rows[1]["held_out_loss"] == pytest.approx(rows[0]["held_out_loss"], rel=0.1)


def test_a_row_for_each_loss_and_width():
    topics = plant(4, 12, 30, 20)
    rows = list(step_rates(topics, architecture="cbow", widths=(4, 5), backends=("cpu",)))
    assert [(r["loss"], r["width"]) for r in rows] == [(x, w) for x in LOSSES for w in (4, 5)]
    assert {r["max_in_flight"] for r in rows} == {"1 thread"}
    rows = list(pytorch_rates(topics, widths=(4,), batch=32, compiled=False))
    assert [r["loss"] for r in rows] == list(LOSSES)


@pytest.mark.interpreted
def test_each_bound_has_a_row():
    topics = plant(4, 12, 30, 3)
    bounds = (None, 2, word_vector_steps.UNBOUNDED)
    rows = step_rates(topics, losses=LOSSES[:1], widths=(4,), backends=("triton",), bounds=bounds)
    default, *rest = [r["max_in_flight"] for r in rows]
    assert default.startswith("default: ")
    assert rest == ["2", "unbounded"]


def test_the_plain_step_is_gradient_descent():
    """Against autograd, for the noise and for paths of different lengths."""
    topics = plant(4, 12, 30, 20)
    size = len(topics.counts)
    context, centre = (t[:40] for t in pairs_of(topics, 3))
    tree = HuffmanTree.from_counts(topics.counts)
    for scored, rows in ((Noise(topics, 3), size), (Paths(tree), size - 1)):
        a, b = (torch.randn(n, 5, dtype=torch.float64).requires_grad_() for n in (size, rows))
        ids, label, weight = scored.of(centre)
        score = torch.einsum("bnd,bd->bn", b[ids], a[context])
        sign = 2 * label - 1
        loss = -(weight * torch.nn.functional.logsigmoid(sign * score)).sum()
        expected = [
            m - 0.1 * g for m, g in zip((a, b), torch.autograd.grad(loss, (a, b)), strict=True)
        ]
        a, b = (m.detach().clone() for m in (a, b))
        sgd_step(a, b, context, ids, label.double(), weight.double(), torch.tensor(0.1))
        torch.testing.assert_close(a, expected[0])
        torch.testing.assert_close(b, expected[1])


def test_pairs_stay_within_sentences_and_reach():
    topics = plant(4, 12, 30, 50)
    context, centre = pairs_of(topics, 2)
    sentences = topics.tokens.view(-1, 21)[:, :-1]
    allowed = set()
    for distance in range(1, 20):  # sub-sampling brings words nearer to each other
        left, right = sentences[:, :-distance], sentences[:, distance:]
        allowed |= set(zip(left.flatten().tolist(), right.flatten().tolist(), strict=True))
    pairs = set(zip(context.tolist(), centre.tolist(), strict=True))
    assert pairs <= allowed | {(b, a) for a, b in allowed}
    assert len(context) > 50


def test_measures_of_planted_topics():
    topics = plant(5, 12, 30, 400)
    size = len(topics.counts)
    assert (topics.counts[1:] <= topics.counts[:-1]).all()
    assert (
        torch.bincount(topics.tokens[topics.tokens >= 0].long(), minlength=size) == topics.counts
    ).all()
    perfect = torch.nn.functional.one_hot(topics.topic + 1).float()
    assert topic_precision(perfect, topics.topic) == 1
    assert topic_precision(torch.randn(size, 8), topics.topic) < 0.4
    a, b = torch.randn(size, 6), torch.zeros(size, 6)
    log2 = torch.tensor(2.0).log().item()
    for cbow in (False, True):
        options = {"cbow": cbow, "window": 3, "sampler": AliasTable.from_counts(topics.counts)}
        loss = held_out_loss(a, b, topics.held_out, **options)
        assert 5.5 * log2 < loss <= 6 * log2 + 1e-5


def test_rows_of_a_gpu_have_a_ratio_to_each_peer(monkeypatch):
    """As on a GPU, by the CPU."""
    topics = plant(4, 12, 30, 40)
    monkeypatch.setattr(word_vectors, "topics_of", lambda *_: topics)
    monkeypatch.setattr(word_vectors, "_serves", lambda name, *_: name == "cuda")

    def rates(topics, *, backends, **asked):
        for row in step_rates(topics, **asked, backends=("cpu",)):
            yield row | {"provider": f"ptmkernels, {backends[0]}", "words_per_second": 1000.0}

    def pytorch(topics, **asked):
        for row in pytorch_rates(topics, **asked, compiled=False, batch=32):
            yield row | {"words_per_second": 50.0}

    monkeypatch.setattr(word_vectors, "step_rates", rates)
    monkeypatch.setattr(word_vectors, "pytorch_rates", pytorch)
    task = Task("skip-gram", "negative-sampling", 4)
    ours, peer, thread = word_vectors.compare_steps("negative_sampling", task, Options())
    assert (ours.provider, ours.goal, ours.q50_ms) == ("ptmkernels, cuda, 1 thread", None, 1e6)
    assert (peer.provider, peer.speedup, peer.goal_met) == ("pytorch, batches of 32", 20.0, True)
    assert (thread.speedup, thread.goal, thread.goal_met) == (1.0, 20.0, False)
    assert "precision" in peer.quality


def test_a_gpu_compares_steps():
    options = Options(device=torch.device("cuda"), sizes=(8,), series=("cbow",))
    (found,) = word_vectors.comparisons("hierarchical_softmax", "hierarchical-softmax", {}, options)
    assert found.name == "cbow 8, training step"
