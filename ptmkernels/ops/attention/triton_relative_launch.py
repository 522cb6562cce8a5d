"""Host side of the backward of a relative call: piece by piece, all gradients as products with the piece."""

from __future__ import annotations

import math

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
ALIGNED = 64  # numbers: where parts of a buffer begin


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
        sum_keys: bool,
    ) -> None:
        """
        Args:
            names: those of the options whose gradient is wanted.
            inputs: of `_score_gradients`, after the rows of the gradients of the output.
            sum_keys: whether the sums of ds by key are wanted, `key_sums` (B, H, S) float32.
        """
        self.call = call
        self.names = names
        self.inputs = inputs
        self.grad_output = grad_output
        self.grads = grads
        given, query, relative = call.given, call.query, call.terms.relative
        of_keys = "relative_key" in names or "position_bias" in names
        of_values = "relative_value" in names
        self.alone = any(
            table is not None and table.shape[0] > 1
            for table in (given.relative_key, given.relative_value)
        )
        owners = call.sizes.heads * (call.sizes.batch if self.alone else 1)
        shape = (owners, *given.relative_key.shape[2:])
        sums_by_row = of_keys and given.position_bias is not None
        self.totals, parts = _one_buffer(
            query,
            call.key.shape,
            call.key.shape,
            (*query.shape[:2], call.sizes.key_len) if sum_keys else None,
            shape if of_keys else None,
            shape[:2] if sums_by_row else None,
            shape if of_values else None,
        )
        self.of_key, self.of_value, self.key_sums = parts[:3]
        self.of_keys, self.sums_by_row, self.of_values = parts[3:]
        ends = relative.inside is None
        pair = (2, *query.shape[:3])
        self.row_sums = RowSums(
            self.totals.new_empty(pair) if ends else None,
            self.totals.new_empty(pair) if ends and of_values else None,
            None if relative.segment_scores is None else self.totals.new_empty(pair),
        )

    def run(self, tile: Tile) -> None:
        call, query = self.call, self.call.query
        batch, heads, query_len, key_len = call.sizes
        rows_tile = default_tile(call, "relative")
        self.totals.zero_()
        margin = tile.m + max(rows_tile.n, MOST_KEYS)
        width = cdiv(key_len, MOST_KEYS) * MOST_KEYS + 2 * margin
        programs = cdiv(query_len, tile.m) * heads * batch
        each = PIECE_BYTES // (2 * width * query.element_size() * tile.m)
        each = min(max(1, each), programs)
        scores, weights = query.new_zeros((2, each * tile.m, width))
        piece = Piece(scores, weights, width, margin)
        for first in range(0, programs, each):
            self._piece(piece, first, min(first + each, programs), tile, rows_tile)
        torch.mul(self.of_key, call.terms.scale, out=self.grads[1])
        torch.mul(self.of_value, call.terms.dropout.scale or 1.0, out=self.grads[2])

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
        grouped = self.key_sums.view(key.shape[0], key.shape[1], self.call.group, -1)
        summed = torch.matmul(grouped, key.float()).sum(0)
        return summed.view(-1, key.shape[3]) * self.call.given.scale

    def _segments(self) -> dict[str, Tensor]:
        """Of w and g, from the sums of ds by segment, (2, B, H, L)."""
        call, given, sums = self.call, self.call.given, self.row_sums.segments
        by_head = sums.sum((1, 3))[..., None] * given.scale
        grad_key = (sums[..., None, :] @ call.query.float()).sum((1, 3)) * call.terms.scale
        if given.segment_bias is not None:
            grad_key.addcmul_(by_head, given.segment_bias.float())
        return {"segment_bias": (by_head * given.segment_key).sum(0), "segment_key": grad_key}

    def _tables(self) -> dict[str, Tensor]:
        """Of r, rv and v, from what the pieces left."""
        call, given, found = self.call, self.call.given, {}
        if self.of_values is not None:
            total = self._folded(self.of_values, given.relative_value)
            self._add_ends(total, self.row_sums.value_ends, self.grad_output)
            found["relative_value"] = total * (call.terms.dropout.scale or 1.0)
        if self.of_keys is not None:
            table, bias = given.relative_key, given.position_bias
            total = self._folded(self.of_keys, table)
            self._add_ends(total, self.row_sums.key_ends, call.query)
            total = total * call.terms.scale
            if bias is not None:
                sums = self._sums_with_ends() * given.scale
                found["position_bias"] = (sums[:, :, None] @ table.float()).sum((0, 2))
                total += self._folded(sums[..., None] * bias[:, None], table)
            found["relative_key"] = total
        return found

    def _sums_with_ends(self) -> Tensor:
        """Sums of ds by row (parts, H, R), one part for each batch row of r, with those at the ends."""
        alone = self.call.given.relative_key.shape[0] > 1
        sums = self.sums_by_row.view(-1, self.call.sizes.heads, self.sums_by_row.shape[1])
        if not alone and self.alone:
            sums = sums.sum(0, keepdim=True)
        if self.row_sums.key_ends is not None:
            for row, end in zip((0, -1), self.row_sums.key_ends.sum(-1), strict=True):
                sums[..., row] += end if alone else end.sum(0)
        return sums

    def _folded(self, parts: Tensor, table: Tensor) -> Tensor:
        """Sums (parts, H, R, D), or (parts * H, R, D), in the shape of a table that may be shared."""
        parts = parts.view(-1, self.call.sizes.heads, *parts.shape[-2:])
        if table.shape[0] == 1 and parts.shape[0] > 1:
            parts = parts.sum(0, keepdim=True)
        return parts if table.shape[1] > 1 else parts.sum(1, keepdim=True)

    def _add_ends(self, total: Tensor, ends: Tensor | None, vectors: Tensor) -> None:
        """Adds to the first and the last row what the distances outside of the rows give."""
        if ends is None:
            return
        both = torch.einsum("ebhl,bhld->ebhd", ends, vectors.float())
        for row, end in zip((0, -1), both, strict=True):
            total[:, :, row] += end.sum_to_size(*total.shape[:2], end.shape[2])


def _one_buffer(like: Tensor, *shapes: tuple | None) -> tuple[Tensor, list[Tensor | None]]:
    """A new float32 buffer on a tensor's device, and its parts of these shapes; None remains None."""
    sizes = [0 if shape is None else cdiv(math.prod(shape), ALIGNED) * ALIGNED for shape in shapes]
    buffer = like.new_empty(sum(sizes), dtype=torch.float32)
    parts = [
        None if shape is None else part[: math.prod(shape)].view(shape)
        for shape, part in zip(shapes, buffer.split(sizes), strict=True)
    ]
    return buffer, parts
