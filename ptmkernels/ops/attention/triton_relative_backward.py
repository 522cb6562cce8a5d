"""Gradients of the scores of a relative call in Triton: ds_ij and the weights a_ij of some query tiles.

With a_ij = exp(s_ij - lse_i) and delta_i = o_i.do_i - dlse_i (Dao 2023, algorithm 2):
    ds_ij = a_ij (do_i.(v_j + rv_row(i,j)) - delta_i)
Every gradient of the call is a sum of these times something that is given (`triton_relative_gradient`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_backward import _tile_gradient, store_bias_gradient
from ptmkernels.ops.attention.triton_band import first_parts
from ptmkernels.ops.attention.triton_piece import Piece, store_tile, store_zeros
from ptmkernels.ops.attention.triton_relative import (
    RowSums,
    add_value_gradient,
    load_band,
    raw_scores,
    row_sums,
    store_row_sums,
)
from ptmkernels.ops.attention.triton_row_terms import make_row_terms
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
def _gradient_step(
    tile, totals, kept, query, grad_output, lse, delta, grad_bias, sums, piece, key_start, key_row,
    value_start, value_row, b, h, i, queries, band, terms, sizes,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One key tile left in the piece; the sums of each query with it, and `kept`."""
    first_key = tile * BLOCK_N
    left = sizes.key_len - first_key
    offset = first_key.to(tl.int64)
    j = first_key + tl.arange(0, BLOCK_N)[None, :]
    key = load_rows(key_start + offset * key_row, key_row, left, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED)
    value = load_rows(
        value_start + offset * value_row, value_row, left, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED
    )
    raw, kept = raw_scores(
        kept, query, key, band, terms.relative, b, j, first_key, sizes, MASKED, True,
        HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    grad_weight = product(grad_output, tl.trans(value), None, PRECISION)
    grad_weight = add_value_gradient(
        grad_weight, grad_output, band, terms.relative, first_key,
        HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    keys = key_side(terms.mask, b, j, sizes) if MASKED else 0
    keep = 0
    if terms.dropout.seed is not None:
        keep = dropout_keep(terms.dropout, b, h, i, first_key, BLOCK_N)
    weight, grad_score = _tile_gradient(
        raw, grad_weight, b, h, i, j, queries, keys, lse, delta, keep, terms, sizes, MASKED
    )
    store_bias_gradient(grad_bias, grad_score, b, h, i, j, sizes)
    store_tile(piece, grad_score, weight, first_key)
    totals = row_sums(totals, grad_score, weight, sums, band, terms.relative, b, j, sizes, MASKED)
    return totals, kept


@triton.jit(do_not_specialize=["piece_first"])
def _score_gradients(
    query: Rows,
    key: Rows,
    value: Rows,
    output: Rows,
    grad_output: Rows,
    lse,  # (B, H, L) float32
    grad_lse,  # (B, H, L) float32 or None
    row_terms,  # (2, B, H, L) float32, written: lse to the base 2 and delta
    grad_bias,  # (B, H, L, S) for a bias of that shape whose gradient is asked for, or None
    sums: RowSums,
    piece: Piece,  # of the query tiles of the launch
    piece_first,
    ranges,
    ranges_batch,
    terms: Terms,
    sizes: Sizes,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    ALL_FULL: tl.constexpr,
    NEVER_FULL: tl.constexpr,
):
    """ds and the weights of some query tiles, and what the kernels that follow need of each query."""
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    program = piece_first + tl.program_id(0)
    tile = program % tiles
    h = (program // tiles % sizes.heads).to(tl.int64)
    b = (program // tiles // sizes.heads).to(tl.int64)
    first_query = tile * BLOCK_M
    left = sizes.query_len - first_query

    query_rows = load_rows(
        head_start(query, b, h, first_query), query.row, left, HEAD_DIM, BLOCK_M, BLOCK_D, True
    )
    grad_rows = load_rows(
        head_start(grad_output, b, h, first_query), grad_output.row, left,
        HEAD_DIM, BLOCK_M, BLOCK_D, True,
    )  # fmt: skip
    own = first_query + tl.arange(0, BLOCK_M)
    row_lse, delta = make_row_terms(
        output, grad_rows, lse, grad_lse, row_terms, b, h, first_query, sizes,
        HEAD_DIM, BLOCK_M, BLOCK_D, terms.bias.data is not None,
    )  # fmt: skip

    i = own[:, None]
    queries = query_side(terms.mask, b, i, sizes)
    band = load_band(terms.relative, b, h, first_query, sizes, BLOCK_M, BLOCK_N)
    key_start = head_start(key, b, h // GROUP, 0)
    value_start = head_start(value, b, h // GROUP, 0)
    if ranges is not None:
        first, full_first, full_last, last = tile_run(ranges, ranges_batch, b, tile)
    else:
        first, full_first = 0, 0
        full_last = 0 if NEVER_FULL else sizes.key_len // BLOCK_N
        last = tl.cdiv(sizes.key_len, BLOCK_N)
    none = tl.zeros([BLOCK_M], tl.float32)
    totals = RowSums((none, none), (none, none), (none, none))
    if ranges is not None:
        store_zeros(piece, 0, first, BLOCK_M, BLOCK_N)
        store_zeros(piece, last, tl.cdiv(sizes.key_len, BLOCK_N), BLOCK_M, BLOCK_N)
    SCORED: tl.constexpr = terms.relative.row_scores is not None
    if not ALL_FULL:
        for side in range(0, 2):  # the tiles before the full ones and those behind them
            begin = tl.where(side == 0, first, full_last)
            end = tl.where(side == 0, full_first, last)
            kept = first_parts(
                query_rows, band, terms.relative, begin * BLOCK_N, SCORED,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
            for mixed in range(begin, end):
                totals, kept = _gradient_step(
                    mixed, totals, kept,
                    query_rows, grad_rows, row_lse[:, None], delta[:, None], grad_bias, sums, piece,
                    key_start, key.row, value_start, value.row, b, h, i, queries, band, terms, sizes,
                    HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION, True,
                )  # fmt: skip
    if not NEVER_FULL:
        kept = first_parts(
            query_rows, band, terms.relative, full_first * BLOCK_N, SCORED,
            HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        for full in range(full_first, full_last):
            totals, kept = _gradient_step(
                full, totals, kept,
                query_rows, grad_rows, row_lse[:, None], delta[:, None], grad_bias, sums, piece,
                key_start, key.row, value_start, value.row, b, h, i, queries, band, terms, sizes,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION, False,
            )  # fmt: skip
    store_row_sums(totals, sums, b, h, own, sizes)
