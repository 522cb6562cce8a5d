"""Tables of more than 2**31 elements: offsets of rows need 64 bits. Memory is used for the touched rows."""

import pytest
import torch

from ptmkernels.ops import (
    AliasTable,
    cbow_step_,
    hierarchical_softmax_loss,
    negative_sampling_loss,
    skipgram_step_,
)
from ptmkernels.ops.hierarchical_softmax import HuffmanTree

WIDTH = 64
SIZE = 2**31 // WIDTH + 9  # rows; the last ones lie beyond 2**31 elements


def large(rows):
    """bfloat16 (rows, WIDTH) whose pages the system provides when they are touched."""
    try:
        return torch.empty(rows, WIDTH, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"no address space for {rows} rows: {error}")


def same_rows(small):
    """A table of SIZE rows whose first and last 4 are those of `small` (8, WIDTH)."""
    table = large(SIZE)
    table[:4], table[-4:] = small[:4], small[4:]
    return table


@pytest.fixture
def tables():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, WIDTH, generator=generator).bfloat16() for _ in range(2)]


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
def test_step(step, tables):
    tokens = torch.tensor([7, 6, 5, 7, 4, -1] * 5, dtype=torch.int32)
    far = torch.where(tokens < 0, tokens, tokens + SIZE - 8)
    options = {"window": 2, "learning_rate": 0.1, "seed": torch.tensor([3])}

    def run(weights, ids, size):
        # Every draw is word 0: threshold 0 and alias 0 in each cell.
        sampler = AliasTable(torch.zeros(size, dtype=torch.int64), torch.empty(size))
        step(*weights, ids, sampler=sampler, **options)

    expected = [t.clone() for t in tables]
    actual = [same_rows(t) for t in tables]
    run(expected, tokens, 8)
    run(actual, far, SIZE)
    for a, b, before in zip(actual, expected, tables, strict=True):
        assert not torch.equal(b, before)
        assert torch.equal(torch.cat([a[:4], a[-4:]]), b)


def test_losses(tables):
    weight, hidden = same_rows(tables[0]), tables[1].float()[:3].requires_grad_()
    target, negatives = torch.tensor([7, 6, 1]), torch.tensor([[5, 0], [7, 4], [2, 6]])
    far, far_negatives = (torch.where(t < 4, t, t + SIZE - 8) for t in (target, negatives))
    # Paths of word 0 alone, through the same nodes.
    path = torch.tensor([14, 3, 11], dtype=torch.int32)
    nodes = torch.where(path >> 1 < 4, path, path + 2 * (SIZE - 8))

    def tree(steps, size):
        offsets = torch.full((size + 2,), len(steps), dtype=torch.int64)
        offsets[0] = 0
        return HuffmanTree(offsets, steps)

    zeros = torch.zeros(3, dtype=torch.int64)
    for small, large in (
        (
            negative_sampling_loss(hidden, target, tables[0], negatives, reduction="sum"),
            negative_sampling_loss(
                hidden, far, weight, far_negatives, reduction="sum", sparse=True
            ),
        ),
        (
            hierarchical_softmax_loss(hidden, zeros, tables[0], tree(path, 8), reduction="sum"),
            hierarchical_softmax_loss(
                hidden, zeros, weight, tree(nodes, SIZE), reduction="sum", sparse=True
            ),
        ),
    ):
        torch.testing.assert_close(small, large)
        torch.testing.assert_close(*(torch.autograd.grad(loss, hidden) for loss in (small, large)))
