"""Attention as its formula stands in docs/architecture.md, in plain PyTorch: the truth of the tests.

Builds every L x S tensor; any floating dtype up to float64; differentiable any number of times.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ptmkernels.ops.attention.options import AttentionOptions, compute_dtype
from ptmkernels.ops.philox import dropout_keep


def scores(query: Tensor, key: Tensor, options: AttentionOptions) -> Tensor:
    """(B, H, L, S) scores before the softmax, -inf where the mask hides the key.

    s_ij = scale * [(q_i + u).k_j + (q_i + v).r_row(i,j) + (q_i + w).g_[seg_i != seg_j]]
           + bias_ij + table[bucket(j - i), h]
    (Dai et al. 2019, section 3.3; Yang et al. 2019, sections 2.5 and 2.6).
    """
    result = _shifted(query, options.content_bias) @ _for_heads(key, query).transpose(-1, -2)
    if options.relative_key is not None:
        result = result + _position_scores(query, options, result.shape)
    if options.segment_key is not None:
        result = result + _segment_scores(query, options, result.shape)
    result = options.scale * result
    if options.bias is not None:
        result = result + options.bias.to(result.dtype)
    if options.bias_table is not None:
        result = result + bucketed_bias(options, query.shape[2], key.shape[2]).to(result.dtype)
    visible = options.visible()
    return result if visible is None else result.masked_fill(~visible, -torch.inf)


def _for_heads(tensor: Tensor, query: Tensor) -> Tensor:
    """Keys or values (B, Hk, S, D) for each head of `query`."""
    return tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1)


def _shifted(query: Tensor, bias: Tensor | None) -> Tensor:
    """query + bias, the bias (H, D) one vector for each head."""
    return query if bias is None else query + bias.to(query.dtype)[:, None]


def _position_scores(query: Tensor, options: AttentionOptions, shape: torch.Size) -> Tensor:
    """(B, H, L, S): (q_i + v).r_row(i,j)."""
    relative_key = options.relative_key.to(query.dtype)
    by_row = _shifted(query, options.position_bias) @ relative_key.transpose(-1, -2)
    return by_row.gather(-1, relative_rows(options, *shape[2:])[:, None].expand(shape))


def relative_rows(options: AttentionOptions, query_len: int, key_len: int) -> Tensor:
    """(B or 1, L, S) rows of `relative_key` and `relative_value`: j - position_i + offset, clamped."""
    table = options.relative_value if options.relative_key is None else options.relative_key
    position = options.query_position
    if position is None:
        position = torch.arange(query_len, device=table.device)[None]
    rows = torch.arange(key_len, device=table.device) - position[..., None]
    return (rows + options.relative_offset).clamp(0, table.shape[2] - 1).long()


def _segment_scores(query: Tensor, options: AttentionOptions, shape: torch.Size) -> Tensor:
    """(B, H, L, S): (q_i + w).g_0 where the segments are the same, (q_i + w).g_1 where they differ."""
    shifted = _shifted(query, options.segment_bias)
    both = torch.einsum("bhld,ghd->bhlg", shifted, options.segment_key.to(query.dtype))
    differ = options.query_segment[:, :, None] != options.key_segment[:, None, :]
    return both.gather(-1, differ[:, None].long().expand(shape))


def bucketed_bias(options: AttentionOptions, query_len: int, key_len: int) -> Tensor:
    """(H, L, S): the bias table looked up for every pair of positions."""
    device = options.bias_table.device
    distance = (
        torch.arange(key_len, device=device) - torch.arange(query_len, device=device)[:, None]
    )
    buckets = options.bias_bucket[distance + query_len - 1]
    return options.bias_table[buckets.long()].permute(2, 0, 1)


def softmax(score: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension and its log-sum-exp; a row of -inf gives zeros and -inf."""
    if score.shape[-1] == 0:
        return score, score.sum(-1) - torch.inf
    top = score.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    weights = (score - top).exp()
    total = weights.sum(-1, keepdim=True)
    empty = total == 0
    total = torch.where(empty, 1.0, total)
    lse = torch.where(empty, -torch.inf, total.log() + top).squeeze(-1)
    return weights / total, lse


def dropped(weights: Tensor, options: AttentionOptions) -> Tensor:
    """The weights after dropout."""
    if options.dropout_p == 0.0:
        return weights
    if options.dropout_p == 1.0:
        return weights * 0.0
    keep = dropout_keep(options.seed, options.dropout_p, *weights.shape)
    return torch.where(keep, weights, 0.0) / (1.0 - options.dropout_p)


def attention_forward(
    query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, D) in the dtype of `query` and log-sum-exp (B, H, L).

    Computes in float32 where the inputs are narrower; the log-sum-exp is float32, or float64 for float64.
    """
    dtype = query.dtype
    wide = compute_dtype(query)
    query, key, value = (t.to(wide) for t in (query, key, value))
    with without_autocast(query.device):
        weights, lse = softmax(scores(query, key, options))
        weights = dropped(weights, options)
        output = weights @ _for_heads(value, query)
        if options.relative_value is not None:
            output = output + _relative_output(weights, options)
    return output.to(dtype), lse


def _relative_output(weights: Tensor, options: AttentionOptions) -> Tensor:
    """sum_j a_ij rv_row(i,j): the weights summed by row of `relative_value` (Shaw et al. 2018, eq. 3)."""
    rows = relative_rows(options, *weights.shape[2:])[:, None].expand(weights.shape)
    by_row = weights.new_zeros(*weights.shape[:3], options.relative_value.shape[2])
    return by_row.scatter_add(-1, rows, weights) @ options.relative_value.to(weights.dtype)


def attention_weights(
    query: Tensor, key: Tensor, lse: Tensor | None, options: AttentionOptions
) -> Tensor:
    """(B, H, L, S) weights after dropout, in the dtype of `query`; `lse` None = computed."""
    wide = compute_dtype(query)
    with without_autocast(query.device):
        score = scores(query.to(wide), key.to(wide), options)
        if lse is None:
            weights = softmax(score)[0]
        else:
            weights = (score - torch.where(lse == -torch.inf, 0.0, lse)[..., None]).exp()
            total = weights.sum(-1, keepdim=True)  # not 1 where a large bias took digits from lse
            weights = weights / torch.where(total == 0, 1.0, total)
        return dropped(weights, options).to(query.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast would take the products to a lower precision."""
    if has_autocast(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@torch.compiler.assume_constant_result  # torch 2.10 cannot trace the question
def has_autocast(device: torch.device) -> bool:
    """Whether autocast knows this kind of device."""
    return torch.amp.is_autocast_available(device.type)
