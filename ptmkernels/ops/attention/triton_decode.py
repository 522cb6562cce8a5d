"""Attention of few queries over many keys (cached generation), split over the keys, in Triton.

A program takes one span of the keys of one key head for all query heads and queries that read it; a
second kernel joins the spans by their maxima and sums (Dao et al., "Flash-Decoding", 2023, who join them by
their log-sum-exp, which a large bias leaves without digits for the sum).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_kernels import _finish, _softmax_step
from ptmkernels.ops.attention.triton_relative import load_band
from ptmkernels.ops.attention.triton_tile import NO_SCORE, Rows, Sizes, Terms, query_side


@triton.jit
def _seen_span(mask, b, queries, first_key, last_key, CHUNK: tl.constexpr):
    """The part of [first_key, last_key) outside of which the intervals hide every key."""
    low, high = tl.min(queries.low), tl.max(queries.high)
    begin, end = last_key, first_key
    for chunk in range(first_key, last_key, CHUNK):
        j = chunk + tl.arange(0, CHUNK)
        inside = j < last_key
        rank = tl.load(mask.rank + b * mask.rank_batch + j, mask=inside, other=0)
        seen = inside & (low <= rank) & (rank <= high)
        begin = tl.minimum(begin, tl.min(tl.where(seen, j, last_key), 0))
        end = tl.maximum(end, tl.max(tl.where(seen, j + 1, first_key), 0))
    return begin, end


@triton.jit
def _decode(
    query: Rows,
    key: Rows,
    value: Rows,
    output: Rows,  # the result, or one part for each span
    lse: Rows,  # the log-sum-exp, or the largest score of each span
    totals,  # sums of exp(score - largest), as `lse` lies; None for one span
    output_span,
    lse_span,  # strides from span to span
    terms: Terms,
    sizes: Sizes,
    spans,
    span_len,  # keys in a span, a multiple of BLOCK_N
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Softmax attention of GROUP * L rows, row g * L + i being query i of the g-th head of the group."""
    program = tl.program_id(0)
    span = program % spans
    key_heads = sizes.heads // GROUP
    key_head = (program // spans % key_heads).to(tl.int64)
    b = (program // spans // key_heads).to(tl.int64)
    r = tl.arange(0, BLOCK_ROWS)[:, None]
    inside = r < GROUP * sizes.query_len
    i = r % sizes.query_len
    h = key_head * GROUP + tl.minimum(r // sizes.query_len, GROUP - 1)

    d = tl.arange(0, BLOCK_D)[None, :]
    rows = query.data + b * query.batch + h * query.head + i.to(tl.int64) * query.row
    query_rows = tl.load(rows + d, mask=inside & (d < HEAD_DIM), other=0.0)
    queries = query_side(terms.mask, b, i, sizes)
    # With relative terms GROUP is 1: all rows are of one head.
    band = load_band(terms.relative, b, key_head, 0, sizes, BLOCK_ROWS, BLOCK_N)
    first_key = span * span_len
    last_key = tl.minimum(first_key + span_len, sizes.key_len)
    if terms.mask.rank is not None:
        first_key, last_key = _seen_span(terms.mask, b, queries, first_key, last_key, CHUNK)

    state = (
        tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32),
        tl.zeros([BLOCK_ROWS], tl.float32),
        tl.full([BLOCK_ROWS], NO_SCORE, tl.float32),
    )
    key_start = key.data + b * key.batch + key_head * key.head
    value_start = value.data + b * value.batch + key_head * value.head
    for tile in range(first_key // BLOCK_N, tl.cdiv(last_key, BLOCK_N)):
        state, _ = _softmax_step(
            tile, state, 0, query_rows, key_start, key.row, value_start, value.row,
            b, h, i, queries, band, terms, sizes, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION, True,
        )  # fmt: skip
    result, log_sum, top = _finish(state[0], state[1], state[2], terms)
    target = output.data + span.to(tl.int64) * output_span
    target = target + b * output.batch + h * output.head + i.to(tl.int64) * output.row
    tl.store(target + d, result.to(output.data.dtype.element_ty), mask=inside & (d < HEAD_DIM))
    place = span.to(tl.int64) * lse_span
    place = place + b * lse.batch + h * lse.head + i.to(tl.int64) * lse.row
    if totals is None:
        tl.store(lse.data + place, log_sum[:, None], mask=inside)
    else:
        tl.store(lse.data + place, top[:, None], mask=inside)
        tl.store(totals + place, state[1][:, None], mask=inside)


@triton.jit
def _combine(
    parts,  # (rows, spans, HEAD_DIM) float32
    part_top,  # (rows, spans) float32: the largest score, -inf where a span saw nothing
    part_total,  # (rows, spans) float32: sum of exp(score - largest)
    output,  # (rows, HEAD_DIM)
    lse,  # (rows,) float32
    spans,
    HEAD_DIM: tl.constexpr,
    BLOCK_SPANS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """o = sum_s w_s o_s / sum_s w_s with w_s = total_s exp(top_s - max top); one program for each row."""
    row = tl.program_id(0).to(tl.int64)
    span = tl.arange(0, BLOCK_SPANS)
    d = tl.arange(0, BLOCK_D)[None, :]
    tops = tl.load(part_top + row * spans + span, mask=span < spans, other=float("-inf"))
    totals = tl.load(part_total + row * spans + span, mask=span < spans, other=0.0)
    top = tl.maximum(tl.max(tops, 0), NO_SCORE)
    weight = tl.exp(tops - top) * totals
    total = tl.sum(weight, 0)
    place = parts + (row * spans + span[:, None]) * HEAD_DIM + d
    part = tl.load(place, mask=(span[:, None] < spans) & (d < HEAD_DIM), other=0.0)
    result = tl.sum(part * weight[:, None], 0) / tl.where(total > 0.0, total, 1.0)
    d = tl.arange(0, BLOCK_D)
    target = output + row * HEAD_DIM + d
    tl.store(target, result.to(output.dtype.element_ty), mask=d < HEAD_DIM)
    log_sum = tl.where(total > 0.0, top + tl.log(total), float("-inf"))
    tl.store(lse + row, log_sum)
