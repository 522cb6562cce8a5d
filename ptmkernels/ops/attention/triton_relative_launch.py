"""Host side of the backward of a relative call: piece by piece, all gradients as products with the piece."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_relative_backward, triton_relative_gradient
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_piece import Piece
from ptmkernels.ops.attention.triton_relative import RowSums
from ptmkernels.ops.attention.triton_terms import rows
from ptmkernels.ops.attention.triton_tiled import TiledLaunch, default_tile
from ptmkernels.ops.triton_runtime import cdiv
from ptmkernels.ops.triton_tune import Tile

# Of ds and the weights, at most, that are in memory at a time; little enough to stay in a GPU's second cache.
PIECE_BYTES = 32 << 20
MOST_KEYS = 128  # in a tile


class RelativeGradients(TiledLaunch):
    """The gradients of one backward call with relative keys.

    The launch fills those of query, key and value and sums from which :meth:`options` makes the others:
    du_h = scale sum_j (sum_i ds_ij) k_j, dv_h = scale sum_row (sum of its ds_ij) r_row and the like for w.
    """

    name = "backward_query"

    def __init__(
        self,
        call: Call,
        names: list[str],
        inputs: tuple,
        grad_output: Tensor,
        grads: list[Tensor],
        key_sums: Tensor | None,
    ) -> None:
        """
        Args:
            names: those of the options whose gradient is wanted.
            inputs: of `_score_gradients`, after the rows of the gradients of the output.
            key_sums: (B, H, S) float32 to fill, or None.
        """
        self.call = call
        self.names = names
        self.inputs = inputs
        self.grad_output = grad_output
        self.grads = grads
        given, query, relative = call.given, call.query, call.terms.relative
        new = partial(torch.empty, dtype=torch.float32, device=query.device)
        ends = relative.inside is None
        self.key_sums = key_sums
        self.of_key, self.of_value = new(call.key.shape), new(call.key.shape)
        self.of_keys = self.sums_by_row = self.of_values = None
        tables = (given.relative_key, given.relative_value)
        self.alone = any(table is not None and table.shape[0] > 1 for table in tables)
        owners = call.sizes.heads * (call.sizes.batch if self.alone else 1)
        shape = (owners, *given.relative_key.shape[2:])
        if {"relative_key", "position_bias"} & set(names):
            self.of_keys = new(shape)
            if given.position_bias is not None:
                self.sums_by_row = new(shape[:2])
        if "relative_value" in names:
            self.of_values = new(shape)
        pair = (2, *query.shape[:3])
        self.row_sums = RowSums(
            new(pair) if ends else None,
            new(pair) if ends and self.of_values is not None else None,
            None if relative.segment_scores is None else new(pair),
        )

    def run(self, tile: Tile) -> None:
        call, query = self.call, self.call.query
        batch, heads, query_len, key_len = call.sizes
        rows_tile = default_tile(call, "relative")
        for total in (
            *(self.of_key, self.of_value, self.key_sums),
            *(self.of_keys, self.sums_by_row, self.of_values),
        ):
            if total is not None:
                total.zero_()
        margin = tile.m + max(rows_tile.n, MOST_KEYS)
        width = cdiv(key_len, MOST_KEYS) * MOST_KEYS + 2 * margin
        programs = cdiv(query_len, tile.m) * heads * batch
        each = PIECE_BYTES // (2 * width * query.element_size() * tile.m)
        each = min(max(1, each), programs)
        scores, weights = query.new_zeros((2, each * tile.m, width))
        piece = Piece(scores, weights, width, margin)
        for first in range(0, programs, each):
            self._piece(piece, first, min(first + each, programs), tile, rows_tile)
        for grad, total, scale in (
            (self.grads[1], self.of_key, call.terms.scale),
            (self.grads[2], self.of_value, call.terms.dropout.scale or 1.0),
        ):
            grad.copy_(total * scale)

    def _piece(self, piece: Piece, first: int, last: int, tile: Tile, rows_tile: Tile) -> None:
        """Fill a piece with query tiles [first, last) and add what it gives to every gradient."""
        call = self.call
        relative, sizes = call.terms.relative, call.sizes
        ranges = call.ranges(tile)
        query, key, value = (rows(t) for t in (call.query, call.key, call.value))
        grad_output = rows(self.grad_output)
        count = last - first
        call.launch(
            triton_relative_backward._score_gradients,
            count,
            (
                *(query, key, value, *self.inputs, self.row_sums),
                *(piece, first, *ranges, call.terms, sizes),
            ),
            tile,
            **call.tile_classes(sizes.key_len, tile.n),
        )
        product = Tile(tile.m, tile.n, rows_tile.warps, rows_tile.stages)
        call.launch(
            triton_relative_gradient._query_products,
            count,
            (key, rows(self.grads[0]), self.row_sums, piece, first, *ranges, call.terms, sizes),
            product,
            BLOCK_R=rows_tile.n,
        )
        product = Tile(tile.m, rows_tile.n, rows_tile.warps, rows_tile.stages)
        tiles = cdiv(sizes.query_len, tile.m) * call.group
        groups = (last - 1) // tiles - first // tiles + 1
        call.launch(
            triton_relative_gradient._key_products,
            groups * cdiv(sizes.key_len, product.n),
            (
                *(
                    query,
                    grad_output,
                    self.of_key,
                    self.of_value,
                    self.key_sums,
                    piece,
                    first,
                    last,
                ),
                *(*call.ranges(product, of_keys=True), call.terms, sizes),
            ),
            product,
        )
        for vectors, buffer, total, sums in (
            (query, piece.scores, self.of_keys, self.sums_by_row),
            (grad_output, piece.weights, self.of_values, None),
        ):
            if total is not None:
                call.launch(
                    triton_relative_gradient._relative_gradient,
                    cdiv(total.shape[1], product.n) * total.shape[0],
                    (vectors, buffer, total, sums, piece, first, last, relative, sizes),
                    product,
                    ALONE=self.alone,
                )

    def options(self) -> dict[str, Tensor]:
        """The wanted gradients of the relative terms by name."""
        found = self._tables()
        if "content_bias" in self.names:
            found["content_bias"] = self._content_bias()
        if {"segment_bias", "segment_key"} & set(self.names):
            found |= self._segments()
        given = self.call.given
        return {
            name: found[name].to(getattr(given, name).dtype).contiguous()
            for name in self.names
            if name in found
        }

    def _content_bias(self) -> Tensor:
        key = self.call.key
        grouped = self.key_sums.unflatten(1, (key.shape[1], self.call.group))
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

    def _tables(self) -> dict[str, Tensor]:
        """Of r, rv and v, from what the pieces left."""
        call, given, found = self.call, self.call.given, {}
        of_keys, sums, of_values = (
            None if total is None else total.unflatten(0, (-1, call.sizes.heads))
            for total in (self.of_keys, self.sums_by_row, self.of_values)
        )
        if of_values is not None:
            total = self._folded(of_values, given.relative_value)
            self._add_ends(total, self.row_sums.value_ends, self.grad_output)
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
