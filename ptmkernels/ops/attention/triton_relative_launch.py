"""Host side of the gradients that relative terms share: of r, rv, u, v, w and g."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import triton
from torch import Tensor

from ptmkernels.ops.attention import triton_relative_gradient
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_config import tile_for
from ptmkernels.ops.attention.triton_relative import RowSums
from ptmkernels.ops.attention.triton_relative_gradient import NO_PIECE, Piece
from ptmkernels.ops.attention.triton_terms import rows
from ptmkernels.ops.attention.triton_tiled import RowTiles, TiledLaunch
from ptmkernels.ops.triton_runtime import cdiv, launch
from ptmkernels.ops.triton_tune import Tile

# Of ds and the weights, at most, that are in memory at a time; little enough to stay in a GPU's second cache.
PIECE_BYTES = 32 << 20


class SharedGradients:
    """The gradients of the relative terms in one backward call.

    du_h = scale sum_j (sum_i ds_ij) k_j, dv_h = scale sum_row (sum of its ds_ij) r_row and the like for
    w: sums over queries or keys that the kernels leave, times what is shared.
    """

    def __init__(self, call: Call, names: list[str]) -> None:
        """`names`: those of the options whose gradient is wanted."""
        self.call = call
        self.names = names
        self.of_keys = bool({"relative_key", "position_bias"} & set(names))
        self.of_values = "relative_value" in names
        shape = (2, *call.query.shape[:3])
        sums = {"dtype": torch.float32, "device": call.query.device}
        relative = call.terms.relative
        ends = relative.key is not None and relative.inside is None
        self.row_sums = RowSums(
            torch.empty(shape, **sums) if ends and self.of_keys else None,
            torch.empty(shape, **sums) if ends and self.of_values else None,
            None if call.terms.relative.segment_scores is None else torch.empty(shape, **sums),
        )

    def gradients(self, grad_output: Tensor, key_sums: Tensor | None) -> dict[str, Tensor]:
        """The wanted ones by name.

        Args:
            key_sums: (B, H, S), what `_backward_key` left.
        """
        found = {}
        if "content_bias" in self.names:
            found["content_bias"] = self._content_bias(key_sums)
        if self.of_keys or self.of_values:
            found |= self._tables(grad_output)
        if {"segment_bias", "segment_key"} & set(self.names):
            found |= self._segments()
        given = self.call.given
        return {
            name: found[name].to(getattr(given, name).dtype).contiguous()
            for name in self.names
            if name in found
        }

    def _content_bias(self, key_sums: Tensor) -> Tensor:
        key = self.call.key
        grouped = key_sums.unflatten(1, (key.shape[1], self.call.group))
        summed = (grouped @ key.float()).sum(0).flatten(0, 1)
        return summed * self.call.given.scale

    def _segments(self) -> dict[str, Tensor]:
        """Of w and g, from the sums of ds by segment, (2, B, H, L)."""
        call, given, sums = self.call, self.call.given, self.row_sums.segments
        by_head = sums.sum((1, 3))[..., None] * given.scale
        grad_key = torch.einsum("gbhl,bhld->ghd", sums, call.query.float()) * call.terms.scale
        if given.segment_bias is not None:
            grad_key = grad_key + by_head * given.segment_bias.float()
        return {"segment_bias": (by_head * given.segment_key).sum(0), "segment_key": grad_key}

    def query_launch(self, kernel, arguments: tuple, grad_output: Tensor) -> TiledLaunch:
        """The launch of the queries' gradients, which prepares those of r, rv and v where they are wanted."""
        if not (self.of_keys or self.of_values):
            return RowTiles(self.call, "backward_query", kernel, (*arguments, NO_PIECE))
        given, sizes = self.call.given, self.call.sizes
        tables = (given.relative_key, given.relative_value)
        owners = sizes.heads
        if any(table is not None and table.shape[0] > 1 for table in tables):
            owners *= sizes.batch
        shape = (owners, *given.relative_key.shape[2:])
        new = partial(torch.empty, dtype=torch.float32, device=self.call.query.device)
        self.totals = (
            new(shape) if self.of_keys else None,
            new(shape[:2]) if self.of_keys and given.position_bias is not None else None,
            new(shape) if self.of_values else None,
        )
        return QueryPieces(self.call, kernel, arguments, grad_output, self.totals)

    def _tables(self, grad_output: Tensor) -> dict[str, Tensor]:
        """Of r, rv and v, from what the pieces left."""
        call, given, found = self.call, self.call.given, {}
        of_keys, sums, of_values = (
            None if total is None else total.unflatten(0, (-1, call.sizes.heads))
            for total in self.totals
        )
        if of_values is not None:
            total = self._folded(of_values, given.relative_value)
            self._add_ends(total, self.row_sums.value_ends, grad_output)
            found["relative_value"] = total * (call.terms.dropout.scale or 1.0)
        if of_keys is not None:
            table, bias = given.relative_key, given.position_bias
            total = self._folded(of_keys, table)
            self._add_ends(total, self.row_sums.key_ends, call.query)
            found["relative_key"] = total * call.terms.scale
            if bias is not None:
                sums = self._sums_with_ends(sums) * given.scale
                of_heads = table.expand(-1, call.sizes.heads, -1, -1).float()
                found["position_bias"] = torch.einsum("bhr,bhrd->hd", sums, of_heads)
                found["relative_key"] += self._folded(sums[..., None] * bias[:, None], table)
        return found

    def _sums_with_ends(self, sums: Tensor) -> Tensor:
        """Sums of ds by row (parts, H, R), one part for each batch row of r, with those at the ends."""
        alone = self.call.given.relative_key.shape[0] > 1
        sums = sums if alone else sums.sum(0, keepdim=True)
        if self.row_sums.key_ends is not None:
            for row, end in zip((0, -1), self.row_sums.key_ends.sum(-1), strict=True):
                sums[..., row] += end if alone else end.sum(0)
        return sums

    def _folded(self, parts: Tensor, table: Tensor) -> Tensor:
        """Sums (parts, H, R, D) in the shape of a table that batch rows or heads may share."""
        if table.shape[0] == 1:
            parts = parts.sum(0, keepdim=True)
        return parts if table.shape[1] > 1 else parts.sum(1, keepdim=True)

    def _add_ends(self, total: Tensor, ends: Tensor | None, vectors: Tensor) -> None:
        """Adds to the first and the last row what the distances outside of the rows give."""
        if ends is None:
            return
        both = torch.einsum("ebhl,bhld->ebhd", ends, vectors.float())
        for row, end in zip((0, -1), both, strict=True):
            total[:, :, row] += end.sum_to_size(*total.shape[:2], end.shape[2])


