"""An attention mask as its tensors: their checks, what two of them allow, the dense form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ptmkernels._mask_tensors import (
    LOWEST,
    PADDED,
    check_places,
    check_same_batch,
    check_same_size,
    int32_rows,
    normal_tree,
    one_row,
    to_int32,
    tree_visible,
    within,
)
from ptmkernels._rank_source import Source, rank_source

if TYPE_CHECKING:
    from typing_extensions import Self

# What the ranks of a mask mean, which says what `&` may do with it: every interval holds all of them, so
# that any order of the keys will do; they are the key positions; they are an order of the mask's own.
ANY, POSITION, OWN = range(3)

NAMES = ("key_rank", "query_low", "query_high", "branches", "allowed")  # of the tensors of a mask


class IntervalMask:
    """What a mask is and can do; :class:`ptmkernels.AttentionMask` describes the tensors and names masks."""

    __slots__ = ("_order", "_source", "allowed", "branches", "key_rank", "query_high", "query_low")

    def __init__(
        self,
        key_rank: Tensor,
        query_low: Tensor,
        query_high: Tensor,
        *,
        branches: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        self.key_rank = int32_rows("key_rank", key_rank)
        self.query_low = int32_rows("query_low", query_low)
        kept = "; 2**31 - 1 is kept for padded keys"
        high = int32_rows("query_high", query_high)
        self.query_high = within("query_high", high, LOWEST, PADDED - 1, kept)
        self.branches = None if branches is None else self._checked_branches(branches)
        self.allowed = None if allowed is None else self._checked_allowed(allowed)
        self._order = OWN
        self._source = rank_source("given", key_rank)
        if self.query_low.shape[1] != self.query_high.shape[1]:
            raise ValueError(
                f"query_low has {self.query_low.shape[1]} queries and query_high "
                f"{self.query_high.shape[1]}; expected the same number"
            )
        check_same_batch(dict(zip(NAMES, self._tensors(), strict=True)))

    def _checked_branches(self, branches: Tensor) -> Tensor:
        branches = to_int32("branches", branches)
        if branches.dim() != 3 or branches.shape[1:] != (3, self.key_len):
            raise ValueError(
                f"branches has shape {tuple(branches.shape)}; expected (B or 1, 3, {self.key_len})"
            )
        if self.query_len > self.key_len:
            raise ValueError(
                f"a tree has no more queries than keys; got {self.query_len} and {self.key_len}"
            )
        return normal_tree(branches)

    def _checked_allowed(self, allowed: Tensor) -> Tensor:
        if not isinstance(allowed, Tensor):
            raise TypeError(f"allowed is a {type(allowed).__name__}; expected a boolean tensor")
        if allowed.dtype != torch.bool:
            raise TypeError(f"allowed has dtype {allowed.dtype}; expected torch.bool")
        sizes = (self.query_len, self.key_len)
        if allowed.dim() not in (2, 3, 4) or allowed.shape[-2:] != sizes:
            raise ValueError(
                f"allowed has shape {tuple(allowed.shape)}; expected (L, S), (B or 1, L, S) or "
                f"(B or 1, H or 1, L, S) with (L, S) = {sizes}"
            )
        if allowed.dim() < 4:
            allowed = allowed.reshape(-1 if allowed.dim() == 3 else 1, 1, *sizes)
        return allowed.contiguous()

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return (self.key_rank, self.query_low, self.query_high, self.branches, self.allowed)

    @property
    def batch_size(self) -> int:
        """B, or 1 where the mask holds for every row of a batch."""
        sizes = [t.shape[0] for t in self._tensors() if t is not None]
        return next((size for size in sizes if size != 1), 1)

    @property
    def query_len(self) -> int:
        """L, the number of queries."""
        return self.query_low.shape[1]

    @property
    def key_len(self) -> int:
        """S, the number of keys."""
        return self.key_rank.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors of the mask are."""
        return self.key_rank.device

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Self:
        """The same mask on another device."""
        moved = [
            None if t is None else t.to(device, non_blocking=non_blocking) for t in self._tensors()
        ]
        return self._of(moved, self._order, self._source)

    def __reduce__(self) -> tuple:
        return self._of, (self._tensors(), self._order)

    def ranks_like(self, other: Self) -> bool:
        """Whether both masks rank the keys alike, as far as that is known without looking at the values.

        It is where both have one and the same `key_rank`, where their ranks are positions, and where the same
        constructors made them from the same tensors.
        """
        if self.key_rank is other.key_rank:
            return True
        return self._source is not None and self._source == other._source

    def __repr__(self) -> str:
        extra = "".join(f", {n}" for n in ("branches", "allowed") if getattr(self, n) is not None)
        return (
            f"{type(self).__name__}(batch_size={self.batch_size}, query_len={self.query_len}, "
            f"key_len={self.key_len}{extra}, device={self.device})"
        )

    @classmethod
    def _of(
        cls, tensors: Sequence[Tensor | None], order: int = OWN, source: Source | None = None
    ) -> Self:
        """A mask of tensors that are known to be right."""
        mask = cls.__new__(cls)
        rows = [None if t is None else t.contiguous() for t in tensors]
        mask.key_rank, mask.query_low, mask.query_high, mask.branches, mask.allowed = rows
        mask._order = order
        mask._source = source
        return mask

    def _expanded(self, *, tree: bool, allowed: bool, heads: int) -> list[Tensor | None]:
        """The tensors with the whole batch size; `tree` and `allowed` filled in where asked for."""
        rows = list(self._tensors())
        if tree and self.branches is None:
            one = torch.ones_like(self.key_rank[:1])
            rows[3] = normal_tree(
                torch.stack([one, one, one - 1], dim=1)
            )  # on the trunk, no branch
        if allowed:
            sizes = (1, 1, self.query_len, self.key_len)
            dense = self.key_rank.new_ones(sizes, dtype=torch.bool)
            dense = dense if self.allowed is None else self.allowed
            rows[4] = dense.expand(-1, heads, -1, -1)
        return [None if t is None else t.expand(self.batch_size, *t.shape[1:]) for t in rows]

    def __and__(self, other: Self) -> Self:
        """What both masks allow.

        Padding, tree and dense masks go with every mask; causal, window, prefix, document and recurrence
        masks with each other.

        Raises:
            ValueError: lengths differ, both are trees, or the two order the keys differently (two
                permutations, a permutation and a window), which one rank cannot say; combine their
                ``to_dense()`` with :meth:`dense` then.
        """
        if not isinstance(other, IntervalMask):
            return NotImplemented
        check_same_size(self, other)
        if self.branches is not None and other.branches is not None:
            raise ValueError("both masks are trees; combine their to_dense() with .dense")
        first, second = (self, other) if self._order >= other._order else (other, self)
        low, high = first.query_low, first.query_high
        if first._order == second._order == POSITION:
            low, high = low.maximum(second.query_low), high.minimum(second.query_high)
        elif second._order != ANY:
            raise ValueError(
                "the two masks order the keys differently, which one interval cannot say; use "
                "AttentionMask.dense(a.to_dense() & b.to_dense())"
            )
        rank = torch.where(second.key_rank == PADDED, PADDED, first.key_rank)
        tree = self.branches if self.branches is not None else other.branches
        dense = [m.allowed for m in (self, other) if m.allowed is not None]
        allowed = dense[0] & dense[1] if len(dense) == 2 else dense[0] if dense else None
        source = rank_source("hidden", first._source, second._source)
        return self._of([rank, low, high, tree, allowed], first._order, source)

    def gather(self, rows: Tensor, columns: Tensor) -> Self:
        """This mask for tokens picked from a batch and laid out as one row.

        ``mask.gather(*attention_mask.nonzero(as_tuple=True))`` lays out the real tokens of any padding.

        Args:
            rows, columns: (T,) integers, token t is token ``columns[t]`` of batch row ``rows[t]``.

        Returns:
            A mask (1, T): tokens of different batch rows do not see each other.

        Raises:
            ValueError: L != S, the mask has a dense part, its ranks take more than int32, or there is no such
                token.
        """
        if self.query_len != self.key_len:
            raise ValueError(
                f"the mask has L = {self.query_len}, S = {self.key_len}; expected L = S"
            )
        if self.allowed is not None:
            raise ValueError("a mask with a dense part cannot be laid out as one row")
        if rows.dim() != 1 or rows.shape != columns.shape:
            raise ValueError(
                f"rows and columns have shapes {tuple(rows.shape)} and {tuple(columns.shape)}; "
                "expected (T,) both"
            )
        batch = self.batch_size
        check_places("columns", columns, self.query_len)
        if batch > 1:
            check_places("rows", rows, batch)
        vectors = (t.expand(batch, -1) for t in (self.key_rank, self.query_low, self.query_high))
        tree = self.branches
        if tree is not None:
            tree = tree[rows if tree.shape[0] > 1 else rows * 0, :, columns].T[None]
        row = one_row(tuple(vectors), rows, columns, unbounded=self._order == OWN)
        return self._of([*row, tree, None], OWN)

    def to_dense(self) -> Tensor:
        """(B or 1, L, S) booleans, true = may see; (B or 1, H, L, S) where the mask differs by head."""
        rank = self.key_rank[:, None, :]
        visible = (self.query_low[..., None] <= rank) & (rank <= self.query_high[..., None])
        if self.branches is not None:
            visible = visible & tree_visible(self.branches, self.query_len)
        if self.allowed is None:
            return visible
        if self.allowed.shape[1] == 1:
            return visible & self.allowed[:, 0]
        return visible[:, None] & self.allowed

    def plot(self, batch: int = 0, ax=None):
        """Draw the mask of one batch row, queries downwards, keys to the right: dark = may see.

        Where the mask differs by head, the shade is the share of heads that see. Returns the matplotlib
        axes; `ax` None = new ones.
        """
        import matplotlib.pyplot as plt

        dense = self.to_dense()
        dense = dense[batch if dense.shape[0] > 1 else 0]
        ax = ax if ax is not None else plt.subplots(figsize=(4, 4))[1]
        image = (dense if dense.dim() == 2 else dense.float().mean(0)).float().cpu().numpy()
        ax.imshow(image, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xlabel="key", ylabel="query")
        return ax
