"""The rows of r that a tile of scores reads, its band, as device functions of the attention kernels.

The pair (i, j) reads row j - position_i + offset of r, so a block of BM queries and BN keys reads a band of
rows, taken here in chunks of BN. A query needs BN successive rows of the band, `shift` rows after its first
one: of each column, counted modulo BN, exactly one. So the chunks' products are merged by column, and every
row of the merged tile is turned into place (docs/relative_attention.md). Gradients go the way back. A row
outside of r is the nearest one.

Where a block's queries stand one after the other, the band of the next tile of keys begins BN rows further
on: a loop over the keys multiplies one new chunk and keeps the products with the others, turned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_tile import product

# A block of up to so many queries may hold far fewer (decoding): there the chunks are counted at run time.
FEW = tl.constexpr(16)
# v.r and u.k are float32, which is the sum of three numbers of bfloat16: as columns of a matrix, so many that
# a product can take them, they are added by multiplying with ones.
PARTS = tl.constexpr(3)
COLUMNS = tl.constexpr(16)


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
    """Chunks of BN rows in the band of queries that stand one after the other."""
    return (queries + 2 * block_n - 2) // block_n


@triton.jit
def load_positions(relative, b, first_query, sizes, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(start, shift, chunks) of a `Band`."""
    i = first_query + tl.arange(0, BLOCK_M)[:, None]
    FIXED: tl.constexpr = (relative.position is None or relative.gapless is not None) and (
        BLOCK_M > FEW
    )
    if FIXED and relative.position is None:
        start = relative.offset - first_query - (BLOCK_M - 1)
        return start, BLOCK_M - 1 - tl.arange(0, BLOCK_M)[:, None], 0
    # Queries beyond the last one stand with it, so that they do not widen the band.
    position = tl.minimum(i, sizes.query_len - 1)
    furthest = tl.minimum(first_query + BLOCK_M, sizes.query_len) - 1
    if relative.position is not None:
        positions = relative.position + b * relative.position_batch
        position = tl.load(positions + position)
        last = tl.load(positions + first_query) + BLOCK_M - 1
        furthest = last if FIXED else tl.max(position)
    shift = furthest - position
    return relative.offset - furthest, shift, (tl.max(shift) + 2 * BLOCK_N - 1) // BLOCK_N


