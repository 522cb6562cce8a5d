"""Gradients of relative keys and values in Triton: sums of ds and of the weights along diagonals.

    dr_row = scale sum_ij ds_ij (q_i + v)    drv_row = sum_ij a_ij do_i    over the pairs of that row

Each program owns BLOCK_R rows and walks over the tiles whose band meets them, turning each tile so that
its columns are those rows: the same sum in the same order on every run, nothing of size L x S. What lies
beyond the first and the last row is left to the row sums of `_backward_query`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_bias import score_gradient
from ptmkernels.ops.attention.triton_tile import Rows, Sizes, Terms, product, tile_run


@triton.jit
def _key_tiles(
    relative, ranges, ranges_batch, b, m, first_row, sizes,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """[first, last) of the key tiles that hold a pair of the rows and of query tile `m`."""
    i = tl.minimum(m * BLOCK_M + tl.arange(0, BLOCK_M), sizes.query_len - 1)
    position = i
    if relative.position is not None:
        position = tl.load(relative.position + b * relative.position_batch + i)
    first_key = first_row - relative.offset + tl.min(position, 0)
    last_key = first_row - relative.offset + BLOCK_R - 1 + tl.max(position, 0)
    first = tl.maximum(first_key, 0) // BLOCK_N
    last = tl.maximum(tl.minimum(last_key, sizes.key_len - 1) + BLOCK_N, 0) // BLOCK_N
    if ranges is not None:
        visited, _, _, visited_last = tile_run(ranges, ranges_batch, b, m)
        first, last = tl.maximum(first, visited), tl.minimum(last, visited_last)
    return first, last


@triton.jit
def _in_rows(tile, key, BLOCK_N: tl.constexpr):
    """(BM, BLOCK_R): the tile with each query's keys moved to their rows; `key` as `tile`'s columns."""
    inside = (key >= 0) & (key < BLOCK_N)
    return tl.where(inside, tl.gather(tile, key & (BLOCK_N - 1), 1), 0.0)


@triton.jit
def _relative_gradient(
    query: Rows,
    key: Rows,
    value: Rows,
    grad_output: Rows,
    row_terms,  # (2, B, H, L) float32 from `_backward_query`
    grad_key,  # (parts, H, R, HEAD_DIM) float32, or None
    sums,  # (parts, H, R) float32: of ds, or None
    grad_value,  # (parts, H, R, HEAD_DIM) float32, or None
    ranges,  # of the query tiles, or None
    ranges_batch,
    terms: Terms,
    sizes: Sizes,
    row_count,
    part_batch,  # batch rows of a part
    phase,  # (-offset) mod BLOCK_N: then a tile of successive queries meets the fewest blocks
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums of BLOCK_R rows over some batch rows, not yet scaled."""
    relative = terms.relative
    blocks = tl.cdiv(relative.last_row + 1 + phase, BLOCK_R)
    program = tl.program_id(0)
    first_row = program % blocks * BLOCK_R - phase
    h = (program // blocks % sizes.heads).to(tl.int64)
    part = program // blocks // sizes.heads
    first_b = part * part_batch
    batch = tl.minimum(sizes.batch - first_b, part_batch)
    query_tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    key_total = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    value_total = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    row_total = tl.zeros([BLOCK_R], tl.float32)
    for index in range(0, batch * query_tiles):
        m = index % query_tiles
        b = (first_b + index // query_tiles).to(tl.int64)
        first, last = _key_tiles(
            relative, ranges, ranges_batch, b, m, first_row, sizes, BLOCK_M, BLOCK_N, BLOCK_R
        )
        for n in range(first, last):
            weight, gradient, band, query_rows, grad_rows = score_gradient(
                b, h, m * BLOCK_M, n * BLOCK_N, query, key, value, grad_output, row_terms,
                row_count, terms, sizes, GROUP, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
            row = first_row + tl.arange(0, BLOCK_R)[None, :]
            column = row - band.start - band.shift - n * BLOCK_N
            if grad_key is not None:
                turned = _in_rows(gradient, column, BLOCK_N)
                row_total += tl.sum(turned, 0)
                turned = tl.trans(turned.to(query_rows.dtype))
                key_total = product(turned, query_rows, key_total, PRECISION)
            if grad_value is not None:
                turned = tl.trans(_in_rows(weight, column, BLOCK_N).to(grad_rows.dtype))
                value_total = product(turned, grad_rows, value_total, PRECISION)
    row = first_row + tl.arange(0, BLOCK_R)
    inside = (row >= 0) & (row <= relative.last_row)
    place = (part * sizes.heads + h) * (relative.last_row + 1) + row
    d = tl.arange(0, BLOCK_D)[None, :]
    cell = place[:, None] * HEAD_DIM + d
    inside_cell = inside[:, None] & (d < HEAD_DIM)
    if grad_key is not None:
        tl.store(grad_key + cell, key_total, mask=inside_cell)
        tl.store(sums + place, row_total, mask=inside)
    if grad_value is not None:
        tl.store(grad_value + cell, value_total, mask=inside_cell)