@dataclass(slots=True)
class QueryPieces(TiledLaunch):
    """The kernel of the queries' gradients, piece by piece, and after each the gradients of r and rv.

    Args:
        arguments: of the kernel, up to the piece.
        grad_output: (B, H, L, D).
        totals: of the rows of r, of their sums and of the rows of rv, each None where it is not wanted.
    """

    call: Call
    kernel: triton.JITFunction
    arguments: tuple
    grad_output: Tensor
    totals: tuple[Tensor | None, ...]
    name: str = "backward_query"

    def run(self, tile: Tile) -> None:
        call = self.call
        of_keys, sums, of_values = self.totals
        for total in self.totals:
            if total is not None:
                total.zero_()
        batch, heads, query_len, key_len = call.sizes
        wanted = (of_keys is not None, of_values is not None)
        width = cdiv(key_len, 128) * 128
        row_bytes = width * call.query.element_size() * sum(wanted)
        programs = cdiv(query_len, tile.m) * heads * batch
        each = min(max(1, PIECE_BYTES // (row_bytes * tile.m)), programs)
        scores, weights = (
            call.query.new_empty((each * tile.m, width)) if there else None for there in wanted
        )
        ranges = call.ranges(tile)
        for first in range(0, programs, each):
            last = min(first + each, programs)
            piece = Piece(first, last, scores, weights, width)
            call.launch(
                self.kernel,
                last - first,
                (*self.arguments, piece, *ranges, call.terms, call.sizes),
                tile,
                **call.tile_classes(key_len, tile.n),
            )
            if scores is not None:
                self._add_rows(call.query, scores, of_keys, sums, piece, ranges, tile)
            if weights is not None:
                self._add_rows(self.grad_output, weights, of_values, None, piece, ranges, tile)

    def _add_rows(
        self,
        vectors: Tensor,
        buffer: Tensor,
        total: Tensor,
        sums: Tensor | None,
        piece: Piece,
        ranges: tuple,
        tile: Tile,
    ) -> None:
        """Adds what a piece gives to the rows of r or of rv."""
        call = self.call
        own = tile_for("relative", call.block_d, call.number_type, call.extras, True)
        constants = {name: n for name, n in call.constants.items() if name != "GROUP"}
        launch(
            triton_relative_gradient._relative_gradient,
            (cdiv(total.shape[1], own.m) * total.shape[0],),
            (
                *(rows(vectors), buffer, total, sums, piece),
                *(call.terms.relative, call.sizes, *ranges),
            ),
            {
                "ALONE": total.shape[0] > call.sizes.heads,
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                "BLOCK_R": own.m,
                **constants,
            },
            warps=own.warps,
            stages=own.stages,
        )