@triton.jit
def _band_rows(
    table, stride, first, relative,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows first, first + 1, ... of a table, each the nearest that there is.

    Where no pair reads beyond the table's ends, nobody needs rows beyond them: any row will do.
    """
    d = tl.arange(0, BLOCK_D)[None, :]
    n = tl.arange(0, BLOCK_N)[:, None]
    if relative.inside is not None:
        # Taken as unsigned a row before the first is a large number, too.
        row = (first + n).to(tl.uint32, bitcast=True)
        row = tl.minimum(row, relative.last_row).to(tl.int64)
        pointers = table + row * stride + d
    else:
        base = tl.minimum(tl.maximum(first, 0), relative.last_row)
        row = tl.minimum(tl.maximum(first + n, 0), relative.last_row) - base
        pointers = table + base.to(tl.int64) * stride + row * stride + d
    if HEAD_DIM < BLOCK_D:
        return tl.load(pointers, mask=d < HEAD_DIM, other=0.0)
    return tl.load(pointers)


@triton.jit
def ones(BLOCK: tl.constexpr):
    """(BLOCK, COLUMNS): 1 in the columns that hold the parts of a float32."""
    column = tl.arange(0, COLUMNS)[None, :] + tl.zeros([BLOCK, 1], tl.int32)
    return tl.where(column < PARTS, 1.0, 0.0).to(tl.bfloat16)


@triton.jit
def _chunk_scores(
    first, queries, table, stride, band, relative, SCORED: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(BM, BN) products of the queries and BN rows from `first` on; arguments as in `position_scores`."""
    rows = _band_rows(table, stride, first, relative, HEAD_DIM, BLOCK_N, BLOCK_D)
    scores = product(queries, tl.trans(rows), None, PRECISION)
    if SCORED:
        added = _band_rows(band.row_scores, COLUMNS, first, relative, COLUMNS, BLOCK_N, COLUMNS)
        scores = product(ones(queries.shape[0]), tl.trans(added), scores, PRECISION)
    return scores


@triton.constexpr_function
def part_width(block_n: int) -> int:
    """Columns of a part: a warp turns 32 values by one exchange."""
    return min(block_n, 32)


@triton.jit
def _split(tile, PARTS_OF: tl.constexpr):
    """(BM, WIDTH) parts of a (BM, PARTS_OF, WIDTH) tile, as a tuple; PARTS_OF is 1, 2 or 4."""
    BLOCK_M: tl.constexpr = tile.shape[0]
    WIDTH: tl.constexpr = tile.shape[2]
    if PARTS_OF == 1:
        return (tl.reshape(tile, [BLOCK_M, WIDTH]),)
    elif PARTS_OF == 2:
        left, right = tl.split(tl.permute(tile, (0, 2, 1)))
        return (left, right)
    else:
        halves = tl.reshape(tile, [BLOCK_M, 2, 2, WIDTH])
        left, right = tl.split(tl.permute(halves, (0, 2, 3, 1)))
        return _split(left, 2) + _split(right, 2)


@triton.jit
def _joined(parts, BLOCK_N: tl.constexpr):
    """(BM, BLOCK_N): one, two or four (BM, WIDTH) parts side by side."""
    BLOCK_M: tl.constexpr = parts[0].shape[0]
    WIDTH: tl.constexpr = parts[0].shape[1]
    if BLOCK_N == WIDTH:
        return parts[0]
    elif BLOCK_N == 2 * WIDTH:
        both = tl.join(parts[0], parts[1])
        return tl.reshape(tl.permute(both, (0, 2, 1)), [BLOCK_M, BLOCK_N])
    else:
        left, right = tl.join(parts[0], parts[1]), tl.join(parts[2], parts[3])
        both = tl.permute(tl.join(left, right), (0, 3, 2, 1))
        return tl.reshape(both, [BLOCK_M, BLOCK_N])


@triton.jit
def _turned_parts(tile, shift, WIDTH: tl.constexpr):
    """Parts of WIDTH columns, each row of a part turned to the left by its `shift` (BM, 1), modulo WIDTH."""
    BLOCK_M: tl.constexpr = tile.shape[0]
    PARTS_OF: tl.constexpr = tile.shape[1] // WIDTH
    index = (tl.arange(0, WIDTH)[None, :] + shift) & (WIDTH - 1)
    index = tl.broadcast_to(index[:, None, :], [BLOCK_M, PARTS_OF, WIDTH])
    return _split(tl.gather(tl.reshape(tile, [BLOCK_M, PARTS_OF, WIDTH]), index, 2), PARTS_OF)


@triton.jit
def turned(tile, shift):
    """The tile with each row turned to the left by its `shift` (BM, 1), modulo the columns."""
    BLOCK_N: tl.constexpr = tile.shape[1]
    WIDTH: tl.constexpr = part_width(BLOCK_N)
    if BLOCK_N == 2 * WIDTH:
        left, right = _turned_parts(tile, shift, WIDTH)
        crossed = ((tl.arange(0, WIDTH)[None, :] + shift) & WIDTH) != 0
        parts = (tl.where(crossed, right, left), tl.where(crossed, left, right))
        return _joined(parts, BLOCK_N)
    else:
        return tl.gather(tile, (tl.arange(0, BLOCK_N)[None, :] + shift) & (BLOCK_N - 1), 1)


@triton.jit
def first_parts(
    queries, band, relative, first_key, SCORED: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a loop over the tiles of keys from `first_key` on keeps of the products with r: BM columns.

    0 where nothing can be kept.
    """
    BLOCK_M: tl.constexpr = queries.shape[0]
    FIXED: tl.constexpr = (relative.position is None or relative.gapless is not None) and (
        BLOCK_M > FEW
    )
    parts = 0
    if relative.key is not None and FIXED:
        KEPT: tl.constexpr = max(BLOCK_M, part_width(BLOCK_N))
        scores = _chunk_scores(
            band.start + first_key, queries, band.key, relative.key.row, band, relative, SCORED,
            HEAD_DIM, KEPT, BLOCK_D, PRECISION,
        )  # fmt: skip
        parts = _turned_parts(scores, band.shift, part_width(BLOCK_N))
    return parts


@triton.jit
def next_position_scores(
    kept, queries, band, relative, first_key, SCORED: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`position_scores` of r in a loop over the tiles of keys, and what the next tile needs.

    Args:
        kept: from `first_parts` or the tile before.
    """
    BLOCK_M: tl.constexpr = queries.shape[0]
    FIXED: tl.constexpr = (relative.position is None or relative.gapless is not None) and (
        BLOCK_M > FEW
    )
    if FIXED:
        WIDTH: tl.constexpr = part_width(BLOCK_N)
        KEPT: tl.constexpr = max(BLOCK_M // WIDTH, 1)
        newest = _chunk_scores(
            band.start + first_key + KEPT * WIDTH, queries, band.key, relative.key.row, band, relative,
            SCORED, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        parts = kept + _turned_parts(newest, band.shift, WIDTH)
        column = tl.arange(0, WIDTH)[None, :] + band.shift
        chosen = ()
        for n in tl.static_range(BLOCK_N // WIDTH):
            part = parts[n]
            for further in tl.static_range(1, KEPT + 1):
                part = tl.where(column >= further * WIDTH, parts[n + further], part)
            chosen = chosen + (part,)
        scores = _joined(chosen, BLOCK_N)
        kept = parts[BLOCK_N // WIDTH :]
    else:
        scores = position_scores(
            queries, band.key, relative.key.row, band, relative, first_key, SCORED,
            HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
    return scores, kept


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
    BLOCK_M: tl.constexpr = queries.shape[0]
    FIXED: tl.constexpr = (relative.position is None or relative.gapless is not None) and (
        BLOCK_M > FEW
    )
    merged = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    column = tl.arange(0, BLOCK_N)[None, :]
    if FIXED:
        for chunk in tl.static_range(most_chunks(BLOCK_M, BLOCK_N) - 1, -1, -1):
            scores = _chunk_scores(
                band.start + first_key + chunk * BLOCK_N, queries, table, stride, band, relative,
                SCORED, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
            merged = tl.where(column + chunk * BLOCK_N >= band.shift, scores, merged)
    else:
        for chunk in range(0, band.chunks):
            scores = _chunk_scores(
                band.start + first_key + chunk * BLOCK_N, queries, table, stride, band, relative,
                SCORED, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
            key = column + chunk * BLOCK_N - band.shift
            merged = tl.where((key >= 0) & (key < BLOCK_N), scores, merged)
    return turned(merged, band.shift)


@triton.jit
def _summed(
    total, chunk, tile, table, stride, band, relative, first_key,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`total` with one chunk of the band added; `tile` as its columns stand in the band."""
    first = band.start + first_key + chunk * BLOCK_N
    rows = _band_rows(table, stride, first, relative, HEAD_DIM, BLOCK_N, BLOCK_D)
    key = tl.arange(0, BLOCK_N)[None, :] + chunk * BLOCK_N - band.shift
    weight = tl.where((key >= 0) & (key < BLOCK_N), tile, 0.0)
    return product(weight.to(rows.dtype), rows, total, PRECISION)


@triton.jit
def position_sum(
    tile, total, table, stride, band, relative, first_key,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total_i + sum_j tile_ij table_row(i,j); arguments as in `position_scores`."""
    BLOCK_M: tl.constexpr = tile.shape[0]
    FIXED: tl.constexpr = (relative.position is None or relative.gapless is not None) and (
        BLOCK_M > FEW
    )
    tile = turned(tile, -band.shift)
    if FIXED:
        for chunk in tl.static_range(most_chunks(BLOCK_M, BLOCK_N)):
            total = _summed(
                total, chunk, tile, table, stride, band, relative, first_key,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
    else:
        for chunk in range(0, band.chunks):
            total = _summed(
                total, chunk, tile, table, stride, band, relative, first_key,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
    return total
