"""A piece of the scores' gradients of a call: ds and the weights of some query tiles, in buffers.

`_score_gradients` fills a piece, and every gradient of a relative call is then a product with it
(`triton_relative_gradient`). Memory holds one piece of bounded size at a time, nothing of size L x S for
each head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_tile import load_rows


class Piece(NamedTuple):
    """The buffers of some successive query tiles of a call.

    Row i of the n-th tile of the piece is row n BLOCK_M + i of a buffer, and key j is column margin + j.
    Nothing is ever written into the margins and behind the last tile of keys: zeros stand there. Tiles that
    the mask hides hold zeros, too.

    All tiles of a call are numbered head by head. Kernels take the numbers of a piece, [piece_first,
    piece_last), as arguments of their own: they differ from piece to piece, and Triton, which compiles a
    kernel anew where a number in a tuple becomes a multiple of 16 or is none any more, is told to leave
    these two alone.
    """

    scores: Any  # ds, in the dtype of the queries
    weights: Any  # a after dropout, not yet scaled
    width: Any  # columns of the buffers
    margin: Any


@triton.jit
def _store(buffer, piece, tile, first_key):
    m = tl.arange(0, tile.shape[0])[:, None]
    n = tl.arange(0, tile.shape[1])[None, :]
    row = tl.program_id(0).to(tl.int64) * tile.shape[0]
    place = buffer + row * piece.width + piece.margin + first_key + m * piece.width + n
    tl.store(place, tile.to(buffer.dtype.element_ty))


@triton.jit
def store_tile(piece, grad_score, weight, first_key):
    """Leave a tile of the program's queries and of the keys from `first_key` on."""
    _store(piece.scores, piece, grad_score, first_key)
    _store(piece.weights, piece, weight, first_key)


@triton.jit
def store_zeros(piece, first, last, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Leave zeros in key tiles [first, last) of the program's queries."""
    zeros = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for tile in range(first, last):
        store_tile(piece, zeros, zeros, tile * BLOCK_N)


@triton.jit
def tiles_of_head(piece_first, piece_last, pair, tiles):
    """[first, last) of the query tiles of the `pair`-th head of the call that the piece holds."""
    first = tl.maximum(piece_first - pair * tiles, 0)
    return first, tl.minimum(piece_last - pair * tiles, tiles)


@triton.jit
def load_tile(
    buffer, piece, index, first_key, count, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """(BLOCK_M, BLOCK_N) of the keys from `first_key` on, zeros from row `count` on.

    Args:
        index: number of the query tile within the piece.
    """
    row = tl.cast(index, tl.int64) * BLOCK_M
    start = buffer + row * piece.width + piece.margin + first_key
    return load_rows(start, piece.width, count, BLOCK_N, BLOCK_M, BLOCK_N, True)


@triton.jit
def load_diagonals(
    buffer, piece, index, b, m, first_row, relative, sizes,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """(BLOCK_M, BLOCK_R) of query tile `m`, a column for each row of r from `first_row` on.

    Successive queries read along the diagonals. Where their positions have no gaps they may read
    BLOCK_M + BLOCK_R columns beyond the first and the last key, where the margins are.
    """
    m_index = tl.arange(0, BLOCK_M)[:, None]
    r = tl.arange(0, BLOCK_R)[None, :]
    own = m * BLOCK_M + m_index
    row = tl.cast(index, tl.int64) * BLOCK_M
    start = buffer + row * piece.width + piece.margin + (first_row - relative.offset)
    inside = own < sizes.query_len
    if relative.position is None:
        place = start + m * BLOCK_M + (m_index * (piece.width + 1) + r)
    else:
        place = relative.position + b * relative.position_batch + own
        position = tl.load(place, mask=inside, other=0)
        place = start + m_index * piece.width + position + r
        if relative.gapless is None:
            key = position + r + (first_row - relative.offset)
            inside = inside & (key >= 0) & (key < sizes.key_len)
    return tl.load(place, mask=inside, other=0.0)


@triton.jit
def positions_of_tile(relative, b, m, sizes, BLOCK_M: tl.constexpr):
    """Least and greatest position of the queries of tile `m`."""
    least = m * BLOCK_M
    most = tl.minimum(least + BLOCK_M, sizes.query_len) - 1
    if relative.position is not None:
        own = tl.minimum(least + tl.arange(0, BLOCK_M), sizes.query_len - 1)
        position = tl.load(relative.position + b * relative.position_batch + own)
        least, most = tl.min(position, 0), tl.max(position, 0)
    return least, most


@triton.jit
def tiles_at_positions(relative, b, least, most, sizes, BLOCK_M: tl.constexpr):
    """[first, last) of the query tiles with positions from `least` to `most`, which rise and have no gaps."""
    CHUNK: tl.constexpr = 64
    tiles = tl.cdiv(sizes.query_len, BLOCK_M)
    positions = relative.position + tl.cast(b, tl.int64) * relative.position_batch
    first, last = 0, 0
    for chunk in range(0, tiles, CHUNK):
        tile = chunk + tl.arange(0, CHUNK)
        inside = tile < tiles
        begin = tl.load(positions + tile * BLOCK_M, mask=inside, other=0)
        end = tl.minimum((tile + 1) * BLOCK_M, sizes.query_len) - 1
        end = tl.load(positions + end, mask=inside, other=0)
        first += tl.sum((inside & (end < least)).to(tl.int32), 0)
        last += tl.sum((inside & (begin <= most)).to(tl.int32), 0)
    return first, last
