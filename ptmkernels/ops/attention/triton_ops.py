"""The torch ops of the Triton backend: the schemas of attention under names of their own.

Registered without importing Triton; the kernels are loaded by the first call that runs one.
"""

from __future__ import annotations

import torch

from ptmkernels.ops.attention import autograd
from ptmkernels.ops.attention.options import DIFFERENTIABLE

FORWARD = "ptmkernels::triton_attention_forward"
BACKWARD = "ptmkernels::triton_attention_backward"

_OPTIONS = (
    "Tensor? key_rank, Tensor? query_low, Tensor? query_high, Tensor? tree, Tensor? allowed, "
    "Tensor? bias, Tensor? bias_table, Tensor? bias_bucket, "
    "float scale, float dropout_p, Tensor? seed, "
    "Tensor? relative_key, Tensor? relative_value, int relative_offset, Tensor? content_bias, "
    "Tensor? position_bias, Tensor? segment_bias, Tensor? segment_key, Tensor? query_segment, "
    "Tensor? key_segment, Tensor? query_position"
)
_GRADS = ", ".join(f"Tensor grad_{name}" for name in DIFFERENTIABLE)
_library = torch.library.Library("ptmkernels", "FRAGMENT")


def _forward(*args):
    from ptmkernels.ops.attention import triton_launch

    return triton_launch.attention_forward(*args)


def _backward(*args):
    from ptmkernels.ops.attention import triton_launch

    return triton_launch.attention_backward(*args)


def register() -> None:
    """Define the ops, their kernels (CUDA and ROCm; the CPU for Triton's interpreter) and gradients."""
    forward, backward = (name.split("::")[1] for name in (FORWARD, BACKWARD))
    _library.define(
        f"{forward}(Tensor query, Tensor key, Tensor value, {_OPTIONS}) -> (Tensor output, Tensor lse)"
    )
    _library.define(
        f"{backward}(Tensor grad_output, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, "
        f"Tensor output, Tensor lse, {_OPTIONS}, int wanted_grads) -> "
        f"(Tensor grad_query, Tensor grad_key, Tensor grad_value, {_GRADS})"
    )
    for device in ("CUDA", "CPU"):
        _library.impl(forward, _forward, device)
        _library.impl(backward, _backward, device)
    autograd.register(FORWARD, BACKWARD, autograd.contiguous_like)
