"""XLNet's two-stream attention: content and query stream over the same keys."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels._mask_tensors import readable
from ptmkernels._shapes import has_shape
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.call import autocast
from ptmkernels.ops.attention.relative import default_offset, relative_attention
from ptmkernels.ops.attention.relative_validation import check_like, check_rows, check_shape
from ptmkernels.ops.attention.validation import check_dense, check_mask, check_tensors


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
    return_lse: bool = False,
) -> tuple[Tensor, ...]:
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
            (B, P, L) that Transformers takes; None = row p at position p. A row at index -1, or of zeros in
            the matrix, stands nowhere: it sees nothing and its output is 0. Any order is right, also several
            rows at one position; rising positions are the fastest.
        query_segment: (B or 1, L) segments of the L tokens; a predicted row has that of its position.
        seed: int64 (1,), as in :func:`masked_attention`; the rows of the query stream take the bits of
            rows L, L + 1, ....
        return_lse: also return the log-sum-exp of each stream's scores, (B, H, L) and (B, H, P) float32.

    Returns:
        Content output (B, H, L, D) and query-stream output (B, H, P, D), then what `return_lse` asks for.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    content_query, stream_query, key, value, relative_key = autocast(
        content_query, stream_query, key, value, relative_key
    )
    check_streams(content_query, stream_query, key, value, relative_key)
    _check_masks(content_query, stream_query, mask, stream_mask, key)
    length, predicted = content_query.shape[2], stream_query.shape[2]
    stream_position = target_positions(target_mapping, stream_query, length)
    if relative_offset is None:
        relative_offset = default_offset(length, key.shape[2], relative_key.shape[2])
    position = torch.arange(length, dtype=torch.int32, device=key.device)[None]
    position = _along_rows(position, stream_position.clamp(min=0))
    if query_segment is not None:
        check_like("query_segment", query_segment, content_query, "content_query")
        check_shape("query_segment", query_segment, [(1, length), (len(content_query), length)])
        query_segment = query_segment.expand(_batch(query_segment, position), -1)
        query_segment = query_segment.gather(1, position.expand(query_segment.shape[0], -1).long())
    output, lse = relative_attention(
        _stacked_queries(content_query, stream_query),
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
        return_lse=True,
    )
    content, stream = output.split((length, predicted), dim=2)
    content_lse, stream_lse = lse.split((length, predicted), dim=2)
    if target_mapping is not None:
        nowhere = (stream_position < 0)[:, None]
        stream = stream.masked_fill(nowhere[..., None], 0.0)
        stream_lse = stream_lse.masked_fill(nowhere, -torch.inf)
    return (content, stream, content_lse, stream_lse) if return_lse else (content, stream)


def target_positions(target_mapping: Tensor | None, stream_query: Tensor, length: int) -> Tensor:
    """(B or 1, P) int32 positions of the predicted rows, from indices or Transformers' one-hot matrix.

    Raises:
        ValueError: the shape fits neither form, or an index is outside of -1..L-1 (looked at on the CPU).
        TypeError: it is no tensor, or indices are no integers.
    """
    batch, _, predicted, _ = stream_query.shape
    if target_mapping is None:
        if predicted != length:
            raise ValueError(
                f"target_mapping is None with {predicted} predicted rows for {length} tokens; "
                "expected the position of each row"
            )
        return torch.arange(length, dtype=torch.int32, device=stream_query.device)[None]
    check_dense("target_mapping", target_mapping)
    if target_mapping.device != stream_query.device:
        raise ValueError(
            f"target_mapping is on {target_mapping.device}; expected the device of stream_query, "
            f"{stream_query.device}"
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
    if readable(target_mapping) and target_mapping.device.type == "cpu" and target_mapping.numel():
        least, most = (int(value) for value in target_mapping.aminmax())
        if least < -1 or most >= length:
            raise ValueError(f"target_mapping holds {least}..{most}; expected -1..{length - 1}")
    return target_mapping.to(torch.int32)


def one_hot_positions(matrix: Tensor) -> Tensor:
    """(..., L) one-hot to the indices (...); -1 where all is zero."""
    one = matrix != 0
    if one.shape[-1] == 0:
        return one.new_full(one.shape[:-1], -1, dtype=torch.int64)
    return torch.where(one.any(-1), one.to(torch.int8).argmax(-1), -1)


def check_streams(
    content_query: Tensor, stream_query: Tensor, key: Tensor, value: Tensor, relative_key: Tensor
) -> None:
    """Raises ValueError or TypeError where the tensors of the two streams do not belong together."""
    check_tensors(content_query, key, value, "content_query")
    for name, tensor in (("stream_query", stream_query), ("relative_key", relative_key)):
        check_like(name, tensor, content_query, "content_query")
    check_rows("relative_key", relative_key, content_query)
    expected = (*content_query.shape[:2], content_query.shape[3])
    if stream_query.dim() != 4 or (*stream_query.shape[:2], stream_query.shape[3]) != expected:
        raise ValueError(
            f"stream_query has shape {tuple(stream_query.shape)}; expected (B, H, P, D) with the B, H and "
            f"D of content_query, {tuple(content_query.shape)}"
        )


def _check_masks(
    content_query: Tensor,
    stream_query: Tensor,
    mask: AttentionMask | None,
    stream_mask: AttentionMask | None,
    key: Tensor,
) -> None:
    for name, each, query in (
        ("mask", mask, content_query),
        ("stream_mask", stream_mask, stream_query),
    ):
        if each is not None:
            check_mask(each, (*query.shape[:3], key.shape[2]), query.device, name)


def _stacked_queries(content: Tensor, stream: Tensor) -> Tensor:
    """(B, H, L + P, D), stored as (B, L + P, H, D), so that the outputs need no copy to join their heads."""
    return torch.cat([content.transpose(1, 2), stream.transpose(1, 2)], dim=1).transpose(1, 2)


def _along_rows(first: Tensor, second: Tensor, dim: int = 1) -> Tensor:
    """Concatenate along `dim` two tensors whose batch (dimension 0) may be 1."""
    batch = _batch(first, second)
    return torch.cat([t.expand(batch, *t.shape[1:]) for t in (first, second)], dim)


def _batch(first: Tensor, second: Tensor) -> int:
    """The batch size of two tensors, 1 of which may stand for any."""
    return second.shape[0] if first.shape[0] == 1 else first.shape[0]


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
