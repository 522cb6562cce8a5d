"""The torch ops of the Triton backend: those of the hierarchical softmax, and the tree's depth.

The depth is the size of a row of factors in the backward pass, which a GPU would have to be asked for.
"""

from __future__ import annotations

from ptmkernels.ops import triton_library
from ptmkernels.ops.hierarchical_softmax import autograd

FORWARD = "triton_hierarchical_softmax_forward"
BACKWARD = "triton_hierarchical_softmax_backward"
_MODULE = "ptmkernels.ops.hierarchical_softmax.triton_kernels"


def register() -> None:
    """Define the ops, their kernels and gradients."""
    triton_library.define(
        f"{FORWARD}(Tensor hidden, Tensor target, Tensor node_weight, Tensor offsets, Tensor path, "
        "int depth, bool sparse) -> Tensor loss",
        _MODULE,
    )
    triton_library.define(
        f"{BACKWARD}(Tensor grad, Tensor hidden, Tensor target, Tensor node_weight, "
        "Tensor offsets, Tensor path, int depth, bool dense) "
        "-> (Tensor grad_hidden, Tensor grad_weight)",
        _MODULE,
    )
    autograd.register(FORWARD, BACKWARD)
