"""What every attention kernel does with one tile of scores, as device functions with terms.

A tile is a block of BLOCK_M queries by BLOCK_N keys, or its transpose; all functions broadcast over the
index tensors that they are given: ``i`` the queries, ``j`` the keys, shaped (BLOCK, 1) or (1, BLOCK). An
option that a call does not use is a None in its tuple: a constant when the kernel is compiled, so that
its code is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

PADDED = tl.constexpr(2**31 - 1)  # the rank of a padded key: no high reaches it
LOWEST = tl.constexpr(-(2**31))
NO_SCORE = tl.constexpr(-3.4028234663852886e38)  # where the running maximum starts: finite, no NaN
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Rows(NamedTuple):
    """A (B, H, length, D) tensor: pointer and strides in elements; the last stride is 1."""

    data: Any
    batch: Any
    head: Any
    row: Any


class Mask(NamedTuple):
    """Pointers of the mask's tensors and their strides; `tree` rows are contiguous."""

    rank: Any  # (B or 1, S) int32
    low: Any  # (B or 1, L) int32
    high: Any  # (B or 1, L) int32
    rank_batch: Any
    low_batch: Any
    high_batch: Any
    tree: Any  # (B or 1, 3, S) int32
    tree_batch: Any
    allowed: Any  # (B or 1, H or 1, L, S) bool
    allowed_batch: Any
    allowed_head: Any
    allowed_row: Any
    allowed_column: Any


class Bias(NamedTuple):
    """An additive bias by strides. A bias by distance is one with strides -1 and 1 of row and column."""

    data: Any
    batch: Any
    head: Any
    row: Any
    column: Any


class Dropout(NamedTuple):
    seed: Any  # int64 (1,)
    threshold: Any  # floor(p * 2**32)
    scale: Any  # 1 / (1 - p)


class Relative(NamedTuple):
    """The terms of distance and segment, each None where the call has none.

    What u, v and w give to the scores is added to them as float32: q + u would be rounded to the dtype of q.
    """

    key: Any  # Rows of r (B or 1, H or 1, R, D), with strides of 0 where it is shared
    value: Any  # Rows of rv, likewise
    last_row: Any  # R - 1
    offset: Any  # the row of the distance of query 0 and key 0
    position: Any  # (B or 1, L) int32 where the queries stand, or None: query i stands at i
    position_batch: Any
    gapless: Any  # 1 where positions rise by 0 or 1 from each query to the next, or None
    inside: Any  # 1 where every distance of a query and a key has a row of its own in r, or None
    row_scores: Any  # (B or 1, H, R, COLUMNS) bfloat16 whose sums are v.r
    row_batch: Any
    content_bias: Any  # (H, D): u
    key_scores: Any  # (B, H, S, COLUMNS) bfloat16 whose sums are u.k
    segment_key: Any  # (2, H, D): g
    segment_scores: Any  # (2, B, H, L) float32: (q_i + w).g_0 and (q_i + w).g_1
    query_segment: Any  # (B or 1, L) int32
    query_segment_batch: Any
    key_segment: Any  # (B or 1, S) int32
    key_segment_batch: Any


class Terms(NamedTuple):
    mask: Mask
    bias: Bias
    relative: Relative
    dropout: Dropout
    scale: Any
    exponent: Any  # exp(score) = exp2(exponent * what `tile_scores` returns)


class Sizes(NamedTuple):
    batch: Any
    heads: Any
    query_len: Any
    key_len: Any


class QuerySide(NamedTuple):
    """What the mask knows of a block of queries, shaped as their index `i`."""

    low: Any
    high: Any
    trunk: Any
    branch_low: Any
    branch_high: Any


class KeySide(NamedTuple):
    """What the mask knows of a block of keys, shaped as their index `j`."""

    rank: Any
    trunk: Any
    branch_low: Any
    branch_high: Any


@triton.jit
def rows_in_all(sizes):
    """B H L, the rows of all queries."""
    return tl.cast(sizes.batch, tl.int64) * sizes.heads * sizes.query_len


@triton.jit
def head_start(rows, b, h, start):
    """Pointer to row `start` of head (b, h). `b` and `h` are int64, so no product overflows."""
    return rows.data + b * rows.batch + h * rows.head + tl.cast(start, tl.int64) * rows.row


@triton.jit
def load_rows(
    start, stride, count, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BOUNDED: tl.constexpr,
):  # fmt: skip
    """(BLOCK, BLOCK_D) rows from `start`; zeros beyond HEAD_DIM and, if BOUNDED, beyond `count` rows."""
    r = tl.arange(0, BLOCK)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    pointers = start + r * stride + d
    if BOUNDED and HEAD_DIM < BLOCK_D:
        return tl.load(pointers, mask=(r < count) & (d < HEAD_DIM), other=0.0)
    if BOUNDED:
        return tl.load(pointers, mask=r < count, other=0.0)
    if HEAD_DIM < BLOCK_D:
        return tl.load(pointers, mask=d < HEAD_DIM, other=0.0)
    return tl.load(pointers)


