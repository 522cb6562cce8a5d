"""What the losses over rows of an output matrix share: how their ops are registered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch


def register(
    op: str,
    forward: str,
    backward: str,
    *,
    fake_forward: Callable,
    fake_backward: Callable,
    gradients: Callable,
    save: Callable,
) -> None:
    """Give a pair of ops of one backend their fake kernels and their gradients.

    Args:
        op: name of the public function, for messages.
        forward, backward: names of the torch ops.
        gradients: of (backward op, ctx, gradients of the results); there are no second ones.
        save: sets up its ctx.
    """
    torch.library.register_fake(f"ptmkernels::{forward}", fake_forward)
    torch.library.register_fake(f"ptmkernels::{backward}", fake_backward)
    gradients = partial(gradients, getattr(torch.ops.ptmkernels, backward).default)
    torch.library.register_autograd(f"ptmkernels::{forward}", gradients, setup_context=save)
    torch.library.register_autograd(
        f"ptmkernels::{backward}",
        partial(_double_backward, op),
        setup_context=lambda *_, **__: None,
    )


def _double_backward(op, ctx, *grads):
    raise RuntimeError(f"{op} has no second derivative in its kernels: use backend='reference'")
