"""Fake kernels and the autograd formula of the hierarchical softmax, shared by every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.hierarchical_softmax.tree import entries
from ptmkernels.ops.word_vectors import losses


def register(forward: str, backward: str) -> None:
    """Give a pair of ops of the hierarchical-softmax schemas their fake kernels and their gradients."""
    losses.register(
        "hierarchical_softmax_loss",
        *(forward, backward),
        fake_forward=_fake_forward,
        fake_backward=_fake_backward,
        gradients=_backward,
        save=_save,
    )


def register_log_prob(forward: str, backward: str) -> None:
    """The same for the ops of the log-probabilities of all words."""
    losses.register(
        "hierarchical_softmax_log_prob",
        *(forward, backward),
        fake_forward=_fake_log_prob,
        fake_backward=lambda grad, logits, steps, levels: torch.empty_like(logits),
        gradients=lambda op, ctx, grad: (op(grad.contiguous(), *ctx.saved_tensors), None, None),
        save=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )


def _fake_log_prob(logits, steps, levels):
    return logits.new_empty(logits.shape[0], logits.shape[1] + 1)


def _fake_forward(hidden, target, node_weight, offsets, path, depth, sparse):
    return hidden.new_empty(hidden.shape[:1], dtype=torch.float32)


def _fake_backward(grad, hidden, target, node_weight, offsets, path, depth, dense):
    shape = node_weight.shape if dense else (0, 0)
    return (
        hidden.new_empty(hidden.shape, dtype=torch.float32),
        hidden.new_empty(shape, dtype=torch.float32),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5])
    ctx.depth, ctx.sparse = inputs[5:]


def _backward(op, ctx, grad):
    hidden, target, weight, offsets, path = ctx.saved_tensors
    wanted = ctx.needs_input_grad[2]
    grad = grad.contiguous()
    dense = wanted and not ctx.sparse
    grad_hidden, grad_weight = op(grad, *ctx.saved_tensors, ctx.depth, dense)
    if wanted and ctx.sparse:
        grad_weight = _sparse_rows(grad, hidden, target, weight, offsets, path)
    grad_weight = grad_weight.to(weight.dtype) if wanted else None
    return (grad_hidden.to(hidden.dtype), None, grad_weight, None, None, None, None)


def _sparse_rows(
    grad: Tensor, hidden: Tensor, target: Tensor, weight: Tensor, offsets: Tensor, path: Tensor
) -> Tensor:
    row, node, sign = entries(offsets, path, target)
    rows = hidden[row].float()
    logits = sign * (rows * weight[node].float()).sum(-1)
    factor = -sign * torch.sigmoid(-logits) * grad[row]
    values = (factor[:, None] * rows).to(weight.dtype)
    return torch.sparse_coo_tensor(node[None], values, weight.shape, check_invariants=False)
