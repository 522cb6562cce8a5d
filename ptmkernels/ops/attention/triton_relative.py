"""The terms of distance and segment in a tile of scores, as device functions of the attention kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_band import (
    COLUMNS,
    PARTS,
    Band,
    load_positions,
    next_position_scores,
    ones,
    position_scores,
)
from ptmkernels.ops.attention.triton_tile import Rows, head_start, load_rows, product


@triton.jit
def load_band(
    relative, b, h, first_query, sizes, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """The `Band` of queries first_query, ... of head (b, h)."""
    key, value, row_scores, key_scores, start, shift, chunks = 0, 0, 0, 0, 0, 0, 0
    same, differ, segment = 0, 0, 0
    i = first_query + tl.arange(0, BLOCK_M)[:, None]
    if relative.key is not None:
        key = head_start(relative.key, b, h, 0)
        start, shift, chunks = load_positions(relative, b, first_query, sizes, BLOCK_M, BLOCK_N)
    if relative.row_scores is not None:
        row_scores = relative.row_scores + b * relative.row_batch
        row_scores += h * (relative.last_row + 1) * COLUMNS
    if relative.key_scores is not None:
        key_scores = relative.key_scores + (b * sizes.heads + h) * sizes.key_len * COLUMNS
    if relative.value is not None:
        value = head_start(relative.value, b, h, 0)
    if relative.segment_scores is not None:
        inside = i < sizes.query_len
        scores = relative.segment_scores + (b * sizes.heads + h) * sizes.query_len + i
        same = tl.load(scores, mask=inside, other=0.0)
        scores += tl.cast(sizes.batch, tl.int64) * sizes.heads * sizes.query_len
        differ = tl.load(scores, mask=inside, other=0.0)
        place = relative.query_segment + b * relative.query_segment_batch + i
        segment = tl.load(place, mask=inside, other=0)
    return Band(key, value, row_scores, key_scores, start, shift, chunks, same, differ, segment)


@triton.jit
def same_segment(band, relative, b, j, sizes, MASKED: tl.constexpr):
    """Whether the query and the key of a pair have the same segment; `j` (1, BN)."""
    place = relative.key_segment + b * relative.key_segment_batch + j
    if MASKED:
        return band.segment == tl.load(place, mask=j < sizes.key_len, other=0)
    return band.segment == tl.load(place)


@triton.jit
def raw_scores(
    kept, query, key, band, relative, b, j, first_key, sizes,
    MASKED: tl.constexpr, TRANSPOSED: tl.constexpr, NEXT: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """q_i.k_j, or its transpose, with the relative terms, and what a loop over the keys keeps.

    Args:
        kept: with NEXT, from `first_parts` or the tile of keys before.
        j: (1, BN) in either case.
    """
    raw = None
    if relative.key is not None:
        SCORED: tl.constexpr = relative.row_scores is not None
        if NEXT:
            raw, kept = next_position_scores(
                kept, query, band, relative, first_key, SCORED,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
        else:
            raw = position_scores(
                query, band.key, relative.key.row, band, relative, first_key, SCORED,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
        if TRANSPOSED:
            raw = tl.trans(raw)
    if TRANSPOSED:
        raw = product(key, tl.trans(query), raw, PRECISION)
    else:
        raw = product(query, tl.trans(key), raw, PRECISION)
    if relative.key_scores is not None:
        added = load_rows(
            band.key_scores + first_key * COLUMNS, COLUMNS, sizes.key_len - first_key,
            COLUMNS, BLOCK_N, COLUMNS, MASKED,
        )  # fmt: skip
        if TRANSPOSED:
            raw = product(added, tl.trans(ones(query.shape[0])), raw, PRECISION)
        else:
            raw = product(ones(query.shape[0]), tl.trans(added), raw, PRECISION)
    if relative.segment_scores is not None:
        same = same_segment(band, relative, b, j, sizes, MASKED)
        added = tl.where(same, band.same, band.differ)
        raw += tl.trans(added) if TRANSPOSED else added
    return raw, kept


@triton.jit
def add_value_gradient(
    grad_weight, grad_output, band, relative, first_key, TRANSPOSED: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """do_i.v_j, or its transpose, with do_i.rv_row(i,j)."""
    if relative.value is not None:
        added = position_scores(
            grad_output, band.value, relative.value.row, band, relative, first_key, False,
            HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        grad_weight += tl.trans(added) if TRANSPOSED else added
    return grad_weight


@triton.jit
def _row_products(
    rows: Rows,  # (B, H / GROUP, N, HEAD_DIM)
    vector,  # (H, HEAD_DIM)
    addend,  # (H, HEAD_DIM) or None
    products,  # (B, H, N) float32, or with SPLIT (B, H, N, COLUMNS) bfloat16, written
    heads,
    count,  # N
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(row + addend_h) . vector_h for every row of every head; with SPLIT as numbers whose sum it is."""
    blocks = tl.cdiv(count, BLOCK)
    program = tl.program_id(0)
    first = program % blocks * BLOCK
    h = (program // blocks % heads).to(tl.int64)
    b = (program // blocks // heads).to(tl.int64)
    start = head_start(rows, b, h // GROUP, first)
    tile = load_rows(start, rows.row, count - first, HEAD_DIM, BLOCK, BLOCK_D, True).to(tl.float32)
    d = tl.arange(0, BLOCK_D)
    if addend is not None:
        added = tl.load(addend + h * HEAD_DIM + d, mask=d < HEAD_DIM, other=0.0)
        tile += added.to(tl.float32)[None, :]
    factor = tl.load(vector + h * HEAD_DIM + d, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
    n = first + tl.arange(0, BLOCK)
    place = (b * heads + h) * count + n
    value = tl.sum(tile * factor[None, :], 1)
    if SPLIT:
        column = tl.arange(0, COLUMNS)[None, :]
        parts = tl.zeros([BLOCK, COLUMNS], tl.bfloat16)
        for part in tl.static_range(PARTS):
            rounded = value.to(tl.bfloat16)
            parts = tl.where(column == part, rounded[:, None], parts)
            value -= rounded.to(tl.float32)
        tl.store(products + place[:, None] * COLUMNS + column, parts, mask=(n < count)[:, None])
    else:
        tl.store(products + place, value, mask=n < count)


@triton.jit
def add_content_bias(grad_key, sums, relative, h, HEAD_DIM: tl.constexpr):
    """dk with u's share, not yet scaled: (sum_i ds_ij) u."""
    if relative.content_bias is not None:
        d = tl.arange(0, grad_key.shape[1])
        bias = tl.load(relative.content_bias + h * HEAD_DIM + d, mask=d < HEAD_DIM, other=0.0)
        grad_key += sums[:, None] * bias.to(tl.float32)[None, :]
    return grad_key


class RowSums(NamedTuple):
    """What each query gives to gradients that many pairs share.

    As an argument of a kernel three (2, B, H, L) float32 tensors to write, each None where it is not
    asked for; inside of it pairs of (BM,) sums.
    """

    key_ends: Any  # of ds, over the keys before the first row of r and over those behind the last
    value_ends: Any  # of the weights after dropout, not yet scaled, over the same
    segments: Any  # of ds, over the keys of the same segment and over the others


@triton.jit
def _split_sums(sums, tile, first, second):
    return (
        sums[0] + tl.sum(tl.where(first, tile, 0.0), 1),
        sums[1] + tl.sum(tl.where(second, tile, 0.0), 1),
    )


@triton.jit
def row_sums(totals, grad_score, weight, sums, band, relative, b, j, sizes, MASKED: tl.constexpr):
    """`totals` with one tile added."""
    key_ends, value_ends, segments = totals.key_ends, totals.value_ends, totals.segments
    if sums.key_ends is not None:
        row = band.start + band.shift + j
        before, behind = row < 0, row > relative.last_row
        key_ends = _split_sums(key_ends, grad_score, before, behind)
        if sums.value_ends is not None:
            value_ends = _split_sums(value_ends, weight, before, behind)
    if sums.segments is not None:
        same = same_segment(band, relative, b, j, sizes, MASKED)
        segments = _split_sums(segments, grad_score, same, same == 0)
    return RowSums(key_ends, value_ends, segments)


@triton.jit
def _store_pair(place, pair, b, h, own, sizes):
    if place is not None:
        place += (b * sizes.heads + h) * sizes.query_len + own
        tl.store(place, pair[0], mask=own < sizes.query_len)
        place += tl.cast(sizes.batch, tl.int64) * sizes.heads * sizes.query_len
        tl.store(place, pair[1], mask=own < sizes.query_len)


@triton.jit
def store_row_sums(totals, sums, b, h, own, sizes):
    """Write the sums of queries `own` of head (b, h)."""
    _store_pair(sums.key_ends, totals.key_ends, b, h, own, sizes)
    _store_pair(sums.value_ends, totals.value_ends, b, h, own, sizes)
    _store_pair(sums.segments, totals.segments, b, h, own, sizes)


@triton.jit
def _load_pair(place, b, h, own, sizes):
    place += (b * sizes.heads + h) * sizes.query_len + own
    first = tl.load(place, mask=own < sizes.query_len, other=0.0)
    place += tl.cast(sizes.batch, tl.int64) * sizes.heads * sizes.query_len
    return first, tl.load(place, mask=own < sizes.query_len, other=0.0)


@triton.jit
def add_ends(grad_query, sums, relative, b, h, own, sizes, HEAD_DIM: tl.constexpr):
    """What distances outside of r give to dq, not yet scaled: sums of ds times the first and last row."""
    if sums.key_ends is not None:
        before, behind = _load_pair(sums.key_ends, b, h, own, sizes)
        d = tl.arange(0, grad_query.shape[1])
        place = head_start(relative.key, b, h, 0) + d
        first = tl.load(place, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
        place += tl.cast(relative.last_row, tl.int64) * relative.key.row
        last = tl.load(place, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
        grad_query += before[:, None] * first[None, :] + behind[:, None] * last[None, :]
    return grad_query


@triton.jit
def add_segments(grad_query, sums, relative, b, h, own, sizes, HEAD_DIM: tl.constexpr):
    """The segment term's share of dq, not yet scaled: sum_j ds_ij g_[seg_i != seg_j]."""
    if sums.segments is not None:
        same_sum, other_sum = _load_pair(sums.segments, b, h, own, sizes)
        d = tl.arange(0, grad_query.shape[1])
        place = relative.segment_key + h * HEAD_DIM + d
        same = tl.load(place, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
        place += sizes.heads * HEAD_DIM
        other = tl.load(place, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
        grad_query += same_sum[:, None] * same[None, :] + other_sum[:, None] * other[None, :]
    return grad_query
