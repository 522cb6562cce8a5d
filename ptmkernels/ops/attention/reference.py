"""Attention as its formula stands in docs/architecture.md, in plain PyTorch: the truth of the tests.

Builds every L x S tensor; any floating dtype up to float64; differentiable any number of times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.attention.options import AttentionOptions
from ptmkernels.ops.philox import dropout_keep


def scores(query: Tensor, key: Tensor, options: AttentionOptions) -> Tensor:
    """(B, H, L, S) scores before the softmax, -inf where the mask hides the key.

    s_ij = scale * q_i.k_j + bias_ij + table[bucket(j - i), h]
    """
    heads = query.shape[1]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    result = options.scale * (query @ key.transpose(-1, -2))
    if options.bias is not None:
        result = result + options.bias.to(result.dtype)
    if options.bias_table is not None:
        result = result + bucketed_bias(options, query.shape[2], key.shape[2]).to(result.dtype)
    mask = options.mask()
    if mask is None:
        return result
    visible = mask.to_dense()
    visible = visible if visible.dim() == 4 else visible[:, None]
    return result.masked_fill(~visible, -torch.inf)


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
        return score, score.new_full(score.shape[:-1], -torch.inf)
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
    keep = dropout_keep(options.seed, options.dropout_p, *weights.shape)
    return torch.where(keep, weights, 0.0) / (1.0 - options.dropout_p)


def attention_forward(
    query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, D) in the dtype of `query` and log-sum-exp (B, H, L).

    Computes in float32 where the inputs are narrower; the log-sum-exp is float32, or float64 for float64.
    """
    dtype = query.dtype
    query, key, value = (
        t.to(torch.promote_types(dtype, torch.float32)) for t in (query, key, value)
    )
    weights, lse = softmax(scores(query, key, options))
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return (dropped(weights, options) @ value).to(dtype), lse
