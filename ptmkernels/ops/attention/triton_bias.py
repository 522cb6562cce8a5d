"""Gradients of a shared bias in Triton: dbias sums ds over batch rows, heads or equal distances.

Each program owns one tile of the bias, or one block diagonal of distances, and adds up every tile of ds
that falls on it in registers: the same sum in the same order on every run, memory linear in L + S.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_backward import _tile_gradient
from ptmkernels.ops.attention.triton_relative import (
    add_value_gradient,
    load_band,
    raw_scores,
)
from ptmkernels.ops.attention.triton_tile import (
    Rows,
    Sizes,
    Terms,
    dropout_keep,
    head_start,
    key_side,
    load_rows,
    product,
    query_side,
    tile_run,
)


@triton.jit
def score_gradient(
    b, h, first_query, first_key, query, key, value, grad_output, row_terms, row_count, terms,
    sizes, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile computed anew: the weights after dropout, ds, the band of the queries, their q and do."""
    queries_left = sizes.query_len - first_query
    keys_left = sizes.key_len - first_key
    query_rows = load_rows(
        head_start(query, b, h, first_query), query.row, queries_left,
        HEAD_DIM, BLOCK_M, BLOCK_D, True,
    )  # fmt: skip
    grad_rows = load_rows(
        head_start(grad_output, b, h, first_query), grad_output.row, queries_left,
        HEAD_DIM, BLOCK_M, BLOCK_D, True,
    )  # fmt: skip
    key_rows = load_rows(
        head_start(key, b, h // GROUP, first_key), key.row, keys_left,
        HEAD_DIM, BLOCK_N, BLOCK_D, True,
    )  # fmt: skip
    value_rows = load_rows(
        head_start(value, b, h // GROUP, first_key), value.row, keys_left,
        HEAD_DIM, BLOCK_N, BLOCK_D, True,
    )  # fmt: skip
    own = first_query + tl.arange(0, BLOCK_M)
    place = row_terms + (b * sizes.heads + h) * sizes.query_len + own
    lse = tl.load(place, mask=own < sizes.query_len, other=float("inf"))
    delta = tl.load(place + row_count, mask=own < sizes.query_len, other=0.0)
    i = own[:, None]
    j = first_key + tl.arange(0, BLOCK_N)[None, :]
    band = load_band(terms.relative, b, h, first_query, sizes, BLOCK_M, BLOCK_N)
    raw, _ = raw_scores(
        0, query_rows, key_rows, band, terms.relative, b, j, first_key, sizes, True, False, False,
        HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    grad_weight = product(grad_rows, tl.trans(value_rows), None, PRECISION)
    grad_weight = add_value_gradient(
        grad_weight, grad_rows, band, terms.relative, first_key, False,
        HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    queries = query_side(terms.mask, b, i, sizes)
    keys = key_side(terms.mask, b, j, sizes)
    keep = 0
    if terms.dropout.seed is not None:
        keep = dropout_keep(terms.dropout, b, h, i, first_key, BLOCK_N)
    weight, gradient = _tile_gradient(
        raw, grad_weight, b, h, i, j, queries, keys, lse[:, None], delta[:, None], keep,
        terms, sizes, True,
    )  # fmt: skip
    return weight, gradient, band, query_rows, grad_rows


@triton.jit
def _sums_along_diagonals(tile, BLOCK: tl.constexpr):
    """Sums of tile[m, n] over equal n - m: for n - m = 0 ... BLOCK - 1, and for -BLOCK ... -1."""
    m = tl.arange(0, BLOCK)[:, None]
    n = tl.arange(0, BLOCK)[None, :]
    turned = tl.gather(tile, (m + n) % BLOCK, 1)
    right = m + n < BLOCK
    return tl.sum(tl.where(right, turned, 0.0), 0), tl.sum(tl.where(right, 0.0, turned), 0)


@triton.jit
def _bias_gradient(
    query: Rows,
    key: Rows,
    value: Rows,
    grad_output: Rows,
    row_terms,  # (2, B, H, L) float32 from `_backward_query`
    target,  # (kept B, kept H, L, S), or with BY_DISTANCE (H, diagonals, 2, BLOCK_M) float32
    ranges,  # of the query tiles, or None
    ranges_batch,
    terms: Terms,
    sizes: Sizes,
    row_count,
    summed_batch,  # batch rows that share the bias: B or 1
    summed_heads,  # heads that share it: H or 1
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    BY_DISTANCE: tl.constexpr,
):
    """dbias = sum of ds over the batch rows, heads and, with BY_DISTANCE, tiles that share it."""
    query_tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    key_tiles = tl.cdiv(sizes.key_len, BLOCK_N)
    own_tiles = query_tiles + key_tiles - 1 if BY_DISTANCE else query_tiles * key_tiles
    own = tl.program_id(0) % own_tiles
    kept = tl.program_id(0) // own_tiles
    kept_heads = sizes.heads // summed_heads
    first_b = (kept // kept_heads).to(tl.int64)
    first_h = (kept % kept_heads).to(tl.int64)
    if BY_DISTANCE:
        # The tiles (m, m + diagonal) of every batch row.
        diagonal = own - (query_tiles - 1)
        first_tile = tl.maximum(0, -diagonal)
        tiles = tl.minimum(query_tiles, key_tiles - diagonal) - first_tile
    else:
        diagonal = own % key_tiles - own // key_tiles
        first_tile = own // key_tiles
        tiles = 1
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for index in range(0, summed_batch * summed_heads * tiles):
        m = first_tile + index % tiles
        n = m + diagonal
        h = first_h + index // tiles % summed_heads
        b = first_b + index // tiles // summed_heads
        visited = True
        if ranges is not None:
            first, _, _, last = tile_run(ranges, ranges_batch, b, m)
            visited = (n >= first) & (n < last)
        if visited:
            total += score_gradient(
                b, h, m * BLOCK_M, n * BLOCK_N, query, key, value, grad_output, row_terms,
                row_count, terms, sizes, GROUP, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
            )[1]  # fmt: skip
    if BY_DISTANCE:
        right, left = _sums_along_diagonals(total, BLOCK_M)
        place = target + tl.program_id(0).to(tl.int64) * 2 * BLOCK_M + tl.arange(0, BLOCK_M)
        tl.store(place, right)
        tl.store(place + BLOCK_M, left)
    else:
        i = first_tile * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
        j = (first_tile + diagonal) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        inside = (i < sizes.query_len) & (j < sizes.key_len)
        place = target + kept.to(tl.int64) * sizes.query_len * sizes.key_len
        place = place + i.to(tl.int64) * sizes.key_len + j
        tl.store(place, total.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _bucket_sums(
    by_diagonal,  # (H, diagonals, 2, BLOCK) float32 from `_bias_gradient`
    bucket,  # (L + S - 1,) int32
    grad_table,  # (N, H)
    heads,
    query_len,
    key_len,
    BLOCK: tl.constexpr,
):
    """dtable[n, h] = sum of ds over the distances whose bucket is n; one program for each (n, h).

    The distances of a block meet in two halves: the right one of a block diagonal and the left one of
    the next.
    """
    h = tl.program_id(0) % heads
    n = tl.program_id(0) // heads
    query_tiles = tl.cdiv(query_len, BLOCK)
    diagonals = query_tiles + tl.cdiv(key_len, BLOCK) - 1
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for chunk in range(0, diagonals + 1):
        row = by_diagonal + (h * diagonals + chunk).to(tl.int64) * 2 * BLOCK + lane
        left = tl.load(row + BLOCK, mask=(chunk < diagonals) & (lane >= 0), other=0.0)
        right = tl.load(row - 2 * BLOCK, mask=(chunk > 0) & (lane >= 0), other=0.0)
        index = (chunk - query_tiles) * BLOCK + lane + query_len - 1
        inside = (index >= 0) & (index < query_len + key_len - 1)
        here = tl.load(bucket + index, mask=inside, other=-1) == n
        total += tl.where(here, left + right, 0.0)
    place = grad_table + n * heads + h
    tl.store(place, tl.sum(total, 0).to(grad_table.dtype.element_ty))
