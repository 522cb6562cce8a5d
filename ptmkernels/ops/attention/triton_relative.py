"""Relative positions and segments in a tile of scores, as device functions of the attention kernels.

The pair (i, j) reads row j - position_i + offset of r, so a block of BM queries and BN keys reads a band
of rows, taken here in chunks of BN. A query needs BN successive rows of the band, `shift` rows after its
first one: of each column, counted modulo BN, exactly one. So the chunks' products are merged by column,
and one gather turns every row of the tile into place (docs/relative_attention.md). Gradients go the way
back. A row outside of r is the nearest one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_tile import Rows, head_start, load_rows, product

# A block of up to so many queries may hold far fewer (decoding): there the chunks are counted at run time.
FEW = tl.constexpr(16)


class Band(NamedTuple):
    """What the relative terms know of a block of queries; its members without a term are 0."""

    key: Any  # pointers to row 0 of r, of rv and of v.r, and to u.k of key 0, of the queries' head
    value: Any
    row_scores: Any
    key_scores: Any
    start: Any  # the row of the band's first distance to key 0, before it is clamped
    shift: Any  # (BM, 1): where each query's rows begin in the band
    chunks: Any  # of BN rows, in the band
    same: Any  # (BM, 1): (q_i + w).g_0 and (q_i + w).g_1
    differ: Any
    segment: Any  # (BM, 1)


@triton.constexpr_function
def most_chunks(queries: int, block_n: int) -> int:
    """Chunks of BN rows in the band of a whole block of queries without positions of their own."""
    return (queries + 2 * block_n - 2) // block_n


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
        # Queries beyond the last one stand with it, so that they do not widen the band.
        position = tl.minimum(i, sizes.query_len - 1)
        furthest = tl.minimum(first_query + BLOCK_M, sizes.query_len) - 1
        if relative.position is not None:
            position = tl.load(relative.position + b * relative.position_batch + position)
            furthest = tl.max(position)
        start = relative.offset - furthest
        shift = furthest - position
        chunks = (tl.max(shift) + 2 * BLOCK_N - 1) // BLOCK_N
    if relative.row_scores is not None:
        row_scores = relative.row_scores + b * relative.row_batch + h * (relative.last_row + 1)
    if relative.key_scores is not None:
        key_scores = relative.key_scores + (b * sizes.heads + h) * sizes.key_len
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
def _band_rows(
    table, stride, first, last, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Rows first, first + 1, ... of a table whose last row is `last`, each the nearest that there is."""
    base = tl.minimum(tl.maximum(first, 0), last)
    row = tl.minimum(tl.maximum(first + tl.arange(0, BLOCK_N), 0), last) - base
    d = tl.arange(0, BLOCK_D)[None, :]
    pointers = table + base.to(tl.int64) * stride + row[:, None] * stride + d
    if HEAD_DIM < BLOCK_D:
        return tl.load(pointers, mask=d < HEAD_DIM, other=0.0)
    return tl.load(pointers)


@triton.jit
def _chunk_keys(chunk, shift, BLOCK_N: tl.constexpr):
    """(BM, BN) the key of the tile to which each column of a chunk belongs; 0 to BN - 1 where to any."""
    return chunk * BLOCK_N + tl.arange(0, BLOCK_N)[None, :] - shift


