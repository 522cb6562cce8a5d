"""The hierarchical softmax in Triton (Mikolov et al. 2013, equation 3): a program for each batch row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptmkernels.ops.triton_runtime import launch, on_device
from ptmkernels.ops.word_vectors.triton_rows import (
    Matrix,
    matrix,
    products,
    sigmoid,
    softplus,
    tile,
)
from ptmkernels.ops.word_vectors.triton_sums import sum_by_id, sum_by_row


@triton.jit
def _walk(
    loss,  # (B,) float32 or None
    coefficient,  # (B, T) float32 or None: d loss / d product
    nodes,  # (B, T) int64 or None, -1 beyond the end of a path
    hidden: Matrix,  # (B, D)
    weight: Matrix,  # (V - 1, D)
    target,  # (B,) int64
    offsets,  # (V + 1,) int64
    path,  # int32, inner node * 2 + code bit
    depth,  # T
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """loss = sum_t softplus(-x_t) along the path of the target, x_t = (1 - 2 code_t) h.v_t."""
    b = tl.program_id(0).to(tl.int64)
    word = tl.load(target + b)
    begin = tl.load(offsets + word)
    length = (tl.load(offsets + word + 1) - begin).to(tl.int32)
    total = 0.0
    for first in range(0, depth, BLOCK_O):
        t = first + tl.arange(0, BLOCK_O)
        inside = t < length
        entry = tl.load(path + begin + t, mask=inside, other=0)
        sign = tl.where((entry & 1) == 1, -1.0, 1.0)
        x = sign * products(hidden, b, weight, entry >> 1, inside, BLOCK_O, BLOCK_D)
        if loss is not None:
            total += tl.sum(tl.where(inside, softplus(-x), 0.0), 0)
        if coefficient is not None:
            place = b * depth + t
            tl.store(coefficient + place, -sign * sigmoid(-x), mask=inside)
            node = tl.where(inside, (entry >> 1).to(tl.int64), -1)
            tl.store(nodes + place, node, mask=t < depth)
    if loss is not None:
        tl.store(loss + b, total)


def _launch_walk(
    outputs: tuple[Tensor | None, ...], hidden, target, weight, offsets, path, depth: int
) -> None:
    blocks, warps = tile(depth, hidden.shape[1])
    arguments = (*outputs, matrix(hidden), matrix(weight), target, offsets, path, depth)
    if len(hidden):
        with on_device(hidden):
            launch(_walk, (len(hidden),), arguments, blocks, warps)


def hierarchical_softmax_forward(
    hidden: Tensor,
    target: Tensor,
    node_weight: Tensor,
    offsets: Tensor,
    path: Tensor,
    depth: int,
    sparse: bool,
) -> Tensor:
    """The op `triton_hierarchical_softmax_forward`; `sparse` is the autograd formula's."""
    loss = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    outputs = (loss, None, None)
    _launch_walk(outputs, hidden, target, node_weight, offsets, path, depth)
    return loss


def hierarchical_softmax_backward(
    grad: Tensor,
    hidden: Tensor,
    target: Tensor,
    node_weight: Tensor,
    offsets: Tensor,
    path: Tensor,
    depth: int,
    dense: bool,
) -> tuple[Tensor, Tensor]:
    """The op `triton_hierarchical_softmax_backward`; its sums have one order (`triton_sums`)."""
    shape, device = (len(hidden), depth), hidden.device
    coefficient = torch.empty(shape, dtype=torch.float32, device=device)
    nodes = torch.empty(shape, dtype=torch.int64, device=device)
    outputs = (None, coefficient, nodes)
    _launch_walk(outputs, hidden, target, node_weight, offsets, path, depth)
    grad_hidden = sum_by_row(grad, coefficient, nodes, node_weight)
    if not dense:
        return grad_hidden, grad.new_empty(0, 0)
    size = len(node_weight)
    return grad_hidden, sum_by_id(grad, coefficient, nodes, hidden, size, with_bias=False)[0]
