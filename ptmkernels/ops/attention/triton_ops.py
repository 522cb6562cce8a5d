"""The torch ops of the Triton backend: the schemas of attention under names of their own."""

from __future__ import annotations

from ptmkernels.ops import triton_library
from ptmkernels.ops.attention import autograd
from ptmkernels.ops.attention.options import DIFFERENTIABLE

FORWARD = "triton_attention_forward"
BACKWARD = "triton_attention_backward"
_MODULE = "ptmkernels.ops.attention.triton_launch"

_OPTIONS = (
    "Tensor? key_rank, Tensor? query_low, Tensor? query_high, Tensor? tree, Tensor? allowed, "
    "Tensor? bias, Tensor? bias_table, Tensor? bias_bucket, "
    "float scale, float dropout_p, Tensor? seed, "
    "Tensor? relative_key, Tensor? relative_value, int relative_offset, Tensor? content_bias, "
    "Tensor? position_bias, Tensor? segment_bias, Tensor? segment_key, Tensor? query_segment, "
    "Tensor? key_segment, Tensor? query_position, int gapless_positions"
)
_GRADS = ", ".join(f"Tensor grad_{name}" for name in DIFFERENTIABLE)


def register() -> None:
    """Define the ops, their kernels and gradients."""
    triton_library.define(
        f"{FORWARD}(Tensor query, Tensor key, Tensor value, {_OPTIONS}) -> (Tensor output, Tensor lse)",
        _MODULE,
    )
    triton_library.define(
        f"{BACKWARD}(Tensor grad_output, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, "
        f"Tensor output, Tensor lse, {_OPTIONS}, int wanted_grads) -> "
        f"(Tensor grad_query, Tensor grad_key, Tensor grad_value, {_GRADS})",
        _MODULE,
    )
    autograd.register(f"ptmkernels::{FORWARD}", f"ptmkernels::{BACKWARD}", autograd.contiguous_like)
