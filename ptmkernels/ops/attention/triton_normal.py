"""The row factors of the backward pass where a large bias took the digits of the log-sum-exp."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_relative import load_band, raw_scores
from ptmkernels.ops.attention.triton_terms import rows
from ptmkernels.ops.attention.triton_tile import (
    Rows,
    Sizes,
    Terms,
    head_start,
    key_side,
    load_rows,
    query_side,
    tile_run,
    tile_scores,
)
from ptmkernels.ops.attention.triton_tiled import TiledLaunch
from ptmkernels.ops.triton_runtime import cdiv
from ptmkernels.ops.triton_tune import Tile

LARGE_LSE = tl.constexpr(1024.0)  # from here on its last digit is felt in the weights


@triton.jit
def _row_factors(
    query: Rows,
    key: Rows,
    lse,  # (B, H, L) float32
    factors,  # (B, H, L) float32, written
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
):
    """1 / sum_j exp(s_ij - lse_i) of rows with a large log-sum-exp, 1 of all others.

    A program whose rows have none visits no key.
    """
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    program = tl.program_id(0)
    tile = program % tiles
    h = (program // tiles % sizes.heads).to(tl.int64)
    b = (program // tiles // sizes.heads).to(tl.int64)
    first_query = tile * BLOCK_M
    own = first_query + tl.arange(0, BLOCK_M)
    inside = own < sizes.query_len
    place = (b * sizes.heads + h) * sizes.query_len + own
    row_lse = tl.load(lse + place, mask=inside, other=float("-inf"))
    large = (tl.abs(row_lse) > LARGE_LSE) & (row_lse > float("-inf"))
    origin = tl.where(large, row_lse, float("inf"))[:, None]
    first, last = 0, tl.cdiv(sizes.key_len, BLOCK_N)
    if ranges is not None:
        first, _, _, last = tile_run(ranges, ranges_batch, b, tile)
    last = tl.where(tl.max(large.to(tl.int32), 0) > 0, last, first)

    query_rows = load_rows(
        head_start(query, b, h, first_query), query.row, sizes.query_len - first_query,
        HEAD_DIM, BLOCK_M, BLOCK_D, True,
    )  # fmt: skip
    i = own[:, None]
    queries = query_side(terms.mask, b, i, sizes)
    band = load_band(terms.relative, b, h, first_query, sizes, BLOCK_M, BLOCK_N)
    total = tl.zeros([BLOCK_M], tl.float32)
    for key_tile in range(first, last):
        first_key = key_tile * BLOCK_N
        j = first_key + tl.arange(0, BLOCK_N)[None, :]
        key_rows = load_rows(
            head_start(key, b, h // GROUP, first_key), key.row, sizes.key_len - first_key,
            HEAD_DIM, BLOCK_N, BLOCK_D, True,
        )  # fmt: skip
        raw, _ = raw_scores(
            0, query_rows, key_rows, band, terms.relative, b, j, first_key, sizes, True, False,
            HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        keys = key_side(terms.mask, b, j, sizes)
        score = tile_scores(raw, b, h, i, j, queries, keys, terms, sizes, True)
        total += tl.sum(tl.exp2(tl.minimum(score - origin, 0.0) * terms.exponent), 1)
    tl.store(factors + place, tl.where(total > 0.0, 1.0 / total, 1.0), mask=inside)


@dataclass(slots=True)
class RowFactors(TiledLaunch):
    """Fills `factors` (B, H, L) for `lse`, with the tiles of the forward pass."""

    call: Call
    lse: Tensor
    factors: Tensor
    name: str = "forward"

    def run(self, tile: Tile) -> None:
        call = self.call
        batch, heads, query_len, _ = call.sizes
        call.launch(
            _row_factors,
            cdiv(query_len, tile.m) * heads * batch,
            (
                *(rows(call.query), rows(call.key), self.lse, self.factors),
                *(*call.ranges(tile, False), call.terms, call.sizes),
            ),
            tile,
        )
