"""The torch ops of the Triton backend: the schemas of the hierarchical softmax under other names."""

from __future__ import annotations

from ptmkernels.ops import triton_library
from ptmkernels.ops.hierarchical_softmax import autograd

FORWARD = "triton_hierarchical_softmax_forward"
BACKWARD = "triton_hierarchical_softmax_backward"
LOG_PROB_FORWARD = "triton_hierarchical_softmax_log_prob_forward"
LOG_PROB_BACKWARD = "triton_hierarchical_softmax_log_prob_backward"
_MODULE = "ptmkernels.ops.hierarchical_softmax.triton_kernels"
_LOG_PROB_MODULE = "ptmkernels.ops.hierarchical_softmax.triton_log_prob"


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
    triton_library.define(
        f"{LOG_PROB_FORWARD}(Tensor logits, Tensor steps, Tensor levels) -> Tensor log_prob",
        _LOG_PROB_MODULE,
    )
    triton_library.define(
        f"{LOG_PROB_BACKWARD}(Tensor grad, Tensor logits, Tensor steps, Tensor levels) "
        "-> Tensor grad_logits",
        _LOG_PROB_MODULE,
    )
    autograd.register_log_prob(LOG_PROB_FORWARD, LOG_PROB_BACKWARD)
