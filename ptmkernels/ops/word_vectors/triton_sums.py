"""Gradients of the loss ops in Triton: sums of rows by batch row and by id, always in the same order.

With factors g_bo of batch row b and its o-th output, ids_bo the row of the weights that it is:
    grad_hidden_b = sum_o g_bo w[ids_bo]        grad_weight_v = sum over ids_bo = v of g_bo h_b
The second sum follows the sorted ids. Their runs of one id are cut at multiples of CHUNK, so that the most
frequent id is not one program's work: the first part of a run goes to the gradient, each later one to a row
of its own, and a second kernel adds those in order. No atomics, so that a gradient has the same bits in each
run. The id -1 marks places without an output.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptmkernels.ops.triton_runtime import launch, on_device
from ptmkernels.ops.word_vectors.triton_rows import Matrix, load_rows, matrix, tile

CHUNK = 64  # entries of one id that a program sums


@triton.jit
def _sum_by_row(
    out,  # (B, D) float32
    upstream,  # (B,) float32
    factor,  # (B, O) float32
    ids,  # (B, O) int64
    weight: Matrix,
    outputs,
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK_D
    total = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, outputs, BLOCK_O):
        o = start + tl.arange(0, BLOCK_O)
        id = tl.load(ids + b * outputs + o, mask=o < outputs, other=-1)
        g = tl.load(factor + b * outputs + o, mask=id >= 0, other=0.0)
        total += tl.sum(g[:, None] * load_rows(weight, id, id >= 0, first, BLOCK_D), 0)
    d = first + tl.arange(0, BLOCK_D)
    tl.store(out + b * weight.width + d, total * tl.load(upstream + b), mask=d < weight.width)


@triton.jit
def _store_sum(out, out_bias, row, width, first, total, bias, BLOCK_D: tl.constexpr):
    d = first + tl.arange(0, BLOCK_D)
    tl.store(out + row * width + d, total, mask=d < width)
    if out_bias is not None and first == 0:
        tl.store(out_bias + row, bias)


@triton.jit
def _sum_runs(
    out,  # (V, D) float32, zeros
    out_bias,  # (V,) float32, zeros, or None
    parts,  # (chunks, D) float32
    part_bias,  # (chunks,) float32 or None
    sorted_ids,  # (entries,) int64
    order,  # (entries,) int64: the place b * outputs + o of each
    factor,
    upstream,
    hidden: Matrix,
    entries,
    outputs,
    CHUNK: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program for each entry; it works if its entry is the first of its id or of its chunk."""
    p = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK_D
    id = tl.load(sorted_ids + p)
    begins = tl.load(sorted_ids + p - 1, mask=p > 0, other=-1) != id
    if (id >= 0) & (begins | (p % CHUNK == 0)):
        end = tl.minimum((p // CHUNK + 1) * CHUNK, entries)
        total = tl.zeros([BLOCK_D], tl.float32)
        bias = 0.0
        e = p + tl.arange(0, BLOCK_O)
        same = tl.load(sorted_ids + e, mask=e < end, other=-1) == id
        while tl.max(same.to(tl.int32), 0) > 0:
            place = tl.load(order + e, mask=same, other=0)
            b = place // outputs
            g = tl.load(factor + place, mask=same, other=0.0)
            g *= tl.load(upstream + b, mask=same, other=0.0)
            total += tl.sum(g[:, None] * load_rows(hidden, b, same, first, BLOCK_D), 0)
            bias += tl.sum(g, 0)
            e += BLOCK_O
            same = tl.load(sorted_ids + e, mask=e < end, other=-1) == id
        if begins:
            _store_sum(out, out_bias, id, hidden.width, first, total, bias, BLOCK_D)
        else:
            _store_sum(parts, part_bias, p // CHUNK, hidden.width, first, total, bias, BLOCK_D)


@triton.jit
def _goes_on(sorted_ids, chunk, id, CHUNK: tl.constexpr):
    """Whether `chunk` begins with a later part of the run of `id`."""
    p = chunk * CHUNK
    before = tl.load(sorted_ids + p - 1, mask=chunk > 0, other=-1)
    return (tl.load(sorted_ids + p) == id) & (before == id)


@triton.jit
def _add_parts(
    out,
    out_bias,
    parts: Matrix,
    part_bias,
    sorted_ids,
    chunks,
    CHUNK: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program for each chunk but the first; it works if the second part of a run begins there."""
    chunk = tl.program_id(0).to(tl.int64) + 1
    first = tl.program_id(1) * BLOCK_D
    id = tl.load(sorted_ids + chunk * CHUNK)
    second = _goes_on(sorted_ids, chunk, id, CHUNK)
    second = second & (_goes_on(sorted_ids, chunk - 1, id, CHUNK) == 0)
    if (id >= 0) & second:
        d = first + tl.arange(0, BLOCK_D)
        total = tl.load(out + id * parts.width + d, mask=d < parts.width, other=0.0)
        bias = 0.0
        if out_bias is not None:
            bias = tl.load(out_bias + id)
        c = chunk + tl.arange(0, BLOCK_O)
        same = tl.load(sorted_ids + c * CHUNK, mask=c < chunks, other=-1) == id
        while tl.max(same.to(tl.int32), 0) > 0:
            total += tl.sum(load_rows(parts, c, same, first, BLOCK_D), 0)
            if out_bias is not None:
                bias += tl.sum(tl.load(part_bias + c, mask=same, other=0.0), 0)
            c += BLOCK_O
            same = tl.load(sorted_ids + c * CHUNK, mask=c < chunks, other=-1) == id
        _store_sum(out, out_bias, id, parts.width, first, total, bias, BLOCK_D)


def sum_by_row(upstream: Tensor, factor: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
    """out_b = upstream_b sum_o factor_bo weight[ids_bo]: (B, D) float32.

    Args:
        upstream: (B,) float32.
        factor: (B, O) float32.
        ids: (B, O) int64, -1 where there is no output.
        weight: (V, D), its last stride 1.
    """
    (batch, outputs), width = ids.shape, weight.shape[1]
    out = torch.empty(batch, width, dtype=torch.float32, device=weight.device)
    if batch:
        blocks, warps = tile(outputs, width)
        grid = (batch, triton.cdiv(width, blocks["BLOCK_D"]))
        with on_device(weight):
            arguments = (out, upstream, factor, ids, matrix(weight), outputs)
            launch(_sum_by_row, grid, arguments, blocks, warps)
    return out


def sum_by_id(
    upstream: Tensor, factor: Tensor, ids: Tensor, hidden: Tensor, size: int, with_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """out_v = sum over ids_bo = v of upstream_b factor_bo hidden_b: (V, D) float32.

    Args:
        upstream, factor, ids: as :func:`sum_by_row`.
        hidden: (B, D), its last stride 1.
        size: V.
        with_bias: also return the sums of the factors alone, (V,) float32.
    """
    (batch, outputs), width = ids.shape, hidden.shape[1]
    float32 = {"dtype": torch.float32, "device": hidden.device}
    out = torch.zeros(size, width, **float32)
    out_bias = torch.zeros(size, **float32) if with_bias else None
    entries = batch * outputs
    if not entries:
        return out, out_bias
    sorted_ids, order = torch.sort(ids.view(-1), stable=True)
    chunks = triton.cdiv(entries, CHUNK)
    parts = torch.empty(chunks, width, **float32)
    part_bias = torch.empty(chunks, **float32) if with_bias else None
    blocks, warps = tile(8, width)
    columns, constants = triton.cdiv(width, blocks["BLOCK_D"]), {"CHUNK": CHUNK, **blocks}
    sums = (out, out_bias)
    with on_device(hidden):
        arguments = (sorted_ids, order, factor, upstream, matrix(hidden), entries, outputs)
        runs = (*sums, parts, part_bias, *arguments)
        launch(_sum_runs, (entries, columns), runs, constants, warps)
        if chunks > 1:
            arguments = (*sums, matrix(parts), part_bias, sorted_ids, chunks)
            launch(_add_parts, (chunks - 1, columns), arguments, constants, warps)
    return out, out_bias
