"""Masks, targets and segments from the tensors by which Transformers says them."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.stream_order import one_hot_positions

Mask = AttentionMask | Tensor | None


def as_mask(mask: Mask) -> AttentionMask | None:
    """A mask from Transformers' tensor (L, S), (L, S, B or 1) or (L, S, B or 1, H or 1), nonzero = hidden."""
    if mask is None or isinstance(mask, AttentionMask):
        return mask
    allowed = mask == 0
    if allowed.dim() == 2:
        return AttentionMask.dense(allowed)
    if allowed.dim() not in (3, 4):
        raise ValueError(
            f"the attention mask has shape {tuple(mask.shape)}; expected (L, S), (L, S, B) or (L, S, B, H)"
        )
    allowed = allowed if allowed.dim() == 4 else allowed[..., None]
    return AttentionMask.dense(allowed.permute(2, 3, 0, 1))


def target_positions(target_mapping: Tensor | None) -> Tensor | None:
    """Positions (B, P), -1 = nowhere, from positions or from Transformers' one-hot (P, L, B)."""
    if target_mapping is None or target_mapping.dim() == 2:
        return target_mapping
    return one_hot_positions(target_mapping.permute(2, 0, 1))


def stream_masks(content: Mask, query: Mask, target_mapping: Tensor | None) -> tuple:
    """The masks of both streams, that of the query stream with its P rows."""
    stream = as_mask(query)
    if not isinstance(query, Tensor) or target_mapping is None:
        return as_mask(content), stream
    rows = target_positions(target_mapping).clamp(min=0)
    allowed = stream.allowed.expand(rows.shape[0], -1, -1, -1)
    rows = rows[:, None, :, None].expand(-1, allowed.shape[1], -1, allowed.shape[3])
    return as_mask(content), AttentionMask.dense(allowed.gather(2, rows))


def segments_of(seg_mat: Tensor) -> tuple[Tensor, Tensor]:
    """Segments of the queries (B, L) and keys (B, S) that give Transformers' one-hot (L, S, B, 2).

    A key's segment is named by the first query in it; keys of segments without a query are all the same to
    the queries, and get L.
    """
    same = seg_mat[..., 0].permute(2, 0, 1) != 0  # (B, L, S)
    length = same.shape[1]
    first = same.to(torch.int8).argmax(1)
    key_segment = torch.where(same.any(1), first, length)
    return key_segment[:, same.shape[2] - length :], key_segment
