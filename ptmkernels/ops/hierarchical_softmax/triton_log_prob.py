"""The log-probabilities of all words in Triton: a launch for each depth of the tree, from the root down.

`HuffmanTree.descent` says which columns stand for an inner node and for what follows it: the nodes of a
depth share none, so their order does not matter and the sums have the same bits in each run.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptmkernels.ops.triton_runtime import launch, on_device
from ptmkernels.ops.word_vectors.triton_rows import sigmoid, softplus

BLOCK, WARPS = 512, 4


@triton.jit
def _places(steps, first, count, nodes, batch, BLOCK: tl.constexpr):
    """Of decision i mod count, steps `first` and on, in row i // count: its logit, its two columns."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b, step = i // count, first + i % count
    inside = b < batch
    node = tl.load(steps + 3 * step, mask=inside, other=0)
    zero = tl.load(steps + 3 * step + 1, mask=inside, other=0)
    one = tl.load(steps + 3 * step + 2, mask=inside, other=0)
    row = b * (nodes + 1)
    return b * nodes + node, row + zero, row + one, inside


@triton.jit(do_not_specialize=["first", "count", "nodes", "batch"])
def _descend(log_prob, logits, steps, first, count, nodes, batch, BLOCK: tl.constexpr):
    """log p of what follows each bit = log p of the node + log sigmoid(+-x)."""
    node, zero, one, inside = _places(steps, first, count, nodes, batch, BLOCK)
    x = tl.load(logits + node, mask=inside, other=0.0)
    reach = tl.load(log_prob + zero, mask=inside, other=0.0)
    tl.store(log_prob + zero, reach - softplus(-x), mask=inside)
    tl.store(log_prob + one, reach - softplus(x), mask=inside)


@triton.jit(do_not_specialize=["first", "count", "nodes", "batch"])
def _ascend(grad_logits, sums, logits, steps, first, count, nodes, batch, BLOCK: tl.constexpr):
    """d / d x = g_0 sigmoid(-x) - g_1 sigmoid(x), with g the sums over all words that follow a bit."""
    node, zero, one, inside = _places(steps, first, count, nodes, batch, BLOCK)
    x = tl.load(logits + node, mask=inside, other=0.0)
    on_zero = tl.load(sums + zero, mask=inside, other=0.0)
    on_one = tl.load(sums + one, mask=inside, other=0.0)
    tl.store(grad_logits + node, on_zero * sigmoid(-x) - on_one * sigmoid(x), mask=inside)
    tl.store(sums + zero, on_zero + on_one, mask=inside)


def _launch(kernel, outputs: tuple[Tensor, ...], logits, steps, levels, upwards: bool) -> None:
    """A launch for each depth; the depths' bounds are read from the CPU, so nothing waits for the GPU."""
    batch, nodes = logits.shape
    spans = list(pairwise(levels.tolist()))
    with on_device(logits):
        for first, end in reversed(spans) if upwards else spans:
            count = end - first
            arguments = (*outputs, logits, steps, first, count, nodes, batch)
            grid = (triton.cdiv(batch * count, BLOCK),)
            if batch:
                launch(kernel, grid, arguments, {"BLOCK": BLOCK}, WARPS)


def hierarchical_softmax_log_prob_forward(logits: Tensor, steps: Tensor, levels: Tensor) -> Tensor:
    log_prob = logits.new_zeros(logits.shape[0], logits.shape[1] + 1)
    _launch(_descend, (log_prob,), logits, steps, levels, upwards=False)
    return log_prob


def hierarchical_softmax_log_prob_backward(
    grad: Tensor, logits: Tensor, steps: Tensor, levels: Tensor
) -> Tensor:
    grad_logits = torch.empty_like(logits)
    _launch(_ascend, (grad_logits, grad.clone()), logits, steps, levels, upwards=True)
    return grad_logits
