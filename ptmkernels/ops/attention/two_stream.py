"""XLNet's two-stream attention: content and query stream over the same keys."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels._mask_tensors import readable
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.relative import default_offset, relative_attention


def two_stream_attention(
    content_query: Tensor,
    stream_query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_key: Tensor,
    content_bias: Tensor | None = None,
    position_bias: Tensor | None = None,
    mask: AttentionMask | None = None,
    stream_mask: AttentionMask | None = None,
    *,
    target_mapping: Tensor | None = None,
    relative_offset: int | None = None,
    segment_bias: Tensor | None = None,
    segment_key: Tensor | None = None,
    query_segment: Tensor | None = None,
    key_segment: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Both streams of XLNet (Yang et al. 2019, section 2.3) over shared keys and values.

    The content stream h is :func:`relative_attention` of `content_query`; the query stream g the same of
    `stream_query`, whose rows stand at the predicted positions only.

    Args:
        content_query: (B, H, L, D).
        stream_query: (B, H, P, D), the P predicted rows.
        key, value, relative_key, content_bias, position_bias, relative_offset, segment_bias, segment_key,
            key_segment, scale, dropout_p, backend: as in :func:`relative_attention`.
        mask, stream_mask: what the rows of each stream see
            (``AttentionMask.permutation(..., stream="content" | "query", query_index=...)``).
        target_mapping: where the predicted rows stand: indices (B or 1, P), or the one-hot matrix
            (B, P, L) that Transformers takes; None = row p at position p. Any order is right; rising
            positions are the fastest.
        query_segment: (B or 1, L) segments of the L tokens; a predicted row has that of its position.
        seed: int64 (1,), as in :func:`masked_attention`; the rows of the query stream take the bits of
            rows L, L + 1, ....

    Returns:
        Content output (B, H, L, D) and query-stream output (B, H, P, D).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    check_streams(content_query, stream_query, mask, stream_mask, key)
    length, predicted = content_query.shape[2], stream_query.shape[2]
    stream_position = target_positions(target_mapping, stream_query, length)
    if relative_offset is None:
        relative_offset = default_offset(length, key.shape[2], relative_key.shape[2])
    position = torch.arange(length, dtype=torch.int32, device=key.device)[None]
    position = _along_rows(position, stream_position)
    if query_segment is not None:
        query_segment = query_segment.expand(max(query_segment.shape[0], position.shape[0]), -1)
        query_segment = query_segment.gather(1, position.expand(query_segment.shape[0], -1).long())
    rows = relative_attention(
        torch.cat([content_query, stream_query], dim=2),
        key,
        value,
        relative_key,
        content_bias,
        position_bias,
        _stacked_mask(mask, stream_mask, (length, predicted, key.shape[2]), key.device),
        relative_offset=relative_offset,
        query_position=position,
        segment_bias=segment_bias,
        segment_key=segment_key,
        query_segment=query_segment,
        key_segment=key_segment,
        scale=scale,
        dropout_p=dropout_p,
        seed=seed,
        backend=backend,
    )
    return rows[:, :, :length], rows[:, :, length:]


def target_positions(target_mapping: Tensor | None, stream_query: Tensor, length: int) -> Tensor:
    """(B or 1, P) int32 positions of the predicted rows, from indices or Transformers' one-hot matrix.

    Raises:
        ValueError: the shape fits neither form, or a position is outside of 0..L-1 (looked at on the CPU).
    """
    batch, _, predicted, _ = stream_query.shape
    if target_mapping is None:
        if predicted != length:
            raise ValueError(
                f"target_mapping is None with {predicted} predicted rows for {length} tokens; "
                "expected the position of each row"
            )
        return torch.arange(length, dtype=torch.int32, device=stream_query.device)[None]
    if tuple(target_mapping.shape) == (batch, predicted, length):
        return target_mapping.argmax(-1).to(torch.int32)
    if tuple(target_mapping.shape) not in ((batch, predicted), (1, predicted)):
        raise ValueError(
            f"target_mapping has shape {tuple(target_mapping.shape)}; expected indices "
            f"({batch}, {predicted}) or a one-hot matrix ({batch}, {predicted}, {length})"
        )
    if target_mapping.is_floating_point():
        raise TypeError(
            f"target_mapping has dtype {target_mapping.dtype}; expected integer positions"
        )
    if readable(target_mapping) and target_mapping.device.type == "cpu" and target_mapping.numel():
        least, most = (int(value) for value in target_mapping.aminmax())
        if least < 0 or most >= length:
            raise ValueError(f"target_mapping holds {least}..{most}; expected 0..{length - 1}")
    return target_mapping.to(torch.int32)


def check_streams(
    content_query: Tensor,
    stream_query: Tensor,
    mask: AttentionMask | None,
    stream_mask: AttentionMask | None,
    key: Tensor,
) -> None:
    """Raises ValueError where the two streams do not belong together."""
    expected = (*content_query.shape[:2], content_query.shape[3])
    if stream_query.dim() != 4 or (*stream_query.shape[:2], stream_query.shape[3]) != expected:
        raise ValueError(
            f"stream_query has shape {tuple(stream_query.shape)}; expected (B, H, P, D) with the B, H and "
            f"D of content_query, {tuple(content_query.shape)}"
        )
    lengths = (("mask", mask, content_query), ("stream_mask", stream_mask, stream_query))
    for name, each, query in lengths:
        if each is not None and (each.query_len, each.key_len) != (query.shape[2], key.shape[2]):
            raise ValueError(
                f"{name} is for {each.query_len} queries and {each.key_len} keys; expected "
                f"{query.shape[2]} and {key.shape[2]}"
            )


def _along_rows(first: Tensor, second: Tensor, dim: int = 1) -> Tensor:
    """Concatenate along `dim` two tensors whose batch (dimension 0) may be 1."""
    batch = max(first.shape[0], second.shape[0])
    return torch.cat([t.expand(batch, *t.shape[1:]) for t in (first, second)], dim)


def _stacked_mask(
    mask: AttentionMask | None,
    stream_mask: AttentionMask | None,
    lengths: tuple[int, int, int],
    device: torch.device,
) -> AttentionMask | None:
    """One mask for the content rows followed by the predicted rows.

    Both streams see the same keys, so one rank serves both; masks that rank the keys differently are
    joined as dense ones.
    """
    length, predicted, key_len = lengths
    if mask is None and stream_mask is None:
        return None
    mask = mask or AttentionMask.full(length, key_len, device=device)
    stream_mask = stream_mask or AttentionMask.full(predicted, key_len, device=device)
    if _same_rank(mask, stream_mask) and mask.allowed is None and stream_mask.allowed is None:
        return AttentionMask(
            mask.key_rank if mask.key_rank.shape[0] > 1 else stream_mask.key_rank,
            _along_rows(mask.query_low, stream_mask.query_low),
            _along_rows(mask.query_high, stream_mask.query_high),
        )
    dense = [m.to_dense() for m in (mask, stream_mask)]
    dense = [m if m.dim() == 4 else m[:, None] for m in dense]
    heads = max(m.shape[1] for m in dense)
    dense = [m.expand(-1, heads, -1, -1) for m in dense]
    return AttentionMask.dense(_along_rows(*dense, dim=2))


def _same_rank(first: AttentionMask, second: AttentionMask) -> bool:
    if first.branches is not None or second.branches is not None:
        return False
    if first.key_rank is second.key_rank:
        return True
    return readable(first.key_rank) and bool((first.key_rank == second.key_rank).all())
