"""Gradients of a relative call as products with a piece of ds and of the weights, in Triton.

    dq_i = scale sum_j ds_ij (k_j + r_row(i,j) + ...)      dk_j = scale sum_i ds_ij (q_i + u)
    dv_j = sum_i a_ij do_i    dr_row = scale sum_ij ds_ij (q_i + v)    drv_row = sum_ij a_ij do_i

The last two sum over the pairs of a row, which lie on diagonals of a piece. Each program owns what it adds
up, and adds it in the same order on every run. What lies beyond the first and the last row of r is left to
the row sums of `_score_gradients`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_band import COLUMNS, ones
from ptmkernels.ops.attention.triton_piece import (
    load_diagonals,
    load_tile,
    positions_of_tile,
    tiles_at_positions,
    tiles_of_head,
)
from ptmkernels.ops.attention.triton_relative import (
    RowSums,
    add_content_bias,
    add_ends,
    add_segments,
)
from ptmkernels.ops.attention.triton_tile import (
    Rows,
    head_start,
    load_rows,
    product,
    store_rows,
    tile_run,
)


@triton.jit(do_not_specialize=["piece_first"])
def _query_products(
    key: Rows,
    grad_query: Rows,
    sums: RowSums,  # as `_score_gradients` left them
    piece,
    piece_first,
    ranges,  # of the query tiles, or None
    ranges_batch,
    terms,
    sizes,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq of one query tile of a piece."""
    relative = terms.relative
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    index = tl.program_id(0)
    m = (piece_first + index) % tiles
    h = ((piece_first + index) // tiles % sizes.heads).to(tl.int64)
    b = ((piece_first + index) // tiles // sizes.heads).to(tl.int64)
    left = sizes.query_len - m * BLOCK_M
    begin, end = 0, tl.cdiv(sizes.key_len, BLOCK_N)
    if ranges is not None:
        begin, _, _, end = tile_run(ranges, ranges_batch, b, m)
    key_start = head_start(key, b, h // GROUP, 0)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for n in range(begin, end):
        tile = load_tile(piece.scores, piece, index, n * BLOCK_N, left, BLOCK_M, BLOCK_N)
        rows = load_rows(
            key_start + tl.cast(n * BLOCK_N, tl.int64) * key.row, key.row,
            sizes.key_len - n * BLOCK_N, HEAD_DIM, BLOCK_N, BLOCK_D, True,
        )  # fmt: skip
        total = product(tile, rows, total, PRECISION)
    least, most = positions_of_tile(relative, b, m, sizes, BLOCK_M)
    first = tl.maximum(begin * BLOCK_N - most + relative.offset, 0) // BLOCK_R
    last = tl.minimum(end * BLOCK_N - 1, sizes.key_len - 1) - least + relative.offset
    last = tl.minimum(last, relative.last_row) // BLOCK_R + 1
    table = head_start(relative.key, b, h, 0)
    for block in range(first, tl.where(begin < end, last, first)):
        first_row = block * BLOCK_R
        tile = load_diagonals(
            piece.scores, piece, index, b, m, first_row, relative, sizes, BLOCK_M, BLOCK_R
        )
        rows = load_rows(
            table + tl.cast(first_row, tl.int64) * relative.key.row, relative.key.row,
            relative.last_row + 1 - first_row, HEAD_DIM, BLOCK_R, BLOCK_D, True,
        )  # fmt: skip
        total = product(tile, rows, total, PRECISION)
    own = m * BLOCK_M + tl.arange(0, BLOCK_M)
    total = add_ends(total, sums, relative, b, h, own, sizes, HEAD_DIM)
    total = add_segments(total, sums, relative, b, h, own, sizes, HEAD_DIM)
    store_rows(
        head_start(grad_query, b, h, m * BLOCK_M), grad_query.row, left, total * terms.scale,
        HEAD_DIM, BLOCK_M, BLOCK_D,
    )  # fmt: skip


@triton.jit(do_not_specialize=["piece_first", "piece_last"])
def _key_products(
    query: Rows,
    grad_output: Rows,
    grad_key,  # (B, Hk, S, HEAD_DIM) float32; added to
    grad_value,  # likewise, not yet scaled
    key_sums,  # (B, H, S) float32, the sums of ds, or None; added to
    piece,
    piece_first,
    piece_last,
    ranges,  # of the key tiles, or None
    ranges_batch,
    terms,
    sizes,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds what a piece gives to dk and dv of one key tile of one key head, neither of them scaled."""
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    key_tiles = tl.cdiv(sizes.key_len, BLOCK_N)
    program = tl.program_id(0) + piece_first // (tiles * GROUP) * key_tiles
    n = program % key_tiles
    key_heads = sizes.heads // GROUP
    key_head = program // key_tiles % key_heads
    b = program // key_tiles // key_heads
    begin, end = 0, tiles
    if ranges is not None:
        begin, _, _, end = tile_run(ranges, ranges_batch, tl.cast(b, tl.int64), n)
    key_total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    value_total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    own = n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = own < sizes.key_len
    SUM_KEYS: tl.constexpr = key_sums is not None or terms.relative.content_bias is not None
    for member in range(0, GROUP):
        h = key_head * GROUP + member
        pair = b * sizes.heads + h
        first, last = tiles_of_head(piece_first, piece_last, pair, tiles)
        query_start = head_start(query, tl.cast(b, tl.int64), tl.cast(h, tl.int64), 0)
        grad_start = head_start(grad_output, tl.cast(b, tl.int64), tl.cast(h, tl.int64), 0)
        sums = tl.zeros([BLOCK_N, COLUMNS], tl.float32)
        for m in range(tl.maximum(first, begin), tl.minimum(last, end)):
            index = pair * tiles + m - piece_first
            left = sizes.query_len - m * BLOCK_M
            offset = tl.cast(m * BLOCK_M, tl.int64)
            rows = load_rows(
                query_start + offset * query.row, query.row, left, HEAD_DIM, BLOCK_M, BLOCK_D, True
            )
            tile = load_tile(piece.scores, piece, index, n * BLOCK_N, left, BLOCK_M, BLOCK_N)
            key_total = product(tl.trans(tile), rows, key_total, PRECISION)
            if SUM_KEYS:
                sums = product(tl.trans(tile), ones(BLOCK_M).to(tile.dtype), sums, PRECISION)
            rows = load_rows(
                grad_start + offset * grad_output.row, grad_output.row, left,
                HEAD_DIM, BLOCK_M, BLOCK_D, True,
            )  # fmt: skip
            tile = load_tile(piece.weights, piece, index, n * BLOCK_N, left, BLOCK_M, BLOCK_N)
            value_total = product(tl.trans(tile), rows, value_total, PRECISION)
        if SUM_KEYS:
            key_sum = _first_column(sums)
            key_total = add_content_bias(key_total, key_sum, terms.relative, h, HEAD_DIM)
            if key_sums is not None:
                cell = key_sums + tl.cast(pair, tl.int64) * sizes.key_len + own
                key_sum += tl.load(cell, mask=inside, other=0.0)
                tl.store(cell, key_sum, mask=inside)
    d = tl.arange(0, BLOCK_D)[None, :]
    cell = (tl.cast(b, tl.int64) * key_heads + key_head) * sizes.key_len + own
    cell = cell[:, None] * HEAD_DIM + d
    inside = inside[:, None] & (d < HEAD_DIM)
    key_total += tl.load(grad_key + cell, mask=inside, other=0.0)
    tl.store(grad_key + cell, key_total, mask=inside)
    value_total += tl.load(grad_value + cell, mask=inside, other=0.0)
    tl.store(grad_value + cell, value_total, mask=inside)


@triton.jit
def _first_column(tile):
    """(N,) sums: every column of a product with ones that is not zeros."""
    column = tl.arange(0, tile.shape[1])[None, :]
    return tl.sum(tl.where(column == 0, tile, 0.0), 1)


@triton.jit(do_not_specialize=["piece_first", "piece_last"])
def _relative_gradient(
    vectors: Rows,  # queries, or gradients of the output
    buffer,  # of the piece: ds, or the weights
    totals,  # (H, R, HEAD_DIM) float32, or with ALONE (B * H, R, HEAD_DIM); added to
    sums,  # (H, R) float32, or with ALONE (B * H, R): of ds, or None; added to
    piece,
    piece_first,
    piece_last,
    relative,
    sizes,
    ALONE: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds what a piece gives to BLOCK_N rows of one head, or with ALONE of one head of one batch row."""
    blocks = tl.cdiv(relative.last_row + 1, BLOCK_N)
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    first_row = tl.program_id(0) % blocks * BLOCK_N
    owner = tl.program_id(0) // blocks
    first_b = piece_first // (tiles * sizes.heads)
    last_b = (piece_last - 1) // (tiles * sizes.heads)
    if ALONE:
        first_b = owner // sizes.heads
        last_b = first_b
    h = owner % sizes.heads
    total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    row_total = tl.zeros([BLOCK_N, COLUMNS], tl.float32)
    for b in range(first_b, last_b + 1):
        pair = b * sizes.heads + h
        first, last = tiles_of_head(piece_first, piece_last, pair, tiles)
        # The first and the last position with a key at such a distance.
        least = relative.offset - first_row - (BLOCK_N - 1)
        most = relative.offset - first_row + sizes.key_len - 1
        if relative.position is None:
            first = tl.maximum(first, tl.maximum(least, 0) // BLOCK_M)
            last = tl.minimum(last, tl.maximum(most + BLOCK_M, 0) // BLOCK_M)
        elif relative.gapless is not None:
            begin, end = tiles_at_positions(relative, b, least, most, sizes, BLOCK_M)
            first = tl.maximum(first, begin)
            last = tl.minimum(last, end)
        start = head_start(vectors, tl.cast(b, tl.int64), tl.cast(h, tl.int64), 0)
        for m in range(first, last):
            tile = load_diagonals(
                buffer, piece, pair * tiles + m - piece_first, b, m, first_row, relative, sizes,
                BLOCK_M, BLOCK_N,
            )  # fmt: skip
            rows = load_rows(
                start + tl.cast(m * BLOCK_M, tl.int64) * vectors.row, vectors.row,
                sizes.query_len - m * BLOCK_M, HEAD_DIM, BLOCK_M, BLOCK_D, True,
            )  # fmt: skip
            total = product(tl.trans(tile), rows, total, PRECISION)
            if sums is not None:
                row_total = product(
                    tl.trans(tile), ones(BLOCK_M).to(tile.dtype), row_total, PRECISION
                )
    row = first_row + tl.arange(0, BLOCK_N)
    inside = row <= relative.last_row
    place = tl.cast(owner, tl.int64) * (relative.last_row + 1) + row
    d = tl.arange(0, BLOCK_D)[None, :]
    cell = totals + place[:, None] * HEAD_DIM + d
    inside_cell = inside[:, None] & (d < HEAD_DIM)
    tl.store(cell, tl.load(cell, mask=inside_cell, other=0.0) + total, mask=inside_cell)
    if sums is not None:
        cell = sums + place
        row_sum = tl.load(cell, mask=inside, other=0.0) + _first_column(row_total)
        tl.store(cell, row_sum, mask=inside)
