"""The attention weights, for callers that ask for them."""

from __future__ import annotations

from torch import Tensor

from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import reference
from ptmkernels.ops.attention.call import autocast
from ptmkernels.ops.attention.options import AttentionOptions, BucketedBias
from ptmkernels.ops.attention.relative import relative_options
from ptmkernels.ops.attention.validation import check_attention, check_weights


def attention_weights(
    query: Tensor,
    key: Tensor,
    lse: Tensor | None = None,
    mask: AttentionMask | None = None,
    *,
    relative_key: Tensor | None = None,
    content_bias: Tensor | None = None,
    position_bias: Tensor | None = None,
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
) -> Tensor:
    """The attention weights, for callers that ask for them; the fused path never stores them.

    a_ij ~ exp(s_ij - lse_i), recomputed from the log-sum-exp that :func:`masked_attention` or
    :func:`relative_attention` returned with the same arguments. Plain PyTorch, differentiable; the result
    is the only L x S tensor kept.

    Args:
        query, key, mask, bias, scale, dropout_p, seed: as in :func:`masked_attention`; with dropout the
            weights are those after it, and `seed` is needed.
        lse: (B, H, L) float32; None = computed here.
        relative_key, content_bias, position_bias, relative_offset, query_position, segment_bias,
            segment_key, query_segment, key_segment: as in :func:`relative_attention`; None = no such term.

    Returns:
        (B, H, L, S) in the dtype of `query`; zeros in the row of a query that sees nothing.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    query, key, relative_key, content_bias, position_bias, segment_bias, segment_key = autocast(
        *(query, key, relative_key, content_bias, position_bias, segment_bias, segment_key)
    )
    check_attention(query, key, key, mask, bias, scale, dropout_p, seed)
    check_weights(query, lse, dropout_p, seed)
    relative = relative_options(
        query,
        key,
        relative_offset,
        relative_key=relative_key,
        content_bias=content_bias,
        position_bias=position_bias,
        segment_bias=segment_bias,
        segment_key=segment_key,
        query_segment=query_segment,
        key_segment=key_segment,
        query_position=query_position,
    )
    options = AttentionOptions.of(query, mask, bias, scale, dropout_p, seed, **relative)
    return reference.attention_weights(query, key, lse, options)
