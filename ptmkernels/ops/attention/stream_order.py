"""Both streams of XLNet as the rows of one call, in the order of their positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptmkernels._mask_tensors import readable
from ptmkernels._shapes import has_shape
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.validation import check_dense, check_mask_sizes
from ptmkernels.ops.refusals import transforms_active


@dataclass(frozen=True)
class StreamOrder:
    """Where the rows of both streams lie in the one call that serves them.

    A predicted row lies behind the content row of its position, so that the positions rise by at most one
    from row to row: a block of rows meets no more distances than a block of content rows does. Nothing is
    read back from a device. :meth:`of` makes one, which serves every layer of a model.

    Args:
        order: (B or 1, L + P) int64, which row of [content, predicted] lies at each place.
        place: (B or 1, L + P) int64, the place of each row of [content, predicted].
        position: (B or 1, L + P) int32, where the row at each place stands.
        targets: (B or 1, P) int32, where the predicted rows stand, -1 = nowhere.
        lengths: L and P.
        mask: what the row at each place sees; None = everything, or see `apart`.
        apart: the masks of the content rows and of the predicted rows, where no one mask is known to say
            both. Each stream has a call of its own then.
    """

    order: Tensor
    place: Tensor
    position: Tensor
    targets: Tensor
    lengths: tuple[int, int]
    mask: AttentionMask | None
    apart: tuple[AttentionMask, AttentionMask] | None

    @staticmethod
    def of(
        mask: AttentionMask | None,
        stream_mask: AttentionMask | None,
        target_mapping: Tensor | None,
        *,
        sizes: tuple[int, int, int],
        key_len: int,
        device: torch.device | str | None = None,
    ) -> StreamOrder:
        """The order of the rows of both streams.

        One mask says what both see where the two are known to rank the keys alike without a look at
        the values: they hold one and the same `key_rank`, or the same constructors made their ranks from the
        same tensors, as two calls of :meth:`AttentionMask.permutation` do (while a graph is traced, only the
        first is known). Besides, neither has a tree, and both or none a dense part.

        Args:
            mask, stream_mask, target_mapping: as :func:`two_stream_attention` takes them.
            sizes: B, L and P.
            key_len: S.
            device: of the queries.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        batch, length, predicted = sizes
        targets = target_positions(target_mapping, sizes, device)
        content = torch.arange(length, dtype=torch.int32, device=device)[None]
        stacked = _side_by_side(content, targets.clamp(0, max(length - 1, 0)))
        position, order = stacked.sort(dim=1, stable=True)
        rows = torch.arange(length + predicted, device=device).expand_as(order)
        place = torch.empty_like(order).scatter_(1, order, rows)
        joined = apart = None
        if mask is not None or stream_mask is not None:
            mask = mask or AttentionMask.full(length, key_len, device=device)
            stream_mask = stream_mask or AttentionMask.full(predicted, key_len, device=device)
            check_mask_sizes(mask, batch, length, key_len, "mask")
            check_mask_sizes(stream_mask, batch, predicted, key_len, "stream_mask")
            if _can_join(mask, stream_mask):
                joined = _joined(mask, stream_mask, order)
            else:
                apart = (mask, stream_mask)
        return StreamOrder(order, place, position, targets, (length, predicted), joined, apart)

    def join(self, content: Tensor, predicted: Tensor) -> Tensor:
        """Rows (B, L, ...) and (B, P, ...) to (B, L + P, ...) in order."""
        return _permuted(torch.cat([content, predicted], dim=1), self.order, self.place)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, L + P, ...) in order to (B, L, ...) and (B, P, ...)."""
        return _permuted(rows, self.place, self.order).split(self.lengths, dim=1)


def at_positions(values: Tensor, position: Tensor) -> Tensor:
    """(B or 1, N), of `values` (B or 1, L) those at the positions (B or 1, N)."""
    values = values.expand(_batch(values, position), -1)
    return values.gather(1, position.expand(values.shape[0], -1).long())


def target_positions(
    target_mapping: Tensor | None,
    sizes: tuple[int, int, int],
    device: torch.device | str | None = None,
) -> Tensor:
    """(B or 1, P) int32 positions of the predicted rows, from indices or Transformers' one-hot matrix.

    Args:
        sizes: B, L and P.
        device: of the queries.

    Raises:
        ValueError: the shape fits neither form, or an index is outside of -1..L-1 (looked at on the CPU;
            elsewhere the nearest position counts).
        TypeError: it is no tensor, or indices are no integers.
    """
    batch, length, predicted = sizes
    if target_mapping is None:
        if predicted != length:
            raise ValueError(
                f"target_mapping is None with {predicted} predicted rows for {length} tokens; "
                "expected the position of each row"
            )
        return torch.arange(length, dtype=torch.int32, device=device)[None]
    check_dense("target_mapping", target_mapping)
    if device is not None and target_mapping.device != torch.device(device):
        raise ValueError(
            f"target_mapping is on {target_mapping.device}; expected the device of stream_query, {device}"
        )
    if has_shape(target_mapping, (batch, predicted, length)):
        return one_hot_positions(target_mapping).to(torch.int32)
    if not has_shape(target_mapping, (batch, predicted), (1, predicted)):
        raise ValueError(
            f"target_mapping has shape {tuple(target_mapping.shape)}; expected indices "
            f"({batch}, {predicted}) or a one-hot matrix ({batch}, {predicted}, {length})"
        )
    if target_mapping.is_floating_point():
        raise TypeError(
            f"target_mapping has dtype {target_mapping.dtype}; expected integer positions"
        )
    if readable(target_mapping) and target_mapping.numel():
        least, most = (int(value) for value in target_mapping.aminmax())
        if least < -1 or most >= length:
            raise ValueError(f"target_mapping holds {least}..{most}; expected -1..{length - 1}")
    return target_mapping.clamp(-1, length - 1).to(torch.int32)


def one_hot_positions(matrix: Tensor) -> Tensor:
    """(..., L) one-hot to the indices (...); -1 where all is zero."""
    one = matrix != 0
    if one.shape[-1] == 0:
        return one.new_full(one.shape[:-1], -1, dtype=torch.int64)
    return torch.where(one.any(-1), one.to(torch.int8).argmax(-1), -1)


def _can_join(mask: AttentionMask, stream_mask: AttentionMask) -> bool:
    """Whether one mask is known to say what both streams see, without building what neither has."""
    trees = mask.branches is not None or stream_mask.branches is not None
    same_kind = (mask.allowed is None) == (stream_mask.allowed is None)
    return not trees and same_kind and mask.ranks_like(stream_mask)


def _joined(mask: AttentionMask, stream_mask: AttentionMask, order: Tensor) -> AttentionMask:
    """The mask of the rows of both streams in order."""
    low, high = (
        at_positions(_side_by_side(getattr(mask, name), getattr(stream_mask, name)), order)
        for name in ("query_low", "query_high")
    )
    allowed = mask.allowed
    if allowed is not None:
        heads = max(allowed.shape[1], stream_mask.allowed.shape[1])
        pair = (t.expand(-1, heads, -1, -1) for t in (allowed, stream_mask.allowed))
        allowed = _side_by_side(*pair, dim=2)
        batch = _batch(allowed, order)
        index = order[:, None, :, None].expand(batch, heads, -1, allowed.shape[3])
        allowed = allowed.expand(batch, -1, -1, -1).gather(2, index)
    return AttentionMask._of([mask.key_rank, low, high, None, allowed])


def _side_by_side(first: Tensor, second: Tensor, dim: int = 1) -> Tensor:
    """Concatenate along `dim` two tensors whose batch (dimension 0) may be 1."""
    batch = _batch(first, second)
    return torch.cat([t.expand(batch, *t.shape[1:]) for t in (first, second)], dim)


def _batch(first: Tensor, second: Tensor) -> int:
    """The batch size of two tensors, 1 of which may stand for any."""
    return second.shape[0] if first.shape[0] == 1 else first.shape[0]


def _permuted(rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Rows (B, N, ...) so that row n is row ``index[b, n]``; `index` and its inverse (B or 1, N)."""
    if transforms_active():
        return _taken(rows, index)
    return _Permuted.apply(rows, index, inverse)


def _taken(rows: Tensor, index: Tensor) -> Tensor:
    if index.shape[0] == 1:
        return rows.index_select(1, index[0])
    starts = torch.arange(rows.shape[0], device=index.device)[:, None] * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, (index + starts).flatten()).view_as(rows)


class _Permuted(torch.autograd.Function):
    """`_taken`, whose gradient is copied back; PyTorch would add it, as rows might be taken twice."""

    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return _taken(rows, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Permuted.apply(grad, inverse, index), None, None
