"""Fake kernels and the autograd formula of the hierarchical softmax, shared by every backend."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ptmkernels.ops.hierarchical_softmax.tree import entries


def register(forward: str, backward: str) -> None:
    """Give a pair of ops of the hierarchical-softmax schemas their fake kernels and their gradients.

    Between the path and the last flag both may take more, the same in both: what a backend wants to know.
    """
    forward, backward = (f"ptmkernels::{name}" for name in (forward, backward))
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(backward, _fake_backward)
    gradients = partial(_backward, getattr(torch.ops.ptmkernels, backward.split("::")[1]).default)
    torch.library.register_autograd(forward, gradients, setup_context=_save)
    torch.library.register_autograd(backward, _double_backward, setup_context=lambda *_, **__: None)


def register_log_prob(forward: str, backward: str) -> None:
    """The same for the ops of the log-probabilities of all words."""
    forward, backward = (f"ptmkernels::{name}" for name in (forward, backward))
    torch.library.register_fake(forward, _fake_log_prob)
    torch.library.register_fake(backward, _fake_grad_logits)
    op = getattr(torch.ops.ptmkernels, backward.split("::")[1]).default

    def gradient(ctx, grad):
        return op(grad.contiguous(), *ctx.saved_tensors), None, None

    torch.library.register_autograd(
        forward, gradient, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    )
    torch.library.register_autograd(backward, _double_backward, setup_context=lambda *_, **__: None)


def _fake_log_prob(logits, steps, levels):
    return logits.new_empty(logits.shape[0], logits.shape[1] + 1)


def _fake_grad_logits(grad, logits, steps, levels):
    return torch.empty_like(logits)


def _fake_forward(hidden, target, node_weight, offsets, path, *rest):
    return hidden.new_empty(hidden.shape[:1], dtype=torch.float32)


def _fake_backward(grad, hidden, target, node_weight, offsets, path, *rest):
    shape = node_weight.shape if rest[-1] else (0, 0)
    return (
        hidden.new_empty(hidden.shape, dtype=torch.float32),
        hidden.new_empty(shape, dtype=torch.float32),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5])
    *ctx.rest, ctx.sparse = inputs[5:]


def _backward(op, ctx, grad):
    hidden, target, weight, offsets, path = ctx.saved_tensors
    wanted = ctx.needs_input_grad[2]
    grad = grad.contiguous()
    dense = wanted and not ctx.sparse
    grad_hidden, grad_weight = op(grad, *ctx.saved_tensors, *ctx.rest, dense)
    if wanted and ctx.sparse:
        grad_weight = _sparse_rows(grad, hidden, target, weight, offsets, path)
    grad_weight = grad_weight.to(weight.dtype) if wanted else None
    return (
        grad_hidden.to(hidden.dtype),
        None,
        grad_weight,
        None,
        None,
        *[None] * len(ctx.rest),
        None,
    )


def _sparse_rows(
    grad: Tensor, hidden: Tensor, target: Tensor, weight: Tensor, offsets: Tensor, path: Tensor
) -> Tensor:
    row, node, sign = entries(offsets, path, target)
    rows = hidden[row].float()
    logits = sign * (rows * weight[node].float()).sum(-1)
    factor = -sign * torch.sigmoid(-logits) * grad[row]
    values = (factor[:, None] * rows).to(weight.dtype)
    return torch.sparse_coo_tensor(node[None], values, weight.shape, check_invariants=False)


def _double_backward(ctx, *grads):
    raise RuntimeError(
        "the hierarchical softmax has no second derivative in its kernels: use backend='reference'"
    )
