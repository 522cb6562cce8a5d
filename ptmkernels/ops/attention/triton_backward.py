"""Backward kernels of attention in Triton.

With a_ij = exp(s_ij - lse_i) and delta_i = o_i.do_i - dlse_i (Dao 2023, algorithm 2):
    dv_j = sum_i a_ij do_i    ds_ij = a_ij (do_i.v_j - delta_i)
    dq_i = scale sum_j ds_ij k_j    dk_j = scale sum_i ds_ij q_i    dbias_ij = ds_ij
The weights are recomputed from the log-sum-exp. `_backward_key` owns key tiles and has dk and dv in
registers. It can add its part of dq to float32 sums in memory: then every score is computed once, with five
products and one exponential, but the order of the additions, and with it the last bits, changes from run to
run. The deterministic form leaves dq to `_backward_query`, which owns query tiles and computes every score
again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_row_terms import make_row_terms
from ptmkernels.ops.attention.triton_tile import (
    Rows,
    Sizes,
    Terms,
    add_rows,
    dropout_keep,
    head_start,
    key_side,
    load_rows,
    mixed_tile,
    product,
    query_side,
    rows_in_all,
    store_rows,
    tile_run,
    tile_scores,
)


@triton.jit
def _tile_gradient(
    raw, grad_weight, b, h, i, j, queries, keys, lse, delta, keep, terms, sizes,
    MASKED: tl.constexpr,
):  # fmt: skip
    """The weights after dropout (not yet scaled by 1 / (1 - p)) and ds; shapes as `raw`.

    Args:
        grad_weight: do_i.v_j.
        lse: log-sum-exp to the base 2, but natural where there is a bias; +inf where the query saw
            nothing; shaped as `i`.
        keep: from `dropout_keep`, where there is dropout.
    """
    score = tile_scores(raw, b, h, i, j, queries, keys, terms, sizes, MASKED)
    if terms.bias.data is not None:
        # The scores of a large bias may be rounded otherwise than in the forward pass.
        weight = tl.exp2(tl.minimum(score - lse, 0.0) * terms.exponent)
    else:
        weight = tl.exp2(score * terms.exponent - lse)
    dropped = weight
    if terms.dropout.seed is not None:
        dropped = tl.where(keep, weight, 0.0)
        grad_weight = tl.where(keep, grad_weight * terms.dropout.scale, 0.0)
    return dropped, weight * (grad_weight - delta)


@triton.jit
def store_bias_gradient(grad_bias, grad_score, b, h, i, j, sizes):
    """Write one tile of ds, or its transpose, as the gradient of a bias (B, H, L, S)."""
    if grad_bias is not None:
        place = grad_bias + (b * sizes.heads + h) * sizes.query_len * sizes.key_len
        place = place + i.to(tl.int64) * sizes.key_len + j
        inside = (i < sizes.query_len) & (j < sizes.key_len)
        tl.store(place, grad_score.to(grad_bias.dtype.element_ty), mask=inside)


@triton.jit
def _query_step(
    tile, grad_query, query, grad_output, lse, delta, grad_bias, key_start, key_row,
    value_start, value_row, b, h, i, queries, terms, sizes,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`grad_query`, not yet scaled, with one key tile added."""
    first_key = tile * BLOCK_N
    left = sizes.key_len - first_key
    offset = first_key.to(tl.int64)
    j = first_key + tl.arange(0, BLOCK_N)[None, :]
    key = load_rows(key_start + offset * key_row, key_row, left, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED)
    value = load_rows(
        value_start + offset * value_row, value_row, left, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED
    )
    raw = product(query, tl.trans(key), None, PRECISION)
    grad_weight = product(grad_output, tl.trans(value), None, PRECISION)
    keys = key_side(terms.mask, b, j, sizes) if MASKED else 0
    keep = 0
    if terms.dropout.seed is not None:
        keep = dropout_keep(terms.dropout, b, h, i, first_key, BLOCK_N)
    _, grad_score = _tile_gradient(
        raw, grad_weight, b, h, i, j, queries, keys, lse, delta, keep, terms, sizes, MASKED
    )
    store_bias_gradient(grad_bias, grad_score, b, h, i, j, sizes)
    return product(grad_score.to(key.dtype), key, grad_query, PRECISION)


