"""Forward kernels of attention in Triton: tiles to visit, softmax attention, decoding of few queries.

Tiles follow Dao, "FlashAttention-2" (2023), algorithm 1, with the key tiles of a query tile cut into
those that the mask leaves whole and those that need its test (docs/architecture.md, "The interval
mask"). Kernels trust their inputs; `triton_launch` prepares them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_band import first_parts, position_sum
from ptmkernels.ops.attention.triton_relative import load_band, raw_scores
from ptmkernels.ops.attention.triton_tile import (
    LN_2,
    LOWEST,
    NO_SCORE,
    PADDED,
    Mask,
    Rows,
    Sizes,
    Terms,
    dropout_keep,
    head_start,
    key_side,
    load_rows,
    mixed_steps,
    mixed_tile,
    product,
    query_side,
    store_rows,
    tile_run,
    tile_scores,
)


@triton.jit
def rank_bounds(mask, b, j, inside, OTHER: tl.constexpr):
    """Ranks of keys `j`, and the same with padded keys below all others."""
    rank = tl.load(mask.rank + b * mask.rank_batch + j, mask=inside, other=OTHER)
    return rank, tl.where(rank == PADDED, LOWEST, rank)


@triton.jit
def tile_class(min_rank, max_real_rank, max_rank, min_low, max_low, min_high, max_high):
    """From the bounds of a tile: whether any key may be seen, and whether every query sees all."""
    some = (min_rank <= max_high) & (max_real_rank >= min_low)
    return some, (min_rank >= max_low) & (max_rank <= min_high)


@triton.jit
def _tile_ranges(
    ranges,  # (B or 1, tiles, 4) int32
    mask: Mask,
    sizes: Sizes,
    tiles,
    others,
    BLOCK: tl.constexpr,
    BLOCK_OTHER: tl.constexpr,
    CHUNK: tl.constexpr,
    OF_KEYS: tl.constexpr,
    NEVER_FULL: tl.constexpr,
):
    """For each query tile the key tiles to visit, or with OF_KEYS for each key tile the query tiles.

    One program looks at one tile: four numbers, the first and last tile that any pair of it may see
    and the first run of tiles among them that need no test. Reads O(L + S) integers.
    """
    tile = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    own = tile * BLOCK + tl.arange(0, BLOCK)
    if OF_KEYS:
        rank, real = rank_bounds(mask, b, own, own < sizes.key_len, PADDED)
        min_rank, max_real_rank, max_rank = tl.min(rank, 0), tl.max(real, 0), tl.max(rank, 0)
    else:
        inside = own < sizes.query_len
        low, high = mask.low + b * mask.low_batch + own, mask.high + b * mask.high_batch + own
        min_low = tl.min(tl.load(low, mask=inside, other=PADDED), 0)
        max_low = tl.max(tl.load(low, mask=inside, other=LOWEST), 0)
        min_high = tl.min(tl.load(high, mask=inside, other=PADDED), 0)
        max_high = tl.max(tl.load(high, mask=inside, other=LOWEST), 0)

    first, last = others, 0
    full_first, full_last = others, others
    for chunk in range(0, others, CHUNK):
        other = chunk + tl.arange(0, CHUNK)
        index = other[:, None] * BLOCK_OTHER + tl.arange(0, BLOCK_OTHER)[None, :]
        if OF_KEYS:
            # A query beyond the last one makes its tile a mixed one, so that full tiles load freely.
            inside = index < sizes.query_len
            lows = mask.low + b * mask.low_batch + index
            highs = mask.high + b * mask.high_batch + index
            low = tl.load(lows, mask=inside, other=PADDED)
            high = tl.load(highs, mask=inside, other=LOWEST)
            some, full = tile_class(
                min_rank, max_real_rank, max_rank,
                tl.min(low, 1), tl.max(low, 1), tl.min(high, 1), tl.max(high, 1),
            )  # fmt: skip
        else:
            rank, real = rank_bounds(mask, b, index, index < sizes.key_len, PADDED)
            some, full = tile_class(
                tl.min(rank, 1), tl.max(real, 1), tl.max(rank, 1),
                min_low, max_low, min_high, max_high,
            )  # fmt: skip
        some = some & (other < others)
        first = tl.minimum(first, tl.min(tl.where(some, other, others), 0))
        last = tl.maximum(last, tl.max(tl.where(some, other + 1, 0), 0))
        if not NEVER_FULL:
            full = full & some
            full_first = tl.minimum(full_first, tl.min(tl.where(full, other, others), 0))
            ended = (other > full_first) & (full == 0)
            full_last = tl.minimum(full_last, tl.min(tl.where(ended, other, others), 0))
    none = full_first >= last
    full_first = tl.where(none, first, full_first)
    full_last = tl.where(none, first, full_last)
    place = ranges + (b * tiles + tile) * 4
    tl.store(place, first)
    tl.store(place + 1, full_first)
    tl.store(place + 2, full_last)
    tl.store(place + 3, tl.maximum(first, last))


@triton.jit
def _softmax_step(
    tile, state, kept, query, key_start, key_row, value_start, value_row, b, h, i, queries, band,
    terms, sizes,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One key tile of the online softmax: (accumulator, total, top) before to after it, and `kept`.

    `top` is to the base 2, but natural where there is a bias.
    """
    accumulator, total, top = state
    first_key = tile * BLOCK_N
    left = sizes.key_len - first_key
    j = first_key + tl.arange(0, BLOCK_N)[None, :]
    key = load_rows(
        key_start + first_key.to(tl.int64) * key_row, key_row, left,
        HEAD_DIM, BLOCK_N, BLOCK_D, MASKED,
    )  # fmt: skip
    raw, kept = raw_scores(
        kept, query, key, band, terms.relative, b, j, first_key, sizes, MASKED, True,
        HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    keys = key_side(terms.mask, b, j, sizes) if MASKED else 0
    score = tile_scores(raw, b, h, i, j, queries, keys, terms, sizes, MASKED)
    if terms.bias.data is not None:
        # In natural units: a bias of any size times the exponent would overflow.
        new_top = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2((score - new_top[:, None]) * terms.exponent)
        rescale = tl.exp2((top - new_top) * terms.exponent)
    else:
        new_top = tl.maximum(top, tl.max(score, 1) * terms.exponent)
        weight = tl.exp2(score * terms.exponent - new_top[:, None])
        rescale = tl.exp2(top - new_top)
    total = total * rescale + tl.sum(weight, 1)
    if terms.dropout.seed is not None:
        keep = dropout_keep(terms.dropout, b, h, i, first_key, BLOCK_N)
        weight = tl.where(keep, weight, 0.0)
    value = load_rows(
        value_start + first_key.to(tl.int64) * value_row, value_row, left,
        HEAD_DIM, BLOCK_N, BLOCK_D, MASKED,
    )  # fmt: skip
    accumulator = accumulator * rescale[:, None]
    accumulator = product(weight.to(value.dtype), value, accumulator, PRECISION)
    if terms.relative.value is not None:
        accumulator = position_sum(
            weight, accumulator, band.value, terms.relative.value.row, band, terms.relative,
            first_key, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
    return (accumulator, total, new_top), kept


@triton.jit
def _finish(accumulator, total, top, terms):
    """Output, log-sum-exp and `top` in natural units; zeros and -inf for a query that saw nothing."""
    seen = total > 0.0
    safe = tl.where(seen, total, 1.0)
    factor = 1.0 / safe
    if terms.dropout.seed is not None:
        factor = factor * terms.dropout.scale
    if terms.bias.data is None:
        top = top * LN_2
    lse = tl.where(seen, top + tl.log(safe), float("-inf"))
    return accumulator * factor[:, None], lse, tl.where(seen, top, float("-inf"))


@triton.jit
def _forward(
    query: Rows,
    key: Rows,
    value: Rows,
    output: Rows,
    lse,  # (B, H, L) float32
    ranges,  # (B or 1, query tiles, 4) int32 from `_tile_ranges`, or None without an interval mask
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
    """o_i = sum_j softmax_j(s_ij) v_j and its log-sum-exp; one program for each query tile and head.

    Args:
        GROUP: query heads for each key head.
        ALL_FULL: no tile needs a test; NEVER_FULL: every tile does.
    """
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    program = tl.program_id(0)
    tile = tiles - 1 - program % tiles  # the last queries first: they see most under a causal mask
    h = (program // tiles % sizes.heads).to(tl.int64)
    b = (program // tiles // sizes.heads).to(tl.int64)
    first_query = tile * BLOCK_M
    i = first_query + tl.arange(0, BLOCK_M)[:, None]

    query_rows = load_rows(
        head_start(query, b, h, first_query), query.row, sizes.query_len - first_query,
        HEAD_DIM, BLOCK_M, BLOCK_D, True,
    )  # fmt: skip
    key_start = head_start(key, b, h // GROUP, 0)
    value_start = head_start(value, b, h // GROUP, 0)
    queries = query_side(terms.mask, b, i, sizes)
    band = load_band(terms.relative, b, h, first_query, sizes, BLOCK_M, BLOCK_N)
    state = (
        tl.zeros([BLOCK_M, BLOCK_D], tl.float32),
        tl.zeros([BLOCK_M], tl.float32),
        tl.full([BLOCK_M], NO_SCORE, tl.float32),
    )
    if ranges is not None:
        first, full_first, full_last, last = tile_run(ranges, ranges_batch, b, tile)
    else:
        first, full_first = 0, 0
        full_last = 0 if NEVER_FULL else sizes.key_len // BLOCK_N
        last = tl.cdiv(sizes.key_len, BLOCK_N)
    SCORED: tl.constexpr = terms.relative.row_scores is not None
    # What a tile keeps of the band serves the next tile only: then the tiles before the full ones and those
    # behind them are two runs. Without a band they are one, which takes fewer registers.
    SIDES: tl.constexpr = 1 if terms.relative.key is None else 2
    if not ALL_FULL:
        for side in range(0, SIDES):
            begin, end = mixed_steps(side, first, full_first, full_last, last, SIDES)
            kept = first_parts(
                query_rows, band, terms.relative, begin * BLOCK_N, SCORED,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
            for step in range(begin, end):
                state, kept = _softmax_step(
                    step if SIDES == 2 else mixed_tile(step, first, full_first, full_last),
                    state, kept, query_rows,
                    key_start, key.row, value_start, value.row, b, h, i, queries, band, terms, sizes,
                    HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION, True,
                )  # fmt: skip
    if not NEVER_FULL:
        kept = first_parts(
            query_rows, band, terms.relative, full_first * BLOCK_N, SCORED,
            HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        for full in range(full_first, full_last):
            state, kept = _softmax_step(
                full, state, kept, query_rows,
                key_start, key.row, value_start, value.row, b, h, i, queries, band, terms, sizes,
                HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION, False,
            )  # fmt: skip
    result, log_sum, _ = _finish(state[0], state[1], state[2], terms)
    # The outputs are contiguous, and the program's number is asked for once more (in the second dimension it
    # is 0), so that no registers keep anything for them while the loops run.
    program = tl.program_id(0) + tl.program_id(1)
    head = tl.cast(program // tiles, tl.int64)
    first_query = (tiles - 1 - program % tiles) * BLOCK_M
    left = sizes.query_len - first_query
    start = output.data + head * output.head + tl.cast(first_query, tl.int64) * output.row
    store_rows(start, output.row, left, result, HEAD_DIM, BLOCK_M, BLOCK_D)
    own = tl.arange(0, BLOCK_M)
    tl.store(lse + head * sizes.query_len + first_query + own, log_sum, mask=own < left)
