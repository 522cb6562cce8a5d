"""The tiles that a mask lets each tile visit, computed once for a mask and a shape of tile.

Every layer of a model is called with the same mask, forward and backward. The ranges of its tiles are kept
for as long as the mask's tensors live, and computed anew where they may have changed:

- A change in place is seen by the version counter of the tensor. Tensors that have none, those made under
  `torch.inference_mode`, are never remembered.
- Only tensors that a caller of the public functions holds are remembered. Code that torch.compile made may
  write into its own buffers without counting versions.
- While a CUDA graph is captured, nothing remembered is read, so that the graph computes the ranges whenever
  it is replayed, and nothing is remembered, because the memory is the graph's.
- What was computed on one stream is used on that stream only.

A change that torch does not count is not seen: through `.data`, a pointer, or the replay of a CUDA graph.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_kernels
from ptmkernels.ops.attention.options import AttentionOptions
from ptmkernels.ops.attention.triton_tile import Mask, Sizes
from ptmkernels.ops.triton_runtime import cdiv, current_stream, launch
from ptmkernels.ops.triton_tune import Tile

_Vectors = tuple[Tensor, Tensor, Tensor]


class _Ranges:
    """The ranges of one mask by shape of tile, of one state of its tensors."""

    def __init__(self, vectors: _Vectors, key: tuple[int, ...]) -> None:
        def forget(_) -> None:
            _known.pop(key, None)

        self.tensors = [weakref.ref(tensor, forget) for tensor in vectors]
        self.versions = None
        self.made: dict[tuple, Tensor] = {}

    def current(self, vectors: _Vectors) -> dict[tuple, Tensor]:
        """What was made and still holds."""
        versions = [tensor._version for tensor in vectors]
        if versions != self.versions:
            self.versions = versions
            self.made = {}
        return self.made


_known: dict[tuple[int, ...], _Ranges] = {}  # by the identities of a mask's three tensors


def _key(vectors: _Vectors) -> tuple[int, ...]:
    return tuple(map(id, vectors))


def remember(given: AttentionOptions) -> None:
    """From now on keep the ranges of the mask that `given` has, whose tensors the caller holds."""
    vectors = given[:3]
    key = _key(vectors)
    if key in _known:
        return
    if any(type(t) is not Tensor or t.is_inference() or t.is_meta for t in vectors):
        return
    _known[key] = _Ranges(vectors, key)


def tile_ranges(
    given: AttentionOptions,
    mask: Mask,
    sizes: Sizes,
    tile: Tile,
    of_keys: bool,
    never_full: bool,
) -> tuple[Tensor, int]:
    """(B or 1, tiles, 4) int32 of :func:`triton_kernels._tile_ranges`, and its stride over the batch.

    Args:
        given, mask: the options of a call with a mask, and its mask as the kernels take it.
        of_keys: the query tiles of each key tile instead of the key tiles of each query tile.
        never_full: the mask has parts beside the intervals, so that no tile goes without a test.
    """
    vectors = given[:3]
    block, other = (tile.n, tile.m) if of_keys else (tile.m, tile.n)
    known = _known.get(_key(vectors))
    if known is None or capturing(mask.rank):
        ranges = _computed(vectors, mask, sizes, block, other, of_keys, never_full)
    else:
        made = known.current(vectors)
        key = (block, other, of_keys, never_full, current_stream())
        ranges = made.get(key)
        if ranges is None:
            ranges = _computed(vectors, mask, sizes, block, other, of_keys, never_full)
            made[key] = ranges
    return ranges, (ranges.stride(0) if ranges.shape[0] > 1 else 0)


def capturing(tensor: Tensor) -> bool:
    """Whether what runs on the device of `tensor` now becomes a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _computed(
    vectors: _Vectors,
    mask: Mask,
    sizes: Sizes,
    block: int,
    other: int,
    of_keys: bool,
    never_full: bool,
) -> Tensor:
    length, other_length = sizes.query_len, sizes.key_len
    if of_keys:
        length, other_length = other_length, length
    tiles, others = cdiv(length, block), cdiv(other_length, other)
    batch = max(tensor.shape[0] for tensor in vectors)
    ranges = vectors[0].new_empty((batch, tiles, 4))
    launch(
        triton_kernels._tile_ranges,
        (tiles, batch),
        (ranges, mask, sizes, tiles, others),
        {
            "BLOCK": block,
            "BLOCK_OTHER": other,
            "CHUNK": max(1, 1024 // other),
            "OF_KEYS": of_keys,
            "NEVER_FULL": never_full,
        },
        warps=4,
    )
    return ranges