@triton.jit
def _backward_query(
    query: Rows,
    key: Rows,
    value: Rows,
    output: Rows,
    grad_output: Rows,
    grad_query: Rows,
    lse,  # (B, H, L) float32
    grad_lse,  # (B, H, L) float32 or None
    row_terms,  # (2, B, H, L) float32, written: lse as `_tile_gradient` has it and delta
    grad_bias,  # (B, H, L, S) for a bias of that shape whose gradient is asked for, or None
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
    """dq_i = scale sum_j ds_ij k_j, and the two numbers of each query that the other kernels need."""
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    program = tl.program_id(0)
    tile = tiles - 1 - program % tiles
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
    key_start = head_start(key, b, h // GROUP, 0)
    value_start = head_start(value, b, h // GROUP, 0)
    if ranges is not None:
        first, full_first, full_last, last = tile_run(ranges, ranges_batch, b, tile)
    else:
        first, full_first = 0, 0
        full_last = 0 if NEVER_FULL else sizes.key_len // BLOCK_N
        last = tl.cdiv(sizes.key_len, BLOCK_N)
    gradient = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if not ALL_FULL:
        for step in range(0, last - first - (full_last - full_first)):
            gradient = _query_step(
                mixed_tile(step, first, full_first, full_last), gradient,
                query_rows, grad_rows, row_lse[:, None], delta[:, None], grad_bias,
                key_start, key.row, value_start, value.row, b, h, i, queries, terms, sizes,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION, True,
            )  # fmt: skip
    if not NEVER_FULL:
        for full in range(full_first, full_last):
            gradient = _query_step(
                full, gradient,
                query_rows, grad_rows, row_lse[:, None], delta[:, None], grad_bias,
                key_start, key.row, value_start, value.row, b, h, i, queries, terms, sizes,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION, False,
            )  # fmt: skip
    store_rows(
        head_start(grad_query, b, h, first_query), grad_query.row, left, gradient * terms.scale,
        HEAD_DIM, BLOCK_M, BLOCK_D,
    )  # fmt: skip


@triton.jit
def _key_step(
    tile, state, key, value, query_start, query_row, grad_start, grad_row, row_terms, query_sums,
    grad_bias, b, h, j, first_key, keys, terms, sizes,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr, SUM_KEYS: tl.constexpr,
):  # fmt: skip
    """(grad_key, grad_value, sums of ds), not yet scaled, with one query tile added.

    The tile is transposed, keys by queries, so that the products that follow take it from registers.
    """
    grad_key, grad_value, key_sums = state
    first_query = tile * BLOCK_M
    left = sizes.query_len - first_query
    offset = first_query.to(tl.int64)
    own = first_query + tl.arange(0, BLOCK_M)
    i = own[None, :]
    query = load_rows(
        query_start + offset * query_row, query_row, left, HEAD_DIM, BLOCK_M, BLOCK_D, MASKED
    )
    grad_output = load_rows(
        grad_start + offset * grad_row, grad_row, left, HEAD_DIM, BLOCK_M, BLOCK_D, MASKED
    )
    first_row = (b * sizes.heads + h) * sizes.query_len
    place = row_terms + first_row + own
    row_count = rows_in_all(sizes)
    if MASKED:
        lse = tl.load(place, mask=own < sizes.query_len, other=float("inf"))
        delta = tl.load(place + row_count, mask=own < sizes.query_len, other=0.0)
        queries = query_side(terms.mask, b, i, sizes)
    else:
        lse = tl.load(place)
        delta = tl.load(place + row_count)
        queries = 0
    raw = product(key, tl.trans(query), None, PRECISION)
    grad_weight = product(value, tl.trans(grad_output), None, PRECISION)
    keep = 0
    if terms.dropout.seed is not None:
        keep = tl.trans(dropout_keep(terms.dropout, b, h, own[:, None], first_key, BLOCK_N))
    weight, grad_score = _tile_gradient(
        raw, grad_weight, b, h, i, j, queries, keys, lse[None, :], delta[None, :], keep,
        terms, sizes, MASKED,
    )  # fmt: skip
    grad_value = product(weight.to(grad_output.dtype), grad_output, grad_value, PRECISION)
    store_bias_gradient(grad_bias, grad_score, b, h, i, j, sizes)
    grad_score_low = grad_score.to(query.dtype)
    grad_key = product(grad_score_low, query, grad_key, PRECISION)
    if query_sums is not None:
        added = product(tl.trans(grad_score_low), key, None, PRECISION)
        start = query_sums + (first_row + first_query) * HEAD_DIM
        add_rows(start, HEAD_DIM, left, added, HEAD_DIM, BLOCK_M, BLOCK_D, MASKED)
    if SUM_KEYS:
        key_sums += tl.sum(grad_score, 1)
    return grad_key, grad_value, key_sums


@triton.jit
def _backward_key(
    query: Rows,
    key: Rows,
    value: Rows,
    grad_output: Rows,
    grad_key: Rows,
    grad_value: Rows,
    row_terms,  # (2, B, H, L) float32 from `_row_terms` or `_backward_query`
    key_sums,  # (B, H, S) float32 for the gradient of a bias of the keys, or None
    query_sums,  # (B, H, L, HEAD_DIM) float32 to which dq, not yet scaled, is added; or None
    grad_bias,  # (B, H, L, S) for a bias of that shape whose gradient is asked for, or None
    ranges,  # (B or 1, key tiles, 4) int32 from `_tile_ranges`, or None
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
    """dv_j = sum_i a_ij do_i and dk_j = scale sum_i ds_ij q_i, over the query heads of the group.

    With `query_sums` also dq_i = scale sum_j ds_ij k_j, in an order that differs from run to run.
    """
    tiles = tl.cdiv(sizes.key_len, BLOCK_N)
    program = tl.program_id(0)
    tile = program % tiles
    key_heads = sizes.heads // GROUP
    key_head = (program // tiles % key_heads).to(tl.int64)
    b = (program // tiles // key_heads).to(tl.int64)
    first_key = tile * BLOCK_N
    left = sizes.key_len - first_key
    j = first_key + tl.arange(0, BLOCK_N)[:, None]

    key_rows = load_rows(
        head_start(key, b, key_head, first_key), key.row, left, HEAD_DIM, BLOCK_N, BLOCK_D, True
    )
    value_rows = load_rows(
        head_start(value, b, key_head, first_key), value.row, left,
        HEAD_DIM, BLOCK_N, BLOCK_D, True,
    )  # fmt: skip
    keys = key_side(terms.mask, b, j, sizes)
    if ranges is not None:
        first, full_first, full_last, last = tile_run(ranges, ranges_batch, b, tile)
    else:
        first, full_first = 0, 0
        full_last = 0 if NEVER_FULL else sizes.query_len // BLOCK_M
        last = tl.cdiv(sizes.query_len, BLOCK_M)
    SUM_KEYS: tl.constexpr = key_sums is not None
    key_gradient = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    value_gradient = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for member in range(0, GROUP):
        h = key_head * GROUP + member
        query_start = head_start(query, b, h, 0)
        grad_start = head_start(grad_output, b, h, 0)
        state = (key_gradient, value_gradient, tl.zeros([BLOCK_N], tl.float32))
        if not ALL_FULL:
            for step in range(0, last - first - (full_last - full_first)):
                state = _key_step(
                    mixed_tile(step, first, full_first, full_last), state, key_rows, value_rows,
                    query_start, query.row, grad_start, grad_output.row, row_terms, query_sums,
                    grad_bias, b, h, j, first_key, keys, terms, sizes,
                    HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, True, SUM_KEYS,
                )  # fmt: skip
        if not NEVER_FULL:
            for full in range(full_first, full_last):
                state = _key_step(
                    full, state, key_rows, value_rows,
                    query_start, query.row, grad_start, grad_output.row, row_terms, query_sums,
                    grad_bias, b, h, j, first_key, keys, terms, sizes,
                    HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, False, SUM_KEYS,
                )  # fmt: skip
        key_gradient, value_gradient, sums = state
        if key_sums is not None:
            own = first_key + tl.arange(0, BLOCK_N)
            place = key_sums + (b * sizes.heads + h) * sizes.key_len + own
            tl.store(place, sums, mask=own < sizes.key_len)
    if terms.dropout.seed is not None:
        value_gradient = value_gradient * terms.dropout.scale
    store_rows(
        head_start(grad_key, b, key_head, first_key), grad_key.row, left,
        key_gradient * terms.scale, HEAD_DIM, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    store_rows(
        head_start(grad_value, b, key_head, first_key), grad_value.row, left, value_gradient,
        HEAD_DIM, BLOCK_N, BLOCK_D,
    )  # fmt: skip
