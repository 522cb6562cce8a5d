"""What the Triton kernels of word vectors share: rows of matrices, products, draws, and tile sizes.

In all kernels `b` and ids of rows are int64, so that no offset overflows with vocabularies of any size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

MAX_OUTPUTS, MAX_COLUMNS = 16, 512  # of a tile
TILE_OF_A_WARP = 1024  # elements: 32 registers of a thread


class Matrix(NamedTuple):
    """Rows whose columns lie together."""

    data: Any
    stride: Any  # elements between rows
    width: Any  # D


class Noise(NamedTuple):
    """Where negatives come from: given ids, or an alias table and the key of its draws."""

    given: Any  # int64 (B, N) or None
    table: Any  # int64 (V,), threshold << 32 | alias
    seed: Any  # int64 (1,)
    size: Any  # V


def matrix(tensor: Tensor) -> Matrix:
    """`tensor` (rows, D), its last stride 1, as the kernels take it."""
    return Matrix(tensor, tensor.stride(0), tensor.shape[1])


def tile(outputs: int, width: int) -> tuple[dict[str, int], int]:
    """Block sizes for so many output rows of `width` columns, and the warps of a program."""
    block_o = min(MAX_OUTPUTS, triton.next_power_of_2(max(outputs, 1)))
    block_d = min(MAX_COLUMNS, max(16, triton.next_power_of_2(width)))
    warps = min(4, max(1, block_o * block_d // TILE_OF_A_WARP))
    return {"BLOCK_O": block_o, "BLOCK_D": block_d}, warps


@triton.jit
def load_rows(rows, ids, known, first, BLOCK_D: tl.constexpr):
    """(BLOCK_O, BLOCK_D) float32: columns from `first` on of rows `ids` (BLOCK_O,); 0 if not `known`."""
    d = first + tl.arange(0, BLOCK_D)
    pointers = rows.data + ids.to(tl.int64)[:, None] * rows.stride + d[None, :]
    inside = known[:, None] & (d < rows.width)[None, :]
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def products(hidden, b, weight, ids, known, BLOCK_O: tl.constexpr, BLOCK_D: tl.constexpr):
    """(BLOCK_O,) products of row `b` of `hidden` with rows `ids` of `weight`; 0 where not `known`."""
    total = tl.zeros([BLOCK_O], tl.float32)
    for first in range(0, weight.width, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        h = tl.load(hidden.data + b * hidden.stride + d, mask=d < hidden.width, other=0.0)
        rows = load_rows(weight, ids, known, first, BLOCK_D)
        total += tl.sum(rows * h.to(tl.float32)[None, :], 1)
    return total


@triton.jit
def softplus(x):
    """log(1 + exp(x)), accurate where it is near 0: log1p by its series."""
    e = tl.exp(-tl.abs(x))
    series = e * (1.0 - e * (0.5 - e * 0.3333333333333333))
    return tl.maximum(x, 0.0) + tl.where(e < 1e-3, series, tl.log(1.0 + e))


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def low_word(x):
    return (x & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def scaled(word, size):
    """floor(word * size / 2**32): a uniform number below `size` from a uniform 32-bit word."""
    return ((word.to(tl.uint64) * tl.cast(size, tl.uint64)) >> 32).to(tl.int64)


@triton.jit
def resolve(noise, cell_word, threshold):
    """Ids that a pair of random words draws from the alias table."""
    cell = scaled(cell_word, noise.size)
    entry = tl.load(noise.table + cell)
    return tl.where(threshold < low_word(entry >> 32), cell, entry & 0xFFFFFFFF)
