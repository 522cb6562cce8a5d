"""What only a GPU can show of the CUDA kernels of word vectors."""

import pytest
import torch

from ptmkernels.ops import (
    AliasTable,
    HuffmanTree,
    cbow_step_,
    hierarchical_softmax_loss,
    negative_sampling_loss,
    skipgram_step_,
)
from tests.backends import KERNELS
from tests.ops.word_vectors.test_steps import case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in KERNELS, reason="needs a GPU and the CUDA library"),
]
SIZE = 97


def losses(width, dtype, backend):
    """Loss and gradients of both ops."""
    generator = torch.Generator().manual_seed(1)
    counts = torch.arange(SIZE, 0, -1)
    hidden = torch.randn(300, width, generator=generator).cuda().to(dtype).requires_grad_()
    weight = torch.randn(SIZE, width, generator=generator).cuda().to(dtype).requires_grad_()
    target = torch.randint(SIZE, (300,), generator=generator).cuda()
    found = []
    for loss in (
        negative_sampling_loss(
            hidden, target, weight, sampler=AliasTable.from_counts(counts).to("cuda"),
            seed=torch.tensor([2**40 + 7], device="cuda"), backend=backend,
        ),
        hierarchical_softmax_loss(
            hidden, target, weight[1:], HuffmanTree.from_counts(counts).to("cuda"), backend=backend
        ),
    ):  # fmt: skip
        found += [loss, *torch.autograd.grad(loss, (hidden, weight))]
    return found


def check_losses(width, dtype, backend):
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if dtype == torch.bfloat16 else {}
    for one, two in zip(
        losses(width, dtype, backend), losses(width, dtype, "reference"), strict=True
    ):
        torch.testing.assert_close(one, two, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [41, 100])
def test_sanitizer_losses(width, dtype):
    check_losses(width, dtype, "cuda")


def test_gradients_are_the_same_in_every_run():
    for one, two in zip(*(losses(100, torch.float32, "cuda") for _ in range(2)), strict=True):
        assert torch.equal(one, two)


def train(step, tokens, matrices, device, **options):
    a, b = (m.clone().to(device) for m in matrices)
    seed = torch.tensor([77], device=device)
    statistics = step(a, b, tokens.to(device), window=3, learning_rate=0.05, seed=seed, **options)
    return a, b, statistics


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("width", [26, 100, 1024])
@pytest.mark.parametrize("tree", [False, True])
def test_sanitizer_steps(step, width, tree):
    """One warp's text without a word that comes again: nothing happens at the same time."""
    counts, _, (a, b) = case(vocabulary=SIZE, width=width)
    tokens = torch.arange(60, dtype=torch.int32)
    options = {"tree": HuffmanTree.from_counts(counts)} if tree else {
        "sampler": AliasTable.from_counts(counts)
    }  # fmt: skip
    matrices = [a, b[1:] if tree else b]
    on_device = {k: v.to("cuda") for k, v in options.items()}
    *expected, wanted = train(step, tokens, matrices, "cpu", backend="reference", **options)
    *actual, statistics = train(step, tokens, matrices, "cuda", backend="cuda", **on_device)
    for one, two in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.cpu(), two, rtol=1e-4, atol=1e-5)
    assert (statistics.pairs, statistics.words) == (wanted.pairs, wanted.words)


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_warps_train_every_pair_once(step, dtype):
    """And learn as much as one CPU thread does."""
    counts, tokens, matrices = case(vocabulary=500, tokens=60_000, width=100, dtype=dtype)
    options = {"total": 10**9}
    cpu = {"sampler": AliasTable.from_counts(counts), **options}
    cuda = {"sampler": AliasTable.from_counts(counts).to("cuda"), **options}
    *alone, one = train(step, tokens, matrices, "cpu", backend="cpu", **cpu)
    *together, many = train(step, tokens, matrices, "cuda", backend="cuda", **cuda)
    assert (one.pairs, one.words) == (many.pairs, many.words)
    again = [train(step, tokens, m, "cpu", **cpu)[2].loss for m in (alone, together)]
    assert again[1] == pytest.approx(again[0], rel=0.02)
