"""Fake kernels and the autograd formula of the hierarchical softmax, shared by every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree

FORWARD = "ptmkernels::hierarchical_softmax_forward"
BACKWARD = "ptmkernels::hierarchical_softmax_backward"


def register() -> None:
    torch.library.register_fake(FORWARD, _fake_forward)
    torch.library.register_fake(BACKWARD, _fake_backward)
    torch.library.register_autograd(FORWARD, _backward, setup_context=_save)
    torch.library.register_autograd(BACKWARD, _double_backward, setup_context=lambda *_, **__: None)


def _fake_forward(hidden, target, node_weight, offsets, path, sparse):
    return hidden.new_empty(hidden.shape[:1], dtype=torch.float32)


def _fake_backward(grad, hidden, target, node_weight, offsets, path, dense):
    shape = node_weight.shape if dense else (0, 0)
    return (
        hidden.new_empty(hidden.shape, dtype=torch.float32),
        hidden.new_empty(shape, dtype=torch.float32),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5])
    ctx.sparse = inputs[5]


def _backward(ctx, grad):
    hidden, target, weight, offsets, path = ctx.saved_tensors
    wanted = ctx.needs_input_grad[2]
    grad = grad.contiguous()
    grad_hidden, grad_weight = torch.ops.ptmkernels.hierarchical_softmax_backward(
        grad, hidden, target, weight, offsets, path, wanted and not ctx.sparse
    )
    if wanted and ctx.sparse:
        grad_weight = _sparse_rows(grad, hidden, target, weight, HuffmanTree(offsets, path))
    return (
        grad_hidden.to(hidden.dtype),
        None,
        grad_weight.to(weight.dtype) if wanted else None,
        None,
        None,
        None,
    )


def _sparse_rows(
    grad: Tensor, hidden: Tensor, target: Tensor, weight: Tensor, tree: HuffmanTree
) -> Tensor:
    row, node, sign = tree.entries(target)
    rows = hidden[row].float()
    logits = sign * (rows * weight[node].float()).sum(-1)
    factor = -sign * torch.sigmoid(-logits) * grad[row]
    values = (factor[:, None] * rows).to(weight.dtype)
    return torch.sparse_coo_tensor(node[None], values, weight.shape, check_invariants=False)


def _double_backward(ctx, *grads):
    raise RuntimeError(
        "hierarchical_softmax_loss has no second derivative in its kernels: use backend='reference'"
    )
