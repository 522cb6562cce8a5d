"""How the tokens of a batch lie while the layers run: padded, or the real ones alone in one row.

Half of a padded batch is often padding, which every linear layer would compute. A :class:`Row` gathers the
tokens once at the input, (B, L, ...) to (1, T, ...), and scatters results once at the end; the interval mask
keeps the rows of the batch apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.masks import AttentionMask

__all__ = ["Padded", "Row"]


class Padded:
    """The batch as it came."""

    def gather(self, values: Tensor) -> Tensor:
        return values

    def scatter(self, values: Tensor) -> Tensor:
        return values

    def mask(self, mask: AttentionMask | None) -> AttentionMask | None:
        return mask

    def first(self, values: Tensor) -> Tensor:
        """(B, ...): column 0 of each batch row; zeros where rows have none."""
        return values[:, :1].sum(1)


class Row:
    """The kept tokens of a batch as one row of T tokens, batch row after batch row.

    Args:
        keep: (B, L) booleans, true in column 0, which poolers read.
        count: T, how many are kept.
    """

    def __init__(self, keep: Tensor, count: int) -> None:
        self.shape = keep.shape
        self.index = torch.nonzero_static(keep.flatten(), size=count).squeeze(1)  # (T,)
        self.rows = self.index // keep.shape[1]
        self.columns = self.index % keep.shape[1]
        counts = keep.sum(1)
        self.starts = counts.cumsum(0) - counts  # (B,)

    def gather(self, values: Tensor) -> Tensor:
        """(B or 1, L, ...) to (1, T, ...)."""
        if values.shape[0] == 1:
            return values.index_select(1, self.columns)
        return values.flatten(0, 1).index_select(0, self.index)[None]

    def scatter(self, values: Tensor) -> Tensor:
        """(1, T, ...) to (B, L, ...), zeros where nothing was kept."""
        padded = values.new_zeros((self.shape.numel(), *values.shape[2:]))
        return padded.index_copy_(0, self.index, values[0]).unflatten(0, self.shape)

    def mask(self, mask: AttentionMask) -> AttentionMask:
        """The mask of the batch, for the row."""
        return mask.gather(self.rows, self.columns)

    def cross_mask(self, keys: Row) -> AttentionMask:
        """For attention from this row to another row of the same batch: each sees its own batch row."""
        length = keys.rows.shape[0]
        first = keys.starts[self.rows]
        ends = torch.nn.functional.pad(keys.starts[1:], (0, 1), value=length)
        rank = torch.arange(length, device=first.device)
        return AttentionMask(rank, first, ends[self.rows] - 1)

    def first(self, values: Tensor) -> Tensor:
        """(1, T, ...) to (B, ...): column 0 of each batch row."""
        return values[0].index_select(0, self.starts)
