"""Host side of the gradients that relative terms share: of r, rv, u, v, w and g."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_relative_gradient
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_relative import RowSums
from ptmkernels.ops.attention.triton_terms import rows
from ptmkernels.ops.attention.triton_tiled import TiledLaunch, start
from ptmkernels.ops.triton_runtime import cdiv, multiprocessors
from ptmkernels.ops.triton_tune import Tile


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
        ends = self._ends_are_read()
        self.row_sums = RowSums(
            torch.empty(shape, **sums) if ends and self.of_keys else None,
            torch.empty(shape, **sums) if ends and self.of_values else None,
            None if call.terms.relative.segment_scores is None else torch.empty(shape, **sums),
        )

    def _ends_are_read(self) -> bool:
        """Whether a distance may lie outside of the rows; positions are not looked at."""
        relative, sizes = self.call.terms.relative, self.call.sizes
        if relative.key is None or relative.position is not None:
            return relative.key is not None
        first, last = relative.offset - (sizes.query_len - 1), relative.offset + sizes.key_len - 1
        return first < 0 or last > relative.last_row

    def gradients(
        self, grad_output: Tensor, row_terms: Tensor, key_sums: Tensor | None
    ) -> dict[str, Tensor]:
        """The wanted ones by name.

        Args:
            row_terms, key_sums: what `_backward_query` and `_backward_key` left; `key_sums` (B, H, S).
        """
        found = {}
        if "content_bias" in self.names:
            found["content_bias"] = self._content_bias(key_sums)
        if self.of_keys or self.of_values:
            start(_Tables(self.call, self, found, grad_output, row_terms))
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

    def _tables(
        self, found: dict[str, Tensor], grad_output: Tensor, row_terms: Tensor, tile: Tile
    ) -> None:
        """Of r, rv and v, into `found`."""
        call, given = self.call, self.call.given
        of_keys, sums, of_values = self._sums_by_row(grad_output, row_terms, tile)
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

    def _sums_by_row(
        self, grad_output: Tensor, row_terms: Tensor, tile: Tile
    ) -> tuple[Tensor | None, ...]:
        """(parts, H, R, D) of ds and of the weights and (parts, H, R) of ds, within the rows."""
        call = self.call
        batch, heads, _, _ = call.sizes
        head_dim, table_rows = call.query.shape[3], call.given.relative_key.shape[2]
        block_rows = max(tile.m, tile.n)  # a tile meets two blocks, not three
        phase = -call.terms.relative.offset % tile.n
        blocks = cdiv(table_rows + phase, block_rows)
        part_batch = self._part_batch(blocks * heads)
        parts = cdiv(batch, part_batch)
        of_keys = sums = of_values = None
        if self.of_keys:
            of_keys = row_terms.new_empty((parts, heads, table_rows, head_dim))
            sums = row_terms.new_empty((parts, heads, table_rows))
        if self.of_values:
            of_values = row_terms.new_empty((parts, heads, table_rows, head_dim))
        ranges, ranges_batch = call.ranges(tile)
        call.launch(
            triton_relative_gradient._relative_gradient,
            blocks * heads * parts,
            (
                *(rows(t) for t in (call.query, call.key, call.value, grad_output)),
                *(row_terms, of_keys, sums, of_values, ranges, ranges_batch),
                *(call.terms, call.sizes, row_terms.numel() // 2, part_batch, phase),
            ),
            tile,
            BLOCK_R=block_rows,
        )
        return of_keys, sums, of_values

    def _part_batch(self, programs: int) -> int:
        """Batch rows that one program adds up: all of them, where there are programs enough."""
        given, batch = self.call.given, self.call.sizes.batch
        tables = (given.relative_key, given.relative_value)
        if any(t is not None and t.shape[0] > 1 for t in tables):
            return 1
        wanted = cdiv(2 * multiprocessors(self.call.query.device), programs)
        return cdiv(batch, min(wanted, batch))


@dataclass(slots=True)
class _Tables(TiledLaunch):
    """The gradients of r, rv and v, which one kernel prepares."""

    call: Call
    shared: SharedGradients
    found: dict[str, Tensor]
    grad_output: Tensor
    row_terms: Tensor
    name: str = "relative"

    def run(self, tile: Tile) -> None:
        self.shared._tables(self.found, self.grad_output, self.row_terms, tile)
