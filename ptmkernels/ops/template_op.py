"""The smallest op that goes the whole way, to copy from (CONTRIBUTING.md, "Add a kernel")."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels._library import cpu_library_error, cuda_library_error
from ptmkernels._selector import select
from ptmkernels.ops.refusals import refusals

__all__ = ["template_op"]


def _backward(ctx, grad):
    return ctx.alpha * grad, grad, None


def _save(ctx, inputs, output):
    ctx.alpha = inputs[2]


if cpu_library_error() is None:
    cuda_library_error()
    torch.library.register_fake("ptmkernels::template_op", lambda x, y, alpha: torch.empty_like(x))
    torch.library.register_autograd("ptmkernels::template_op", _backward, setup_context=_save)


def template_op(x: Tensor, y: Tensor, alpha: float, *, backend: str | None = None) -> Tensor:
    """alpha * x + y.

    Args:
        x, y: float32 of one shape and device.
        alpha: a number.
        backend: "cpu", "cuda" or "reference"; None = the fastest that can serve.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    for name, tensor in (("x", x), ("y", y)):
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected torch.float32")
    if x.shape != y.shape or x.device != y.device:
        raise ValueError(
            f"y has shape {tuple(y.shape)} on {y.device}; expected {tuple(x.shape)} on {x.device}"
        )
    reasons = refusals("template_op", ("cuda", "cpu", "reference"), x)
    if select("template_op", reasons, backend) == "reference":
        return alpha * x + y
    return torch.ops.ptmkernels.template_op(x.contiguous(), y.contiguous(), alpha)
