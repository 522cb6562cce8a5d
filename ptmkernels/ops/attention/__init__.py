"""Attention over interval masks: `masked_attention` and `attention_weights`."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels._library import cpu_library_error, cuda_library_error
from ptmkernels._selector import select
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import autograd, reference, triton_ops
from ptmkernels.ops.attention.options import (
    AttentionOptions,
    BucketedBias,
    t5_buckets,
    takes_tf32,
)
from ptmkernels.ops.attention.validation import check_attention, check_weights
from ptmkernels.ops.refusals import refusals

__all__ = ["BucketedBias", "attention_weights", "masked_attention", "t5_buckets"]

if cpu_library_error() is None:
    cuda_library_error()
    for precision in ("", "_tf32"):
        autograd.register(
            f"ptmkernels::attention_forward{precision}",
            f"ptmkernels::attention_backward{precision}",
        )
triton_ops.register()


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask | None = None,
    *,
    bias: Tensor | BucketedBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention under an interval mask, fused: no L x S tensor is built.

    o_i = sum_j softmax_j(scale * q_i.k_j + bias_ij) v_j over the keys j that query i may see
    (Vaswani et al. 2017, equation 1). A query that may see nothing gives zeros and zero gradients.

    Args:
        query: (B, H, L, D), float32, bfloat16 or float16; float64 is served by `reference`. D <= 256.
        key: (B, Hk, S, D), Hk a divisor of H: query head h reads key head h // (H // Hk).
        value: (B, Hk, S, D).
        mask: what each query may see; None = everything.
        bias: added to the scores after scaling: a tensor that broadcasts to (B, H, L, S), or a
            :class:`BucketedBias`; both with a gradient. A bias of -inf hides.
        scale: factor of the products; None = 1 / sqrt(D).
        dropout_p: probability with which an attention weight is dropped, 0 <= p < 1.
        seed: int64 (1,) on the device of `query`, the key of the dropout bits, which are the same in
            every backend; None = drawn from torch's generator.
        backend: "cpu", "triton", "cuda" or "reference"; None = the environment variable
            PTMKERNELS_BACKEND, else the fastest that can serve.
        return_lse: also return the log-sum-exp of the scores, (B, H, L) float32, -inf where a query
            sees nothing; differentiable.

    Returns:
        Output (B, H, L, D) in the dtype of `query`, or (output, lse).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: the forced backend cannot serve this call; the message says why.
    """
    query, key, value = _autocast(query, key, value)
    check_attention(query, key, value, mask, bias, scale, dropout_p, seed)
    if dropout_p > 0.0 and seed is None:
        seed = draw_seed(query.device)
    options = AttentionOptions.of(query, mask, bias, scale, dropout_p, seed)
    chosen = select(
        "masked_attention", refusals("masked_attention", tuple(_FORWARD), query), backend
    )
    output, lse = _FORWARD[chosen](query, key, value, options)
    return (output, lse) if return_lse else output


def attention_weights(
    query: Tensor,
    key: Tensor,
    lse: Tensor | None = None,
    mask: AttentionMask | None = None,
    *,
    bias: Tensor | BucketedBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """The attention weights, for callers that ask for them; the fused path never stores them.

    a_ij = exp(s_ij - lse_i), recomputed from the log-sum-exp that :func:`masked_attention` returned
    with the same arguments. Plain PyTorch, differentiable; the result is the only L x S tensor kept.

    Args:
        query, key, mask, bias, scale, dropout_p, seed: as in :func:`masked_attention`; with dropout the
            weights are those after it, and `seed` is needed.
        lse: (B, H, L) float32; None = computed here.

    Returns:
        (B, H, L, S) in the dtype of `query`; zeros in the row of a query that sees nothing.
    """
    query, key = _autocast(query, key)
    check_attention(query, key, key, mask, bias, scale, dropout_p, seed)
    check_weights(query, lse, dropout_p, seed)
    options = AttentionOptions.of(query, mask, bias, scale, dropout_p, seed)
    return reference.attention_weights(query, key, lse, options)


def draw_seed(device: torch.device) -> Tensor:
    """int64 (1,) from torch's generator of `device`: follows manual_seed, checkpointing, graph replay."""
    return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on, as torch casts those of its own attention."""
    device = getattr(tensors[0], "device", torch.device("cpu")).type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    narrow = (torch.float32, torch.bfloat16, torch.float16)
    return tuple(t.to(dtype) if getattr(t, "dtype", None) in narrow else t for t in tensors)


def _compiled_forward(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions):
    query, key, value = (autograd.unit_stride(t) for t in (query, key, value))
    return torch.ops.ptmkernels.attention_forward(query, key, value, *options.astuple())


def _cuda_forward(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions):
    if not takes_tf32(query):
        return _compiled_forward(query, key, value, options)
    query, key, value = (autograd.unit_stride(t) for t in (query, key, value))
    return torch.ops.ptmkernels.attention_forward_tf32(query, key, value, *options.astuple())


def _triton_forward(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions):
    return torch.ops.ptmkernels.triton_attention_forward(query, key, value, *options.astuple())


# The backends, best first. On a GPU Triton goes before: it uses the warpgroup instructions of sm_90.
_FORWARD = {
    "cpu": _compiled_forward,
    "triton": _triton_forward,
    "cuda": _cuda_forward,
    "reference": reference.attention_forward,
}
