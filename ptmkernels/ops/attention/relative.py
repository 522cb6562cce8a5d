"""Attention with relative positions and segments: Transformer-XL, XLNet, Shaw and NEZHA."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.autograd import unit_stride
from ptmkernels.ops.attention.call import autocast, call_attention
from ptmkernels.ops.attention.options import BucketedBias
from ptmkernels.ops.attention.relative_validation import INTEGERS, check_relative
from ptmkernels.ops.attention.validation import check_tensors


def relative_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_key: Tensor,
    content_bias: Tensor | None = None,
    position_bias: Tensor | None = None,
    mask: AttentionMask | None = None,
    *,
    relative_value: Tensor | None = None,
    relative_offset: int | None = None,
    query_position: Tensor | None = None,
    segment_bias: Tensor | None = None,
    segment_key: Tensor | None = None,
    query_segment: Tensor | None = None,
    key_segment: Tensor | None = None,
    bias: Tensor | BucketedBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention whose scores depend on the distance, without an L x S tensor.

    s_ij = scale * [(q_i + u).k_j + (q_i + v).r_row + (q_i + w).g_[seg_i != seg_j]], row = j - i + offset
    (Transformer-XL: Dai et al. 2019, section 3.3; the segment term: XLNet, Yang et al. 2019, section 2.6),
    o_i = sum_j softmax(s)_ij (v_j + rv_row) (relative values: Shaw et al. 2018, equations 3 and 4).

    Args:
        query: (B, H, L, D); key, value: (B, Hk, S, D), as in :func:`masked_attention`.
        relative_key: (B or 1, H or 1, R, D), the keys r of the distances, in the dtype of `query` as all
            the following ones that are not integers; a distance outside of the rows takes the nearest one.
        content_bias: u, (H, D) or None.
        position_bias: v, (H, D) or None.
        mask: as in :func:`masked_attention`.
        relative_value: rv, (B or 1, H or 1, R, D) or None, with the rows of `relative_key`.
        relative_offset: the row of the distance of query 0 and key 0. None = L - 1 where R = S
            (Transformer-XL: row R - 1 is the query's own position with M = S - L memory keys), L where
            R = L + S (XLNet), (R - 1) / 2 - (S - L) for another odd R (Shaw's and NEZHA's clipping).
        query_position: (B or 1, L) integers, where the queries stand among the L tokens; None = 0..L-1.
            With it `relative_offset` must be given.
        segment_bias: w, (H, D) or None.
        segment_key: g, (2, H, D): row 0 for the same segment, row 1 for another; None = no segment term.
        query_segment: (B or 1, L) integers, given together with `segment_key` and `key_segment`.
        key_segment: (B or 1, S) integers.
        bias, scale, dropout_p, seed, backend, return_lse: as in :func:`masked_attention`.

    Returns:
        Output (B, H, L, D) in the dtype of `query`, or (output, lse).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: the forced backend cannot serve this call.
    """
    output, lse = attend(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        scale=scale,
        dropout_p=dropout_p,
        seed=seed,
        backend=backend,
        relative_offset=relative_offset,
        relative_key=relative_key,
        relative_value=relative_value,
        content_bias=content_bias,
        position_bias=position_bias,
        segment_bias=segment_bias,
        segment_key=segment_key,
        query_segment=query_segment,
        key_segment=key_segment,
        query_position=query_position,
    )
    return (output, lse) if return_lse else output


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask | None,
    scale: float | None,
    dropout_p: float,
    seed: Tensor | None,
    backend: str | None,
    relative_offset: int | None,
    bias: Tensor | BucketedBias | None = None,
    gapless_positions: int = 0,
    **named: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of :func:`relative_attention`, from unchecked arguments.

    Args:
        gapless_positions: as :class:`AttentionOptions` has it.
        named: the other arguments of :func:`relative_attention`, by name.
    """
    floating = {name: t for name, t in named.items() if name not in INTEGERS}
    query, key, value, *cast = autocast(query, key, value, *floating.values())
    named |= dict(zip(floating, cast, strict=True))
    check_tensors(query, key, value)
    if named["relative_key"] is None:
        raise TypeError("relative_key is None; expected a tensor (masked_attention goes without)")
    relative = relative_options(query, key, relative_offset, **named)
    return call_attention(
        *("relative_attention", query, key, value, mask, bias, scale, dropout_p, seed, backend),
        gapless_positions=gapless_positions,
        **relative,
    )


def relative_options(
    query: Tensor, key: Tensor, relative_offset: int | None, **named: Tensor | None
) -> dict[str, Tensor | int | None]:
    """The relative terms as :class:`AttentionOptions` has them, checked.

    Args:
        query, key: checked already.
        named: the other arguments of :func:`relative_attention` that bear on the terms, by name.
    """
    check_relative(query, key, relative_offset, named)
    relative_key = named["relative_key"]
    if relative_key is not None and relative_offset is None:
        relative_offset = default_offset(query.shape[2], key.shape[2], relative_key.shape[2])
    tensors = {name: _as_read(tensor) for name, tensor in named.items() if tensor is not None}
    return {"relative_offset": 0 if relative_offset is None else relative_offset, **tensors}


def _as_read(tensor: Tensor) -> Tensor:
    """Integers and vectors as the kernels read them."""
    if tensor.is_floating_point():
        return unit_stride(tensor)
    return tensor.to(torch.int32).contiguous()


def default_offset(query_len: int, key_len: int, rows: int) -> int:
    """The offset that `rows` relative keys stand for by convention."""
    if rows == key_len:
        return query_len - 1
    if rows == query_len + key_len:
        return query_len
    if rows % 2:
        return (rows - 1) // 2 - (key_len - query_len)
    raise ValueError(
        f"relative_key has {rows} rows; expected S = {key_len}, L + S = {query_len + key_len} or an odd "
        "number, or relative_offset given"
    )
