"""What each backend does not serve, and why: the one list that the selector, the tests and the docs read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

KERNELS = ("cpu", "cuda", "triton")
EVERY_OP = "every op"
MAX_HEAD_DIM = 256  # of the attention kernels
ATTENTION_OPS = ("masked_attention", "relative_attention")
STEPS = ("skipgram_step_", "cbow_step_")
WORD_OPS = (
    "negative_sampling_loss",
    "hierarchical_softmax_loss",
    "hierarchical_softmax_log_prob",
    *STEPS,
)


@dataclass(frozen=True)
class Refusal:
    """A kind of call that some backends do not serve.

    Args:
        op: the name of an op, or ``EVERY_OP``.
        backends: those that refuse.
        reason: what the user reads.
        applies: whether a call is of this kind, from its leading tensor (the query of attention).
    """

    op: str
    backends: tuple[str, ...]
    reason: str
    applies: Callable[[Tensor], bool]


@torch.compiler.assume_constant_result
def transforms_active() -> bool:
    """True inside torch.func's transforms (vmap, grad, jvp, ...) and levels of forward-mode AD."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


REFUSALS = (
    Refusal(
        EVERY_OP,
        ("cpu",),
        "it serves tensors on the CPU",
        lambda tensor: not tensor.is_cpu,
    ),
    Refusal(
        EVERY_OP,
        ("cuda",),
        "it serves tensors on CUDA devices",
        lambda tensor: not tensor.is_cuda,
    ),
    Refusal(
        EVERY_OP,
        ("triton",),
        "it serves tensors on CUDA devices (on the CPU, TRITON_INTERPRET=1 runs the kernels, slowly)",
        lambda tensor: not (tensor.is_cuda or (tensor.is_cpu and _interpreted())),
    ),
    Refusal(
        EVERY_OP,
        KERNELS,
        "torch.func transforms and forward-mode AD are served by reference only",
        lambda tensor: transforms_active(),
    ),
    *(
        Refusal(
            op,
            KERNELS,
            "float64 is served by reference only",
            lambda query: query.dtype == torch.float64,
        )
        for op in ATTENTION_OPS
    ),
    *(
        Refusal(
            op,
            KERNELS,
            f"heads wider than {MAX_HEAD_DIM} are served by reference only",
            lambda query: query.shape[-1] > MAX_HEAD_DIM,
        )
        for op in ATTENTION_OPS
    ),
    *(
        Refusal(
            op,
            KERNELS,
            "float64 and float16 are served by reference only",
            lambda matrix: matrix.dtype not in (torch.float32, torch.bfloat16),
        )
        for op in WORD_OPS
    ),
    *(
        Refusal(
            op,
            KERNELS,
            "the columns of a matrix do not lie together (its stride(1) is not 1)",
            lambda matrix: matrix.stride(1) != 1,
        )
        for op in STEPS
    ),
)

_OF_EVERY_OP = [r for r in REFUSALS if r.op == EVERY_OP]
_OF_OP = {r.op: [s for s in REFUSALS if s.op in (r.op, EVERY_OP)] for r in REFUSALS}


def refusals(op: str, backends: Sequence[str], tensor: Tensor) -> dict[str, str | None]:
    """For each backend of an op, why it cannot serve a call with this leading tensor, or None.

    Args:
        op: name of the op.
        backends: those that the op has, best first.
        tensor: the leading tensor of the call.
    """
    found: dict[str, str | None] = dict.fromkeys(backends)
    for refusal in _OF_OP.get(op, _OF_EVERY_OP):
        if refusal.applies(tensor):
            for backend in refusal.backends:
                if backend in found and found[backend] is None:
                    found[backend] = refusal.reason
    return found


def as_markdown() -> str:
    """The list as the table of docs/refusals.md."""
    rows = ["| op | backends | refused: what the error says |", "|---|---|---|"]
    rows += [f"| {r.op} | {', '.join(r.backends)} | {r.reason} |" for r in REFUSALS]
    return "\n".join(rows)
