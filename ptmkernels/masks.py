"""The interval mask: three integer vectors that say almost every attention mask of the field.

Each key carries a rank, each query an interval of ranks that it may see (docs/architecture.md). Nothing
of size query_len x key_len is built for padding, causal, prefix, document, window or permutation masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["AttentionMask"]

PADDED = torch.iinfo(torch.int32).max  # the rank of a padded key: no high may reach it
LOWEST = torch.iinfo(torch.int32).min


class _class_or_instance:
    """A method that works on the class (its `mask` is None) and on an instance."""

    def __init__(self, function) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance, owner):
        return partial(self.function, owner, instance)


class AttentionMask:
    """Which keys each query may see: ``query_low <= key_rank <= query_high``.

    Args:
        key_rank: (B or 1, S) int32, the rank of each key; a padded key has rank 2**31 - 1.
        query_low: (B or 1, L) int32, the lowest rank that each query sees.
        query_high: (B or 1, L) int32, the highest rank that each query sees, below 2**31 - 1.
        branches: (B or 1, 3, S) int32 or None, for trees. Rows: 1 where the token is on the trunk; the
            first and the last branch that it touches (first > last: none). Visible if both are trunk
            or the branch intervals overlap. Query i is token i + S - L.
        allowed: (B or 1, L, S) or (B or 1, H or 1, L, S) boolean or None, a dense mask beside the
            intervals, true = may see.

    Raises:
        TypeError: an argument is not a tensor, or `allowed` is not boolean.
        ValueError: shapes do not fit, or a `query_high` is 2**31 - 1.
    """

    __slots__ = ("_positional", "allowed", "branches", "key_rank", "query_high", "query_low")

    def __init__(
        self,
        key_rank: Tensor,
        query_low: Tensor,
        query_high: Tensor,
        *,
        branches: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        self.key_rank = _int32_rows("key_rank", key_rank)
        self.query_low = _int32_rows("query_low", query_low)
        self.query_high = _int32_rows("query_high", query_high)
        self.branches = branches
        self.allowed = allowed
        self._positional = False  # set by constructors whose ranks are the key positions
        self._check_shapes()
        if not _tracing() and bool((self.query_high == PADDED).any()):
            raise ValueError(
                "query_high holds 2**31 - 1, which is kept for padded keys; "
                "expected values of at most 2**31 - 2"
            )

    def _check_shapes(self) -> None:
        if self.query_low.shape[1] != self.query_high.shape[1]:
            raise ValueError(
                f"query_low has {self.query_low.shape[1]} queries and query_high "
                f"{self.query_high.shape[1]}; expected the same number"
            )
        if self.branches is not None:
            if self.branches.dim() != 3 or self.branches.shape[1:] != (3, self.key_len):
                raise ValueError(
                    f"branches has shape {tuple(self.branches.shape)}; expected (B or 1, 3, {self.key_len})"
                )
            self.branches = _normal_tree(_to_int32("branches", self.branches))
        if self.allowed is not None:
            if self.allowed.dtype != torch.bool:
                raise TypeError(f"allowed has dtype {self.allowed.dtype}; expected torch.bool")
            if self.allowed.dim() == 3:
                self.allowed = self.allowed[:, None]
            if self.allowed.dim() != 4 or self.allowed.shape[2:] != (self.query_len, self.key_len):
                raise ValueError(
                    f"allowed has shape {tuple(self.allowed.shape)}; expected (B or 1, "
                    f"{self.query_len}, {self.key_len}) or (B or 1, H or 1, {self.query_len}, "
                    f"{self.key_len})"
                )
        sizes = {t.shape[0] for t in self._tensors() if t is not None} - {1}
        if len(sizes) > 1:
            raise ValueError(
                f"the vectors of the mask have batch sizes {sorted(sizes)}; expected one size, or 1"
            )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return (self.key_rank, self.query_low, self.query_high, self.branches, self.allowed)

    @property
    def batch_size(self) -> int:
        """B, or 1 where the mask holds for every row of a batch."""
        return max(
            (t.shape[0] for t in self._tensors() if t is not None), key=lambda n: (n != 1, n)
        )

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
        return self.key_rank.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AttentionMask:
        """The same mask on another device."""
        moved = [
            None if t is None else t.to(device, non_blocking=non_blocking) for t in self._tensors()
        ]
        return _build(moved, self._positional)

    def __repr__(self) -> str:
        extra = "".join(f", {n}" for n in ("branches", "allowed") if getattr(self, n) is not None)
        return (
            f"AttentionMask(batch_size={self.batch_size}, query_len={self.query_len}, "
            f"key_len={self.key_len}{extra}, device={self.device})"
        )

    # -- named constructors ------------------------------------------------------------------

    @staticmethod
    def full(query_len: int, key_len: int | None = None, *, device=None) -> AttentionMask:
        """Every query sees every key."""
        position, key_len = _positions(query_len, key_len, device)
        low = torch.zeros_like(position)
        return _positional_mask(key_len, low, torch.full_like(low, key_len - 1))

    @staticmethod
    def keys(allowed: Tensor, query_len: int | None = None) -> AttentionMask:
        """Hide padded keys: left, right or with holes.

        Args:
            allowed: (B, S) booleans or 0/1 integers, as Transformers' ``attention_mask``: 1 = a token.
            query_len: L; S where it is not given.
        """
        if allowed.dim() != 2:
            raise ValueError(f"allowed has shape {tuple(allowed.shape)}; expected (B, S)")
        key_len = allowed.shape[1]
        mask = AttentionMask.full(
            key_len if query_len is None else query_len, key_len, device=allowed.device
        )
        mask.key_rank = torch.where(allowed.bool(), mask.key_rank, PADDED)
        return mask

    @staticmethod
    def causal(query_len: int, key_len: int | None = None, *, device=None) -> AttentionMask:
        """Left to right: query i sees keys up to i + S - L (GPT, and a cache of S - L keys)."""
        position, key_len = _positions(query_len, key_len, device)
        return _positional_mask(key_len, torch.zeros_like(position), position)

    @staticmethod
    def right_to_left(query_len: int, key_len: int | None = None, *, device=None) -> AttentionMask:
        """Right to left: query i sees keys from i + S - L on (UniLM)."""
        position, key_len = _positions(query_len, key_len, device)
        return _positional_mask(key_len, position, torch.full_like(position, key_len - 1))

    @staticmethod
    def prefix(
        prefix_lengths: Tensor | Sequence[int], length: int, *, device=None
    ) -> AttentionMask:
        """Everyone sees the prefix, the rest is causal (UniLM's sequence to sequence, PrefixLM).

        Args:
            prefix_lengths: (B,) the number of tokens of each row that everyone may see.
            length: L = S.
        """
        lengths = torch.as_tensor(prefix_lengths, dtype=torch.int32, device=device)
        if lengths.dim() != 1:
            raise ValueError(f"prefix_lengths has shape {tuple(lengths.shape)}; expected (B,)")
        position, _ = _positions(length, length, lengths.device)
        high = torch.maximum(position, lengths[:, None] - 1).clamp(max=length - 1)
        return _positional_mask(length, torch.zeros_like(high), high)

    @staticmethod
    def documents(ids: Tensor, causal: bool = False) -> AttentionMask:
        """Packed documents: a token sees its own document only.

        Args:
            ids: (B, L) or (L,) integers, one document a contiguous run of equal ids.
            causal: see only what stands before, too.

        Raises:
            ValueError: an id comes back after another; use :meth:`dense` for such a mask.
        """
        ids = ids[None] if ids.dim() == 1 else ids
        if ids.dim() != 2:
            raise ValueError(f"ids has shape {tuple(ids.shape)}; expected (B, L) or (L,)")
        position = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device).expand_as(ids)
        starts = torch.ones_like(ids, dtype=torch.bool)
        starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
        if not _tracing():
            _refuse_split_documents(ids, starts)
        first = torch.where(starts, position, 0).cummax(dim=1).values
        if causal:
            return _positional_mask(ids.shape[1], first, position)
        ends = torch.ones_like(starts)
        ends[:, :-1] = starts[:, 1:]
        last = torch.where(ends, position, PADDED).flip(1).cummin(dim=1).values.flip(1)
        return _positional_mask(ids.shape[1], first, last)

    @staticmethod
    def window(
        query_len: int, key_len: int | None, left: int | None, right: int | None, *, device=None
    ) -> AttentionMask:
        """Sliding window: from `left` keys before to `right` keys after; None = no limit."""
        for name, value in (("left", left), ("right", right)):
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; expected a number >= 0, or None for no limit")
        position, key_len = _positions(query_len, key_len, device)
        low = torch.zeros_like(position) if left is None else position - left
        high = torch.full_like(position, key_len - 1) if right is None else position + right
        return _positional_mask(key_len, low, high)

    @staticmethod
    def recurrence(
        query_len: int, memory_len: int, attend_len: int | None = None, *, device=None
    ) -> AttentionMask:
        """Transformer-XL: causal behind `memory_len` memory keys, which come first.

        Args:
            query_len: L.
            memory_len: M; S = M + L.
            attend_len: how many keys a query sees at most, itself included; None = all. Transformers'
                ``same_length`` is ``attend_len = mem_len``.
        """
        if attend_len is not None and attend_len < 1:
            raise ValueError(f"attend_len is {attend_len}; expected a number >= 1, or None")
        left = None if attend_len is None else attend_len - 1
        return AttentionMask.window(query_len, memory_len + query_len, left, 0, device=device)

    @staticmethod
    def permutation(
        rank: Tensor,
        targets: Tensor | None = None,
        stream: str = "content",
        memory_len: int = 0,
        query_index: Tensor | None = None,
    ) -> AttentionMask:
        """XLNet's factorisation order, any total preorder.

        Args:
            rank: (B, L) integers above -2**31 and below 2**31 - 1: the place of each token in the order.
            targets: (B, L) booleans, the predicted tokens; needed for the query stream.
            stream: "content" (a token sees ranks up to its own) or "query" (a target does not see its
                own rank).
            memory_len: M memory keys before the L tokens, which everyone sees.
            query_index: (B, P) the positions of the queries; None = all L.
        """
        if stream not in ("content", "query"):
            raise ValueError(f"stream is {stream!r}; expected 'content' or 'query'")
        if stream == "query" and targets is None:
            raise ValueError("targets is None; the query stream needs the predicted tokens")
        rank = _int32_rows("rank", rank)
        high = rank - targets.to(torch.int32) if stream == "query" else rank
        if query_index is not None:
            high = high.gather(1, query_index.long())
        memory = rank.new_full((rank.shape[0], memory_len), LOWEST)
        return AttentionMask(torch.cat([memory, rank], 1), torch.full_like(high, LOWEST), high)

    @staticmethod
    def tree(trunk: Tensor, branch_low: Tensor, branch_high: Tensor) -> AttentionMask:
        """K-BERT's visible matrix.

        Args:
            trunk: (B, S) booleans, true on the sentence itself.
            branch_low, branch_high: (B, S) integers, the branches that a token touches: a branch token
                its own, an anchor those that hang on it; low > high: none.
        """
        named = (("trunk", trunk), ("branch_low", branch_low), ("branch_high", branch_high))
        rows = torch.broadcast_tensors(*(_int32_rows(name, value) for name, value in named))
        mask = AttentionMask.full(rows[0].shape[1], device=rows[0].device)
        mask.branches = _normal_tree(torch.stack(rows, dim=1))
        return mask

    @staticmethod
    def dense(allowed: Tensor) -> AttentionMask:
        """Any mask: `allowed` (L, S), (B or 1, L, S) or (B or 1, H or 1, L, S) booleans."""
        allowed = allowed[None] if allowed.dim() == 2 else allowed
        if allowed.dim() not in (3, 4):
            raise ValueError(
                f"allowed has shape {tuple(allowed.shape)}; expected (L, S), (B or 1, L, S) or "
                "(B or 1, H or 1, L, S)"
            )
        full = AttentionMask.full(*allowed.shape[-2:], device=allowed.device)
        mask = AttentionMask(full.key_rank, full.query_low, full.query_high, allowed=allowed)
        mask._positional = True
        return mask

    # -- combination -------------------------------------------------------------------------

    def __and__(self, other: AttentionMask) -> AttentionMask:
        """What both masks allow.

        Raises:
            ValueError: lengths differ, or the two orders cannot be said by one rank (two permutations,
                a permutation and a window); combine their ``to_dense()`` with :meth:`dense` then.
        """
        if not isinstance(other, AttentionMask):
            return NotImplemented
        if (self.query_len, self.key_len) != (other.query_len, other.key_len):
            raise ValueError(
                f"the masks have (query_len, key_len) {(self.query_len, self.key_len)} and "
                f"{(other.query_len, other.key_len)}; expected the same lengths"
            )
        if self.branches is not None and other.branches is not None:
            raise ValueError("both masks are trees; combine their to_dense() with .dense")
        ordered, keys = (other, self) if self._positional else (self, other)
        if self._positional and other._positional:
            low = torch.maximum(self.query_low, other.query_low)
            high = torch.minimum(self.query_high, other.query_high)
        elif keys._only_hides_keys():
            low, high = ordered.query_low, ordered.query_high
        else:
            raise ValueError(
                "the two masks order the keys differently, which one interval cannot say; use "
                "AttentionMask.dense(a.to_dense() & b.to_dense())"
            )
        rank = torch.where(keys.key_rank == PADDED, PADDED, ordered.key_rank)
        tree = self.branches if self.branches is not None else other.branches
        dense = [m.allowed for m in (self, other) if m.allowed is not None]
        allowed = dense[0] & dense[1] if len(dense) == 2 else dense[0] if dense else None
        return _build([rank, low, high, tree, allowed], self._positional and other._positional)

    def _only_hides_keys(self) -> bool:
        """True where the intervals themselves hide nothing (padding, tree and dense masks)."""
        return (
            self._positional
            and bool((self.query_low <= 0).all())
            and bool((self.query_high >= self.key_len - 1).all())
        )

    @staticmethod
    def cat(masks: Sequence[AttentionMask]) -> AttentionMask:
        """The masks one after another along the batch; all of the same lengths."""
        if not masks:
            raise ValueError("masks is empty; expected at least one mask")
        lengths = {(m.query_len, m.key_len) for m in masks}
        if len(lengths) > 1:
            raise ValueError(
                f"masks have (query_len, key_len) {sorted(lengths)}; expected one pair"
            )
        parts = [
            m._expanded(tree=_any(masks, "branches"), allowed=_any(masks, "allowed")) for m in masks
        ]
        joined = [None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True)]
        return _build(joined, all(m._positional for m in masks))

    def _expanded(self, *, tree: bool, allowed: bool) -> list[Tensor | None]:
        """The tensors with the whole batch size; `tree` and `allowed` filled in where asked for."""
        batch = self.batch_size
        filled_tree, filled_allowed = self.branches, self.allowed
        if tree and filled_tree is None:
            trunk = self.key_rank.new_tensor([1, PADDED, LOWEST])
            filled_tree = trunk[None, :, None].expand(1, 3, self.key_len)
        if allowed and filled_allowed is None:
            filled_allowed = self.key_rank.new_ones(
                (1, 1, self.query_len, self.key_len), dtype=torch.bool
            )
        rows = (self.key_rank, self.query_low, self.query_high, filled_tree, filled_allowed)
        return [None if t is None else t.expand(batch, *t.shape[1:]) for t in rows]

    @_class_or_instance
    def pack(cls, mask: AttentionMask | None, lengths: Tensor | Sequence[int]) -> AttentionMask:
        """The mask of a padded batch whose real tokens are laid out as one row.

        ``AttentionMask.pack(lengths)`` packs a full mask, ``mask.pack(lengths)`` packs `mask`.

        Args:
            lengths: (B,) the number of real tokens of each row, which come first in it.

        Raises:
            ValueError: as :meth:`gather`.
        """
        device = None if mask is None else mask.device
        lengths = torch.as_tensor(lengths, dtype=torch.int64, device=device)
        if lengths.dim() != 1 or bool((lengths < 0).any()):
            raise ValueError("lengths must be one dimension (B,) of numbers >= 0")
        index = torch.arange(lengths.shape[0], device=lengths.device)
        rows = torch.repeat_interleave(index, lengths)
        if mask is None:
            return AttentionMask.documents(rows)
        starts = lengths.cumsum(0) - lengths
        columns = torch.arange(rows.shape[0], device=rows.device) - starts[rows]
        if bool((lengths > mask.key_len).any()):
            raise ValueError(
                f"lengths holds {int(lengths.max())}; expected at most the {mask.key_len} keys of the mask"
            )
        return mask.gather(rows, columns)

    def gather(self, rows: Tensor, columns: Tensor) -> AttentionMask:
        """This mask for tokens picked from a batch and laid out as one row.

        Args:
            rows, columns: (T,) int64, token t is token ``columns[t]`` of batch row ``rows[t]``; the
                tokens of a batch row stand together.

        Returns:
            A mask (1, T): tokens of different batch rows do not see each other.

        Raises:
            ValueError: L != S, the mask has a tree or a dense part, or its ranks take more than int32.
        """
        if self.query_len != self.key_len:
            raise ValueError(
                f"the mask has L = {self.query_len}, S = {self.key_len}; expected L = S"
            )
        if self.branches is not None or self.allowed is not None:
            raise ValueError("a mask with a tree or a dense part cannot be laid out as one row")
        batch = self.batch_size if self.batch_size > 1 else _row_count(rows)
        rank, low, high = (
            t.expand(batch, -1).long() for t in (self.key_rank, self.query_low, self.query_high)
        )
        real = rank != PADDED
        least = torch.where(real, rank, PADDED).amin(1)
        most = torch.where(real, rank, LOWEST).amax(1).maximum(least - 1)
        span = most - least + 1
        offset = span.cumsum(0) - span - least  # ranks of row b start where those of row b - 1 end
        if not _tracing() and bool(span.sum() >= PADDED):
            raise ValueError("the ranks of the mask spread over more than 2**31 values")
        rank = torch.where(real, rank + offset[:, None], PADDED)
        low = low.maximum(least[:, None]).minimum(most[:, None] + 1) + offset[:, None]
        high = high.minimum(most[:, None]).maximum(least[:, None] - 1) + offset[:, None]
        packed = [t[rows, columns][None].to(torch.int32) for t in (rank, low, high)]
        return _build([*packed, None, None], False)

    def to_dense(self) -> Tensor:
        """(B or 1, L, S) booleans, true = may see; (B or 1, H, L, S) where the mask differs by head."""
        rank = self.key_rank[:, None, :]
        visible = (self.query_low[..., None] <= rank) & (rank <= self.query_high[..., None])
        if self.branches is not None:
            visible = visible & _tree_visible(self.branches, self.query_len)
        if self.allowed is None:
            return visible
        if self.allowed.shape[1] == 1:
            return visible & self.allowed[:, 0]
        return visible[:, None] & self.allowed

    def plot(self, batch: int = 0, ax=None):
        """Draw the mask of one batch row: dark = may see. Returns the matplotlib axes."""
        import matplotlib.pyplot as plt

        dense = self.to_dense()
        dense = dense[batch if dense.shape[0] > 1 else 0]
        ax = ax if ax is not None else plt.subplots(figsize=(4, 4))[1]
        image = dense if dense.dim() == 2 else dense.float().mean(0)
        ax.imshow(
            image.cpu().float().numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
        )
        ax.set(xlabel="key", ylabel="query")
        return ax


def _tracing() -> bool:
    """True where values cannot be looked at: while compiling or capturing a CUDA graph."""
    if torch.compiler.is_compiling():
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _row_count(rows: Tensor) -> int:
    return int(rows.max()) + 1 if rows.numel() else 1


def _to_int32(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected an integer tensor")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} has dtype {value.dtype}; expected integers")
    return value.to(torch.int32).contiguous()


def _int32_rows(name: str, value: Tensor) -> Tensor:
    value = _to_int32(name, value)
    value = value[None] if value.dim() == 1 else value
    if value.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected (B or 1, length)")
    return value


def _positions(query_len: int, key_len: int | None, device) -> tuple[Tensor, int]:
    """(1, L) positions of the queries among the keys, i + S - L, and S."""
    key_len = query_len if key_len is None else key_len
    for name, value in (("query_len", query_len), ("key_len", key_len)):
        if value < 0:
            raise ValueError(f"{name} is {value}; expected a number >= 0")
    position = torch.arange(query_len, dtype=torch.int32, device=device) + (key_len - query_len)
    return position[None], key_len


def _positional_mask(key_len: int, low: Tensor, high: Tensor) -> AttentionMask:
    rank = torch.arange(key_len, dtype=torch.int32, device=low.device)[None]
    return _build([rank, low, high, None, None], True)


def _build(tensors: Sequence[Tensor | None], positional: bool) -> AttentionMask:
    """A mask of tensors that are known to be right."""
    mask = AttentionMask.__new__(AttentionMask)
    rows = [None if t is None else t.contiguous() for t in tensors]
    mask.key_rank, mask.query_low, mask.query_high, mask.branches, mask.allowed = rows
    mask._positional = positional
    return mask


def _refuse_split_documents(ids: Tensor, starts: Tensor) -> None:
    ordered = ids.sort(dim=1).values
    distinct = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + min(ids.shape[1], 1)
    if bool((starts.sum(1) != distinct).any()):
        raise ValueError(
            "ids has a document whose tokens are not contiguous; expected one run for each id "
            "(AttentionMask.dense takes any mask)"
        )


def _any(masks: Sequence[AttentionMask], name: str) -> bool:
    return any(getattr(m, name) is not None for m in masks)


def _normal_tree(tree: Tensor) -> Tensor:
    """Empty branch intervals as (2**31 - 1, -2**31), which overlap with none by plain comparison."""
    trunk, low, high = tree.unbind(1)
    empty = low > high
    low = torch.where(empty, PADDED, low)
    return torch.stack([trunk, low, torch.where(empty, LOWEST, high)], dim=1)


def _tree_visible(tree: Tensor, query_len: int) -> Tensor:
    """(B, L, S) booleans of K-BERT's visible matrix."""
    trunk, low, high = tree.unbind(1)
    start = tree.shape[2] - query_len
    q_trunk, q_low, q_high = (t[:, start:, None] for t in (trunk, low, high))
    k_trunk, k_low, k_high = (t[:, None, :] for t in (trunk, low, high))
    overlap = (q_low <= k_high) & (k_low <= q_high)
    return ((q_trunk > 0) & (k_trunk > 0)) | overlap


pytree.register_pytree_node(
    AttentionMask,
    lambda mask: (list(mask._tensors()), mask._positional),
    lambda tensors, positional: _build(tensors, positional),
    serialized_type_name="ptmkernels.AttentionMask",
)