@triton.jit
def _merged(
    merged, chunk, queries, table, stride, band, relative, first_key, SCORED: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`merged` with the columns of one chunk that its queries need."""
    first = band.start + first_key + chunk * BLOCK_N
    rows = _band_rows(table, stride, first, relative.last_row, HEAD_DIM, BLOCK_N, BLOCK_D)
    scores = product(queries, tl.trans(rows), None, PRECISION)
    if SCORED:
        row = tl.minimum(tl.maximum(first + tl.arange(0, BLOCK_N), 0), relative.last_row)
        scores += tl.load(band.row_scores + row)[None, :]
    key = _chunk_keys(chunk, band.shift, BLOCK_N)
    needed = (key >= 0) & (key < BLOCK_N)
    return tl.where(needed, scores, merged)


@triton.jit
def position_scores(
    queries, table, stride, band, relative, first_key, SCORED: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(BM, BN) queries_i . table_row(i,j) for the keys of a tile, with SCORED (queries_i + v).r_row.

    Args:
        queries: (BM, BLOCK_D).
        table, stride: pointer to row 0 of r or rv, from `load_band`, and from row to row.
    """
    merged = tl.zeros([queries.shape[0], BLOCK_N], tl.float32)
    if relative.position is None and queries.shape[0] > FEW:
        for chunk in tl.static_range(most_chunks(queries.shape[0], BLOCK_N)):
            merged = _merged(
                merged, chunk, queries, table, stride, band, relative, first_key, SCORED,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
    else:
        for chunk in range(0, band.chunks):
            merged = _merged(
                merged, chunk, queries, table, stride, band, relative, first_key, SCORED,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
    turn = tl.arange(0, BLOCK_N)[None, :] + band.shift
    return tl.gather(merged, turn & (BLOCK_N - 1), 1)


@triton.jit
def _summed(
    total, chunk, turned, table, stride, band, relative, first_key,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`total` with one chunk of the band added."""
    rows = _band_rows(
        table, stride, band.start + first_key + chunk * BLOCK_N, relative.last_row,
        HEAD_DIM, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    key = _chunk_keys(chunk, band.shift, BLOCK_N)
    weight = tl.where((key >= 0) & (key < BLOCK_N), turned, 0.0)
    return product(weight.to(rows.dtype), rows, total, PRECISION)


@triton.jit
def position_sum(
    tile, total, table, stride, band, relative, first_key,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total_i + sum_j tile_ij table_row(i,j); arguments as in `position_scores`."""
    turn = tl.arange(0, BLOCK_N)[None, :] - band.shift
    turned = tl.gather(tile, turn & (BLOCK_N - 1), 1)
    if relative.position is None and tile.shape[0] > FEW:
        for chunk in tl.static_range(most_chunks(tile.shape[0], BLOCK_N)):
            total = _summed(
                total, chunk, turned, table, stride, band, relative, first_key,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
    else:
        for chunk in range(0, band.chunks):
            total = _summed(
                total, chunk, turned, table, stride, band, relative, first_key,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
    return total


@triton.jit
def same_segment(band, relative, b, j, sizes):
    """Whether the query and the key of a pair have the same segment; `j` (1, BN)."""
    place = relative.key_segment + b * relative.key_segment_batch + j
    return band.segment == tl.load(place, mask=j < sizes.key_len, other=0)


@triton.jit
def add_relative(
    raw, query, band, relative, b, j, first_key, sizes, TRANSPOSED: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """q_i.k_j, or its transpose, with the relative terms; `j` (1, BN) in either case."""
    if relative.key is not None:
        added = position_scores(
            query, band.key, relative.key.row, band, relative, first_key,
            relative.row_scores is not None, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        raw += tl.trans(added) if TRANSPOSED else added
    if relative.key_scores is not None:
        added = tl.load(band.key_scores + j, mask=j < sizes.key_len, other=0.0)
        raw += tl.trans(added) if TRANSPOSED else added
    if relative.segment_scores is not None:
        same = same_segment(band, relative, b, j, sizes)
        added = tl.where(same, band.same, band.differ)
        raw += tl.trans(added) if TRANSPOSED else added
    return raw


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
    products,  # (B, H, N) float32, written
    heads,
    count,  # N
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(row + addend_h) . vector_h for every row of every head."""
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
    place = products + (b * heads + h) * count + n
    tl.store(place, tl.sum(tile * factor[None, :], 1), mask=n < count)


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
def row_sums(totals, grad_score, weight, sums, band, relative, b, j, sizes):
    """`totals` with one tile added."""
    key_ends, value_ends, segments = totals.key_ends, totals.value_ends, totals.segments
    if sums.key_ends is not None:
        row = band.start + band.shift + j
        before, behind = row < 0, row > relative.last_row
        key_ends = _split_sums(key_ends, grad_score, before, behind)
        if sums.value_ends is not None:
            value_ends = _split_sums(value_ends, weight, before, behind)
    if sums.segments is not None:
        same = same_segment(band, relative, b, j, sizes)
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
def add_segments(grad_query, segments, relative, h, sizes, HEAD_DIM: tl.constexpr):
    """The segment term's share of dq, not yet scaled: sum_j ds_ij g_[seg_i != seg_j]."""
    if relative.segment_scores is not None:
        d = tl.arange(0, grad_query.shape[1])
        place = relative.segment_key + h * HEAD_DIM + d
        same = tl.load(place, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
        place += sizes.heads * HEAD_DIM
        other = tl.load(place, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
        grad_query += segments[0][:, None] * same[None, :] + segments[1][:, None] * other[None, :]
    return grad_query
