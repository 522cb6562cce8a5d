"""What every public attention function does with its arguments: cast, check, choose a backend, call."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ptmkernels._selector import select
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import autograd, reference
from ptmkernels.ops.attention.options import AttentionOptions, BucketedBias, takes_tf32
from ptmkernels.ops.attention.validation import check_attention
from ptmkernels.ops.refusals import refusals


def call_attention(
    op: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask | None,
    bias: Tensor | BucketedBias | None,
    scale: float | None,
    dropout_p: float,
    seed: Tensor | None,
    backend: str | None,
    **relative,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of one call.

    Args:
        op: the name of the public function, for the refusals and their messages.
        relative: the relative terms as :class:`AttentionOptions` has them, cast and checked.
    """
    check_attention(query, key, value, mask, bias, scale, dropout_p, seed)
    if dropout_p == 1.0:  # nothing is left of the output; the log-sum-exp is that of before dropout
        shared = (op, query, key, value, mask, bias, scale, 0.0, None, backend)
        output, lse = call_attention(*shared, **relative)
        return output * 0.0, lse
    if dropout_p > 0.0 and seed is None:
        seed = draw_seed(query.device)
    options = AttentionOptions.of(query, mask, bias, scale, dropout_p, seed, **relative)
    chosen = select(op, refusals(op, tuple(FORWARD), query), backend)
    with _no_autograd():
        return FORWARD[chosen](query, key, value, options)


def _no_autograd() -> AbstractContextManager:
    """Where no gradient is asked for, past the layer of autograd: in Python, it takes longer than to decode.

    A graph that is traced keeps the layer.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return torch._C._AutoDispatchBelowAutograd()


def draw_seed(device: torch.device) -> Tensor:
    """int64 (1,) from torch's generator of `device`: follows manual_seed, checkpointing, graph replay."""
    return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in autocast's dtype where autocast is on, as torch casts those of its own attention."""
    device = tensors[0].device if isinstance(tensors[0], Tensor) else torch.device("cpu")
    if not reference.has_autocast(device) or not torch.is_autocast_enabled(device.type):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    narrow = (torch.float32, torch.bfloat16, torch.float16)
    return tuple(t.to(dtype) if getattr(t, "dtype", None) in narrow else t for t in tensors)


def _compiled_forward(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions):
    query, key, value = (autograd.unit_stride(t) for t in (query, key, value))
    return torch.ops.ptmkernels.attention_forward(query, key, value, *options)


def _cuda_forward(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions):
    if not takes_tf32(query):
        return _compiled_forward(query, key, value, options)
    query, key, value = (autograd.unit_stride(t) for t in (query, key, value))
    return torch.ops.ptmkernels.attention_forward_tf32(query, key, value, *options)


def _triton_forward(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions):
    if options.key_rank is not None and not torch.compiler.is_compiling():
        from ptmkernels.ops.attention import triton_ranges  # Triton may not be installed

        triton_ranges.remember(options)
    return torch.ops.ptmkernels.triton_attention_forward.default(query, key, value, *options)


# The backends, best first. On a GPU Triton goes before: it uses the warpgroup instructions of sm_90.
FORWARD = {
    "cpu": _compiled_forward,
    "triton": _triton_forward,
    "cuda": _cuda_forward,
    "reference": reference.attention_forward,
}
