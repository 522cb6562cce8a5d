"""The torch ops of the Triton backend: the schemas of the negative-sampling loss under other names."""

from __future__ import annotations

from ptmkernels.ops import triton_library
from ptmkernels.ops.negative_sampling import autograd

FORWARD = "triton_negative_sampling_forward"
BACKWARD = "triton_negative_sampling_backward"
_MODULE = "ptmkernels.ops.negative_sampling.triton_kernels"


def register() -> None:
    """Define the ops, their kernels and gradients."""
    triton_library.define(
        f"{FORWARD}(Tensor hidden, Tensor target, Tensor weight, Tensor? negatives, Tensor? alias, "
        "Tensor? seed, int num_negatives, Tensor? bias, Tensor? log_noise, bool skip_target, "
        "bool sparse) -> (Tensor loss, Tensor coefficient, Tensor ids)",
        _MODULE,
    )
    triton_library.define(
        f"{BACKWARD}(Tensor grad, Tensor hidden, Tensor weight, Tensor coefficient, Tensor ids, "
        "bool dense) -> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)",
        _MODULE,
    )
    autograd.register(FORWARD, BACKWARD)