@triton.jit
def store_rows(
    start, stride, count, rows, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    r = tl.arange(0, BLOCK)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (r < count) & (d < HEAD_DIM)
    tl.store(start + r * stride + d, rows.to(start.dtype.element_ty), mask=inside)


@triton.jit
def add_rows(
    start, stride, count, rows, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BOUNDED: tl.constexpr,
):  # fmt: skip
    """Add to float32 rows in memory, to which other programs add at the same time."""
    r = tl.arange(0, BLOCK)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    pointers = start + r * stride + d
    if BOUNDED:
        tl.atomic_add(pointers, rows, mask=(r < count) & (d < HEAD_DIM), sem="relaxed")
    elif HEAD_DIM < BLOCK_D:
        tl.atomic_add(pointers, rows, mask=d < HEAD_DIM, sem="relaxed")
    else:
        tl.atomic_add(pointers, rows, sem="relaxed")


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """total + a b in float32; `total` may be None.

    The interpreter would multiply the bits of bfloat16 as integers: there the operands are widened,
    which is exact.
    """
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def query_side(mask, b, i, sizes):
    low, high, trunk, branch_low, branch_high = 0, 0, 0, 0, 0
    inside = i < sizes.query_len
    if mask.rank is not None:
        low = tl.load(mask.low + b * mask.low_batch + i, mask=inside, other=0)
        high = tl.load(mask.high + b * mask.high_batch + i, mask=inside, other=0)
    if mask.tree is not None:
        token = mask.tree + b * mask.tree_batch + (sizes.key_len - sizes.query_len) + i
        trunk = tl.load(token, mask=inside, other=0)
        branch_low = tl.load(token + sizes.key_len, mask=inside, other=PADDED)
        branch_high = tl.load(token + 2 * sizes.key_len, mask=inside, other=LOWEST)
    return QuerySide(low, high, trunk, branch_low, branch_high)


@triton.jit
def key_side(mask, b, j, sizes):
    rank, trunk, branch_low, branch_high = 0, 0, 0, 0
    inside = j < sizes.key_len
    if mask.rank is not None:
        rank = tl.load(mask.rank + b * mask.rank_batch + j, mask=inside, other=PADDED)
    if mask.tree is not None:
        token = mask.tree + b * mask.tree_batch + j
        trunk = tl.load(token, mask=inside, other=0)
        branch_low = tl.load(token + sizes.key_len, mask=inside, other=PADDED)
        branch_high = tl.load(token + 2 * sizes.key_len, mask=inside, other=LOWEST)
    return KeySide(rank, trunk, branch_low, branch_high)


@triton.jit
def visible(mask, b, h, i, j, queries, keys, sizes):
    """Which keys of the tile each query may see; nothing beyond the last key."""
    if mask.rank is not None:
        seen = (queries.low <= keys.rank) & (keys.rank <= queries.high)
    else:
        seen = j < sizes.key_len
    if mask.tree is not None:
        overlap = (queries.branch_low <= keys.branch_high) & (
            keys.branch_low <= queries.branch_high
        )
        seen = seen & (((queries.trunk > 0) & (keys.trunk > 0)) | overlap)
    if mask.allowed is not None:
        start = mask.allowed + b * mask.allowed_batch + h * mask.allowed_head
        pointers = start + i.to(tl.int64) * mask.allowed_row + j * mask.allowed_column
        inside = (i < sizes.query_len) & (j < sizes.key_len)
        seen = seen & (tl.load(pointers, mask=inside, other=0) != 0)
    return seen


@triton.jit
def tile_scores(raw, b, h, i, j, queries, keys, terms, sizes, MASKED: tl.constexpr):
    """s_ij = scale * raw_ij + bias_ij, -inf where hidden; without a bias it is s_ij / scale.

    `raw` holds q_i.k_j and the relative terms; `terms.exponent` takes either result to the base 2 of the
    softmax.
    """
    score = raw
    bias = terms.bias
    if bias.data is not None:
        start = bias.data + b * bias.batch + h * bias.head
        pointers = start + i.to(tl.int64) * bias.row + j.to(tl.int64) * bias.column
        inside = (i < sizes.query_len) & (j < sizes.key_len)
        added = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
        score = raw * terms.scale + added
    if MASKED:
        seen = visible(terms.mask, b, h, i, j, queries, keys, sizes)
        score = tl.where(seen, score, float("-inf"))
    return score


@triton.jit
def dropout_keep(dropout, b, h, i, first_key, BLOCK_N: tl.constexpr):
    """(BLOCK_M, BLOCK_N) weights that dropout keeps: word j mod 4 of counter (j // 4, i, h, b).

    Args:
        i: (BLOCK_M, 1) queries; `h` is one head or as `i`.
        first_key: the tile's first key, a multiple of 4.
    """
    group = first_key // 4 + tl.arange(0, BLOCK_N // 4)[None, :]
    words = tl.philox(tl.load(dropout.seed), group, i, tl.cast(h, tl.int32), tl.cast(b, tl.int32))
    threshold = tl.cast(dropout.threshold, tl.uint32)
    even = tl.interleave(words[0] >= threshold, words[2] >= threshold)
    odd = tl.interleave(words[1] >= threshold, words[3] >= threshold)
    return tl.interleave(even, odd)


@triton.jit
def tile_run(ranges, batch_stride, b, tile):
    """The tiles to visit, [first, last), of which [full_first, full_last) need no test."""
    place = ranges + b * batch_stride + tile * 4
    return tl.load(place), tl.load(place + 1), tl.load(place + 2), tl.load(place + 3)


@triton.jit
def mixed_tile(step, first, full_first, full_last):
    """Number of the `step`-th tile of the run outside of its full part."""
    tile = first + step
    return tl.where(tile >= full_first, tile + (full_last - full_first), tile)


@triton.jit
def mixed_steps(side, first, full_first, full_last, last, SIDES: tl.constexpr):
    """[begin, end) of the tiles on one side of the full part; with one side, of all steps of `mixed_tile`."""
    if SIDES == 1:
        return 0, last - first - (full_last - full_first)
    return tl.where(side == 0, first, full_last), tl.where(side == 0, full_first, last)
