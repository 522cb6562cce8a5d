"""One call of the Triton backend: torch's tensors and options as the attention kernels take them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ptmkernels.ops.attention.options import AttentionOptions, takes_tf32
from ptmkernels.ops.attention.triton_ranges import tile_ranges
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
NO_DROPOUT = Dropout(None, None, None)


@dataclass(slots=True)
class Call:
    """The arguments of one call as the kernels take them; :func:`prepare` makes it."""

    query: Tensor  # its sign is that of the scale
    key: Tensor
    value: Tensor
    given: AttentionOptions
    terms: Terms
    sizes: Sizes
    negated: bool
    group: int  # query heads for each key head
    block_d: int  # D as the tiles have it
    number_type: str  # "half", "tf32" or "ieee", as the tables of tiles have it
    constants: dict  # the compile-time arguments that every kernel has

    @property
    def relative(self) -> bool:
        return self.terms.relative.key is not None

    @property
    def few_queries(self) -> bool:
        length = self.sizes.query_len
        if self.relative and self.group > 1:
            return False  # the rows of a program would have tables of several heads
        return length <= DECODE_QUERIES and length * self.group <= DECODE_ROWS

    @property
    def extras(self) -> int:
        """How many of the terms that cost registers the call has."""
        terms, mask, relative = self.terms, self.terms.mask, self.terms.relative
        parts = (terms.dropout.seed, terms.bias.data, mask.tree, mask.allowed, relative.value)
        return sum(part is not None for part in parts)

    @property
    def never_full(self) -> bool:
        """Whether every tile needs a test of its scores."""
        mask = self.terms.mask
        return mask.tree is not None or mask.allowed is not None

    def tile_classes(self, length: int, block: int) -> dict:
        """Whether every tile is full, or none can be: the code of the other kind is left out."""
        return {
            "ALL_FULL": self.terms.mask.rank is None and length % block == 0,
            "NEVER_FULL": self.never_full,
        }

    def ranges(self, tile: Tile, of_keys: bool = False) -> tuple[Tensor | None, int]:
        """The tiles to visit for each query tile (key tile), and their stride over the batch."""
        if self.terms.mask.rank is None:
            return None, 0
        return tile_ranges(self.given, self.terms.mask, self.sizes, tile, of_keys, self.never_full)

    def launch(
        self, kernel, programs: int, arguments: tuple, tile: Tile, **constants: int | bool
    ) -> None:
        """Run a kernel that has a tile; `constants` are the compile-time arguments of its own."""
        constants = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, **constants, **self.constants}
        launch(kernel, (programs,), arguments, constants, warps=tile.warps, stages=tile.stages)


def prepare(query: Tensor, key: Tensor, value: Tensor, given: AttentionOptions) -> Call:
    """The call of an op with these arguments, none of them empty, on the current device."""
    negated = given.scale < 0
    # The softmax takes the maximum before it scales, so the scale is kept positive.
    query, key, value = (
        rows_tensor(-query if negated else query),
        rows_tensor(key),
        rows_tensor(value),
    )
    batch, heads, query_len, head_dim = query.shape
    bias = bias_terms(given, query)
    scale = abs(given.scale)
    # Without a bias the score is the bare product; a scale of 0 must not meet -inf.
    exponent = LOG2_E * (max(scale, 1e-37) if bias.data is None else 1.0)
    dropout = NO_DROPOUT
    if given.dropout_p > 0.0:
        threshold = math.floor(given.dropout_p * 2**32)
        dropout = Dropout(given.seed, threshold, 1.0 / (1.0 - given.dropout_p))
    relative = relative_terms(given, query, key, negated)
    # Products of float32 are taken as torch's own setting of matrix products says.
    precision = "tf32" if takes_tf32(query) else "ieee"
    group, block_d = heads // key.shape[1], padded(head_dim)
    return Call(
        query=query,
        key=key,
        value=value,
        given=given,
        terms=Terms(mask_terms(given), bias, relative, dropout, scale, exponent),
        sizes=Sizes(batch, heads, query_len, key.shape[2]),
        negated=negated,
        group=group,
        block_d=block_d,
        number_type=precision if query.element_size() == 4 else "half",
        constants={
            "GROUP": group,
            "HEAD_DIM": head_dim,
            "BLOCK_D": block_d,
            "PRECISION": precision,
        },
    )
