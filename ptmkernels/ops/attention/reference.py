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

    s_ij = scale * q_i.k_j + bias_ij + table[bucket(j - i), h]
    """
    result = options.scale * (query @ _for_heads(key, query).transpose(-1, -2))
    if options.bias is not None:
        result = result + options.bias.to(result.dtype)
    if options.bias_table is not None:
        result = result + bucketed_bias(options, query.shape[2], key.shape[2]).to(result.dtype)
    visible = options.visible()
    return result if visible is None else result.masked_fill(~visible, -torch.inf)


def _for_heads(tensor: Tensor, query: Tensor) -> Tensor:
    """Keys or values (B, Hk, S, D) for each head of `query`."""
    return tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1)


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
        output = dropped(weights, options) @ _for_heads(value, query)
    return output.to(dtype), lse


def attention_weights(
    query: Tensor, key: Tensor, lse: Tensor | None, options: AttentionOptions
) -> Tensor:
    """(B, H, L, S) exp(s_ij - lse_i) after dropout, in the dtype of `query`; `lse` None = computed."""
    wide = compute_dtype(query)
    with without_autocast(query.device):
        score = scores(query.to(wide), key.to(wide), options)
        if lse is None:
            weights = softmax(score)[0]
        else:
            weights = (score - torch.where(lse == -torch.inf, 0.0, lse)[..., None]).exp()
        return dropped(weights, options).to(query.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast would take the products to a lower precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
