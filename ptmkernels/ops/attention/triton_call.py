"""One call of the Triton backend: torch's tensors and options as the attention kernels take them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ptmkernels.ops import triton_tune
from ptmkernels.ops.attention import triton_kernels
from ptmkernels.ops.attention.options import AttentionOptions, takes_tf32
from ptmkernels.ops.attention.triton_config import CANDIDATES, tile_for
from ptmkernels.ops.attention.triton_terms import (
    bias_terms,
    mask_terms,
    padded,
    relative_terms,
    rows_tensor,
)
from ptmkernels.ops.attention.triton_tile import Dropout, Sizes, Terms
from ptmkernels.ops.triton_runtime import launch
from ptmkernels.ops.triton_tune import Tile

LOG2_E = 1.4426950408889634
DECODE_QUERIES = 16  # up to so many queries the keys are split instead of the queries
DECODE_ROWS = 64  # queries x heads that share a key head, at most, in one program


@dataclass
class Call:
    """The arguments of one call as the kernels take them."""

    query: Tensor  # its sign is that of the scale
    key: Tensor
    value: Tensor
    given: AttentionOptions
    terms: Terms
    sizes: Sizes
    negated: bool

    @staticmethod
    def of(query: Tensor, key: Tensor, value: Tensor, given: AttentionOptions) -> Call:
        # The softmax takes the maximum before it scales, so the scale is kept positive.
        negated = given.scale < 0
        query, key, value = (rows_tensor(t) for t in (-query if negated else query, key, value))
        sizes = Sizes(*query.shape[:3], key.shape[2])
        bias = bias_terms(given, query)
        scale = abs(given.scale)
        # Without a bias the score is the bare product; a scale of 0 must not meet -inf.
        exponent = LOG2_E * (max(scale, 1e-37) if bias.data is None else 1.0)
        dropout = Dropout(None, None, None)
        if given.dropout_p > 0.0:
            threshold = math.floor(given.dropout_p * 2**32)
            dropout = Dropout(given.seed, threshold, 1.0 / (1.0 - given.dropout_p))
        with _device(query):
            relative = relative_terms(given, query, key, negated)
        terms = Terms(mask_terms(given), bias, relative, dropout, scale, exponent)
        return Call(query, key, value, given, terms, sizes, negated)

    @property
    def empty(self) -> bool:
        return 0 in (*self.query.shape, *self.key.shape)

    @property
    def group(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @property
    def few_queries(self) -> bool:
        length = self.sizes.query_len
        if self.relative and self.group > 1:
            return False  # the rows of a program would have tables of several heads
        return length <= DECODE_QUERIES and length * self.group <= DECODE_ROWS

    @property
    def relative(self) -> bool:
        return self.terms.relative.key is not None

    @property
    def precision(self) -> str:
        """How float32 products are taken: torch's own setting of float32 matrix products."""
        return "tf32" if takes_tf32(self.query) else "ieee"

    @property
    def block_d(self) -> int:
        return padded(self.query.shape[3])

    def device(self):
        """Triton launches on the current device; the op runs on that of its tensors."""
        return _device(self.query)

    def run(self, kernel: str, work: Callable[[Tile], None]) -> None:
        """`work` with a kernel's tile: that of the table or, where tuning is on, the fastest."""
        tile = tile_for(kernel, self.block_d, self.number_type, self.extras, self.relative)
        if triton_tune.enabled() and self.query.is_cuda:
            tile = triton_tune.tuner().best(self.tuning_key(kernel), CANDIDATES[kernel], work)
        work(tile)

    def tuning_key(self, kernel: str) -> str:
        """What the choice of a tile may depend on, lengths rounded up to powers of two."""
        terms, mask = self.terms, self.terms.mask
        parts = {
            "rank": mask.rank,
            "tree": mask.tree,
            "dense": mask.allowed,
            "bias": terms.bias.data,
            "dropout": terms.dropout.seed,
            "relative": terms.relative.key,
            "position": terms.relative.position,
            "value": terms.relative.value,
            "segment": terms.relative.segment_scores,
        }
        options = "+".join(name for name, part in parts.items() if part is not None) or "plain"
        lengths = [triton.next_power_of_2(n) for n in self.sizes[2:]]
        device = torch.cuda.get_device_name(self.query.device)
        return (
            f"{device} {kernel} D{self.block_d} {self.number_type} L{lengths[0]} S{lengths[1]} "
            f"group {self.group} {options}"
        )

    @property
    def number_type(self) -> str:
        return self.precision if self.query.dtype == torch.float32 else "half"

    @property
    def extras(self) -> int:
        """How many of the terms that cost registers the call has."""
        terms, mask, relative = self.terms, self.terms.mask, self.terms.relative
        parts = (terms.dropout.seed, terms.bias.data, mask.tree, mask.allowed, relative.value)
        return sum(part is not None for part in parts)

    def constants(self) -> dict:
        """Compile-time arguments that every kernel has."""
        return {
            "GROUP": self.group,
            "HEAD_DIM": self.query.shape[3],
            "BLOCK_D": self.block_d,
            "PRECISION": self.precision,
        }

    def launch(
        self, kernel, programs: int, arguments: tuple, tile: Tile, **constants: int | bool
    ) -> None:
        """Run a kernel that has a tile; `constants` are the compile-time arguments of its own."""
        blocks = {"BLOCK_M": tile.m, "BLOCK_N": tile.n}
        constants = {**blocks, **constants, **self.constants()}
        launch(kernel, (programs,), arguments, constants, warps=tile.warps, stages=tile.stages)

    def never_full(self) -> bool:
        mask = self.terms.mask
        return mask.tree is not None or mask.allowed is not None

    def ranges(self, tile: Tile, of_keys: bool = False) -> tuple[Tensor | None, int]:
        """The tiles to visit for each query tile (key tile), and their stride over the batch."""
        mask = self.terms.mask
        if mask.rank is None:
            return None, 0
        block, other = (tile.n, tile.m) if of_keys else (tile.m, tile.n)
        length, other_length = self.sizes.query_len, self.sizes.key_len
        if of_keys:
            length, other_length = other_length, length
        tiles, others = triton.cdiv(length, block), triton.cdiv(other_length, other)
        batch = max(
            t.shape[0] for t in (self.given.key_rank, self.given.query_low, self.given.query_high)
        )
        ranges = torch.empty((batch, tiles, 4), dtype=torch.int32, device=self.query.device)
        launch(
            triton_kernels._tile_ranges,
            (tiles, batch),
            (ranges, mask, self.sizes, tiles, others),
            {
                "BLOCK": block,
                "BLOCK_OTHER": other,
                "CHUNK": max(1, 1024 // other),
                "OF_KEYS": of_keys,
                "NEVER_FULL": self.never_full(),
            },
            warps=4,
        )
        return ranges, (tiles * 4 if batch > 1 else 0)

    def tile_classes(self, length: int, block: int) -> dict:
        """Whether every tile is full, or none can be: the code of the other kind is left out."""
        return {
            "ALL_FULL": self.terms.mask.rank is None and length % block == 0,
            "NEVER_FULL": self.never_full(),
        }


def _device(tensor: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
