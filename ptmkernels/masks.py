"""The interval mask: three integer vectors that say almost every attention mask of the field.

Each key carries a rank, each query an interval of ranks that it may see (docs/architecture.md). Nothing
of size query_len x key_len is built for padding, causal, prefix, document, window or permutation masks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ptmkernels._interval_mask import ANY, NAMES, OWN, POSITION, IntervalMask
from ptmkernels._mask_tensors import (
    LOWEST,
    PADDED,
    check_integers,
    check_length,
    check_places,
    check_same_batch,
    given_numbers,
    int32_rows,
    moved,
    normal_tree,
    positions,
    readable,
    refuse_split_documents,
    to_int32,
    token_mask,
    within,
)
from ptmkernels._rank_source import rank_source

__all__ = ["AttentionMask"]


class _OfClassToo:
    """A method that may be called on the class as well, with None for `self`."""

    def __init__(self, function: Callable[..., AttentionMask]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    def __get__(self, mask: AttentionMask | None, owner: type) -> Callable[..., AttentionMask]:
        return functools.wraps(self._function)(functools.partial(self._function, mask))


class AttentionMask(IntervalMask):
    """Which keys each query may see: ``query_low <= key_rank <= query_high``.

    Immutable; holds int32 tensors of O(L + S) only, unless a dense part is given. The named constructors
    (:meth:`causal`, :meth:`keys`, :meth:`documents`, ...) say the masks of the field. No value is read back
    from a GPU: what raises on the CPU is clamped into its range there, where the message does not say else.

    Args:
        key_rank: (B or 1, S) integers, the rank of each key; a padded key has rank 2**31 - 1.
        query_low: (B or 1, L) integers, the lowest rank that each query sees.
        query_high: (B or 1, L) integers, the highest rank that each query sees, below 2**31 - 1.
        branches: (B or 1, 3, S) integers or None, for trees. Rows: 1 where the token is on the trunk; the
            first and the last branch that it touches, below 2**31 - 1 (first > last: none). Visible if
            both are trunk or the branch intervals overlap. Query i is token i + S - L, so L <= S.
        allowed: (L, S), (B or 1, L, S) or (B or 1, H or 1, L, S) booleans or None, a dense mask beside
            the intervals, true = may see.

    Raises:
        TypeError: an argument is not an integer tensor, or `allowed` is not boolean.
        ValueError: shapes or devices do not fit, a value takes more than int32, or a `query_high` is
            2**31 - 1.
    """

    __slots__ = ()

    @staticmethod
    def full(
        query_len: int, key_len: int | None = None, *, device: torch.device | str | None = None
    ) -> AttentionMask:
        """Every query sees every key; `key_len` None = `query_len`."""
        position, key_len = positions(query_len, key_len, device)
        low = torch.zeros_like(position)
        return _of_positions(key_len, low, torch.full_like(low, key_len - 1), ANY)

    @staticmethod
    def keys(allowed: Tensor, query_len: int | None = None) -> AttentionMask:
        """Hide padded keys: left, right or with holes.

        Args:
            allowed: (B, S) booleans or 0/1 integers, as Transformers' ``attention_mask``: 1 = a token.
            query_len: L; S where it is not given.

        Raises:
            ValueError: `allowed` holds anything but 0 and 1, as a mask that is added to the scores does.
        """
        check_integers("allowed", allowed)
        if allowed.dim() != 2:
            raise ValueError(f"allowed has shape {tuple(allowed.shape)}; expected (B, S)")
        key_len = allowed.shape[1]
        query_len = key_len if query_len is None else query_len
        full = AttentionMask.full(query_len, key_len, device=allowed.device)
        rank = torch.where(token_mask("allowed", allowed), full.key_rank, PADDED)
        tensors = [rank, full.query_low, full.query_high, None, None]
        return AttentionMask._of(tensors, ANY, rank_source("keys", allowed))

    @staticmethod
    def causal(
        query_len: int, key_len: int | None = None, *, device: torch.device | str | None = None
    ) -> AttentionMask:
        """Left to right: query i sees keys up to i + S - L (GPT, and a cache of S - L keys)."""
        return AttentionMask.window(query_len, key_len, None, 0, device=device)

    @staticmethod
    def right_to_left(
        query_len: int, key_len: int | None = None, *, device: torch.device | str | None = None
    ) -> AttentionMask:
        """Right to left: query i sees keys from i + S - L on (UniLM, Dong et al. 2019)."""
        return AttentionMask.window(query_len, key_len, 0, None, device=device)

    @staticmethod
    def window(
        query_len: int,
        key_len: int | None = None,
        left: int | None = None,
        right: int | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> AttentionMask:
        """Sliding window: query i sees the keys i + S - L - left to i + S - L + right.

        Args:
            query_len, key_len: L and S; `key_len` None = `query_len`.
            left, right: how many keys before and after; None = no limit.
        """
        position, key_len = positions(query_len, key_len, device)
        low, high = torch.zeros_like(position), torch.full_like(position, key_len - 1)
        if left is not None:
            check_length("left", left)
            low = position - min(left, query_len + key_len)  # wider reaches no further
        if right is not None:
            check_length("right", right)
            high = position + min(right, query_len + key_len)
        return _of_positions(key_len, low, high)

    @staticmethod
    def prefix(
        prefix_lengths: Tensor | Sequence[int],
        length: int,
        *,
        device: torch.device | str | None = None,
    ) -> AttentionMask:
        """Everyone sees the prefix, the rest is causal (UniLM's sequence to sequence, PrefixLM).

        Args:
            prefix_lengths: (B,) how many tokens of each row everyone may see; 0 = causal.
            length: L = S.
        """
        lengths = given_numbers(prefix_lengths)
        if device is None and isinstance(prefix_lengths, Tensor):
            device = lengths.device
        position, _ = positions(length, length, device)
        lengths = moved(lengths, position.device)
        if lengths.numel() == 0:
            lengths = lengths.to(torch.int32)  # an empty list comes as float32
        lengths = to_int32("prefix_lengths", lengths)
        if lengths.dim() != 1:
            raise ValueError(f"prefix_lengths has shape {tuple(lengths.shape)}; expected (B,)")
        lengths = within("prefix_lengths", lengths, 0, length)
        high = torch.maximum(position, lengths[:, None] - 1)
        return _of_positions(length, torch.zeros_like(high), high)

    @staticmethod
    def documents(ids: Tensor, causal: bool = False) -> AttentionMask:
        """Packed documents: a token sees its own document only.

        Args:
            ids: (B, L) or (L,) integers, one document a contiguous run of equal ids.
            causal: see only what stands before, too.

        Raises:
            ValueError: an id comes back after another (looked at on the CPU; elsewhere each run is a document
                of its own); use :meth:`dense` for such a mask.
        """
        check_integers("ids", ids)
        ids = ids[None] if ids.dim() == 1 else ids
        if ids.dim() != 2:
            raise ValueError(f"ids has shape {tuple(ids.shape)}; expected (B, L) or (L,)")
        position = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device).expand_as(ids)
        starts = torch.ones_like(ids, dtype=torch.bool)
        starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
        if readable(ids):
            refuse_split_documents(ids, starts)
        first = torch.where(starts, position, 0).cummax(dim=1).values
        if causal:
            return _of_positions(ids.shape[1], first, position)
        ends = torch.ones_like(starts)
        ends[:, :-1] = starts[:, 1:]
        last = torch.where(ends, position, PADDED).flip(1).cummin(dim=1).values.flip(1)
        return _of_positions(ids.shape[1], first, last)

    @staticmethod
    def recurrence(
        query_len: int,
        memory_len: int,
        attend_len: int | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> AttentionMask:
        """Transformer-XL (Dai et al. 2019): causal behind `memory_len` memory keys, which come first.

        Args:
            query_len: L.
            memory_len: M; S = M + L.
            attend_len: how many keys a query sees at most, itself included; None = all. Transformers'
                ``same_length`` is ``attend_len = mem_len``.
        """
        check_length("memory_len", memory_len)
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
        """XLNet's factorisation order (Yang et al. 2019, section 2.3), any total preorder.

        A token sees the tokens of its own rank and of lower ones; a target in the query stream those of
        lower ranks only.

        Args:
            rank: (B, L) integers above -2**31 and below 2**31 - 1: the place of each token in the order.
            targets: (B, L) booleans, the predicted tokens; needed for the query stream, else not read.
            stream: "content" or "query".
            memory_len: M memory keys before the L tokens, which everyone sees.
            query_index: (B, P) integers, the positions of the queries among the L tokens; None = all L.
        """
        if stream not in ("content", "query"):
            raise ValueError(f"stream is {stream!r}; expected 'content' or 'query'")
        check_length("memory_len", memory_len)
        given, rank = rank, int32_rows("rank", rank)
        rank = within("rank", rank, LOWEST + 1, PADDED - 1)
        high = rank
        if stream == "query":
            if targets is None:
                raise ValueError("targets is None; the query stream needs the predicted tokens")
            high = rank - _like_rank("targets", targets, rank).ne(0).to(torch.int32)
        if query_index is not None:
            index = int32_rows("query_index", query_index).long()
            check_places("query_index", index, rank.shape[1])
            high = high.expand(max(high.shape[0], index.shape[0]), -1)
            high = high.gather(1, index.expand(high.shape[0], -1))
        memory = rank.new_full((rank.shape[0], memory_len), LOWEST)
        tensors = [torch.cat([memory, rank], 1), torch.full_like(high, LOWEST), high, None, None]
        check_same_batch(dict(zip(NAMES, tensors, strict=True)))
        return AttentionMask._of(tensors, OWN, rank_source("permutation", given, memory_len))

    @staticmethod
    def tree(trunk: Tensor, branch_low: Tensor, branch_high: Tensor) -> AttentionMask:
        """K-BERT's visible matrix (Liu et al. 2020, section 3.4).

        Args:
            trunk: (B, S) booleans, true on the sentence itself.
            branch_low, branch_high: (B, S) integers, the branches that a token touches: a branch token
                its own, an anchor those that hang on it; low > high: none.
        """
        named = {"trunk": trunk, "branch_low": branch_low, "branch_high": branch_high}
        rows = {name: int32_rows(name, value) for name, value in named.items()}
        for name, row in rows.items():
            if row.shape[1] != rows["trunk"].shape[1]:
                raise ValueError(
                    f"{name} has {row.shape[1]} tokens; expected those of trunk, {rows['trunk'].shape[1]}"
                )
        check_same_batch(rows)
        stacked = torch.stack(torch.broadcast_tensors(*rows.values()), dim=1)
        full = AttentionMask.full(stacked.shape[2], device=stacked.device)
        tensors = [full.key_rank, full.query_low, full.query_high, normal_tree(stacked), None]
        return AttentionMask._of(tensors, ANY, full._source)

    @staticmethod
    def dense(allowed: Tensor) -> AttentionMask:
        """Any mask: `allowed` (L, S), (B or 1, L, S) or (B or 1, H or 1, L, S) booleans, true = may see."""
        if not isinstance(allowed, Tensor):
            raise TypeError(f"allowed is a {type(allowed).__name__}; expected a boolean tensor")
        if allowed.dim() not in (2, 3, 4):
            raise ValueError(
                f"allowed has shape {tuple(allowed.shape)}; expected (L, S), (B or 1, L, S) or "
                "(B or 1, H or 1, L, S)"
            )
        full = AttentionMask.full(*allowed.shape[-2:], device=allowed.device)
        tensors = [*full._tensors()[:4], full._checked_allowed(allowed)]
        return AttentionMask._of(tensors, ANY, full._source)

    @staticmethod
    def cat(masks: Sequence[AttentionMask]) -> AttentionMask:
        """The masks one after another along the batch; all of the same lengths.

        A mask of batch size 1 counts as one row. Where one mask has a tree or a dense part, all get one.
        """
        if not masks:
            raise ValueError("masks is empty; expected at least one mask")
        lengths = [(m.query_len, m.key_len) for m in masks]
        if any(pair != lengths[0] for pair in lengths):
            raise ValueError(f"masks have (query_len, key_len) {lengths}; expected one pair")
        tree, allowed = (
            any(getattr(m, n) is not None for m in masks) for n in ("branches", "allowed")
        )
        heads = max(1 if m.allowed is None else m.allowed.shape[1] for m in masks)
        parts = [m._expanded(tree=tree, allowed=allowed, heads=heads) for m in masks]
        joined = [None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True)]
        return AttentionMask._of(joined, max(m._order for m in masks))

    @_OfClassToo
    def pack(self: AttentionMask | None, lengths: Tensor | Sequence[int]) -> AttentionMask:
        """The mask of a right-padded batch whose real tokens are laid out as one row.

        ``AttentionMask.pack(lengths)`` packs the full mask: each token sees all of its own row.

        Args:
            lengths: (B,) the number of real tokens of each row, which come first in it. B is the batch
                size of the mask, or any where that is 1. The length of the row is their sum: on a GPU they
                are waited for, on the CPU (or as a list) nothing is, wherever the mask lies.

        Returns:
            A mask (1, sum of lengths); other layouts: :meth:`gather`.

        Raises:
            ValueError: a length is negative or more than L (on a GPU, it is clamped); or as :meth:`gather`.
        """
        lengths = given_numbers(lengths)
        if lengths.numel():
            check_integers("lengths", lengths)
        if self is None:
            longest = int(lengths.max()) if lengths.numel() else 0
            self = AttentionMask.full(max(longest, 0), device=lengths.device)
        if lengths.dim() != 1 or self.batch_size not in (1, lengths.shape[0]):
            raise ValueError(
                f"lengths has shape {tuple(lengths.shape)}; expected (B,), B = {self.batch_size}"
            )
        lengths = within("lengths", lengths.to(torch.int64), 0, self.query_len)
        rows = torch.repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths
        columns = torch.arange(rows.shape[0], device=rows.device) - starts[rows]
        return self.gather(moved(rows, self.device), moved(columns, self.device))


def _of_positions(key_len: int, low: Tensor, high: Tensor, order: int = POSITION) -> AttentionMask:
    rank = torch.arange(key_len, dtype=torch.int32, device=low.device)[None]
    return AttentionMask._of([rank, low, high, None, None], order, rank_source("position", key_len))


def _like_rank(name: str, value: Tensor, rank: Tensor) -> Tensor:
    check_integers(name, value)
    if value.dim() != 2 or value.shape[1] != rank.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected that of rank, {tuple(rank.shape)}"
        )
    return value


def _flatten_with_names(mask: AttentionMask) -> tuple[list[tuple[pytree.KeyEntry, Any]], int]:
    return [
        (pytree.GetAttrKey(n), t) for n, t in zip(NAMES, mask._tensors(), strict=True)
    ], mask._order


pytree.register_pytree_node(
    AttentionMask,
    lambda mask: (list(mask._tensors()), mask._order),
    AttentionMask._of,
    serialized_type_name="ptmkernels.AttentionMask",
    flatten_with_keys_fn=_flatten_with_names,
)
