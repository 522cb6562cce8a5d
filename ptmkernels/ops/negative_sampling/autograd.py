"""Fake kernels and the autograd formula of the negative-sampling loss, shared by every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.word_vectors import losses


def register(forward: str, backward: str) -> None:
    """Give a pair of ops of the negative-sampling schemas their fake kernels and their gradients."""
    losses.register(
        "negative_sampling_loss",
        *(forward, backward),
        fake_forward=_fake_forward,
        fake_backward=_fake_backward,
        gradients=_backward,
        save=_save,
    )


def _fake_forward(
    hidden, target, weight, negatives, alias, seed, count, bias, log_noise, skip_target, sparse
):
    shape = (hidden.shape[0], count + 1)
    loss = hidden.new_empty(shape[:1], dtype=torch.float32)
    coefficient = hidden.new_empty(shape, dtype=torch.float32)
    return loss, coefficient, hidden.new_empty(shape, dtype=torch.int64)


def _fake_backward(grad, hidden, weight, coefficient, ids, dense):
    rows = weight.shape[0] if dense else 0
    columns = weight.shape[1] if dense else 0
    float32 = {"dtype": torch.float32}
    return (
        hidden.new_empty(hidden.shape, **float32),
        hidden.new_empty((rows, columns), **float32),
        hidden.new_empty((rows,), **float32),
    )


def _save(ctx, inputs, output):
    hidden, _, weight, *_, bias, _log_noise, ctx.skip_target, ctx.sparse = inputs
    _, coefficient, ids = output
    ctx.mark_non_differentiable(coefficient, ids)
    ctx.save_for_backward(hidden, weight, coefficient, ids, bias)


def _backward(op, ctx, grad, _coefficient, _ids):
    hidden, weight, coefficient, ids, bias = ctx.saved_tensors
    weight_wanted, bias_wanted = ctx.needs_input_grad[2], ctx.needs_input_grad[7]
    if ctx.needs_input_grad[8]:
        raise RuntimeError("log_noise has no gradient: the noise distribution is given")
    grad = grad.contiguous()
    dense = (weight_wanted and not ctx.sparse) or bias_wanted
    grad_hidden, grad_weight, grad_bias = op(grad, hidden, weight, coefficient, ids, dense)
    if weight_wanted and ctx.sparse:
        grad_weight = sparse_rows(coefficient * grad[:, None], hidden, ids, weight)
    result: list[Tensor | None] = [None] * 11
    result[0] = grad_hidden.to(hidden.dtype)
    result[2] = grad_weight.to(weight.dtype) if weight_wanted else None
    result[7] = grad_bias.to(bias.dtype) if bias_wanted else None
    return tuple(result)


def sparse_rows(factor: Tensor, hidden: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `weight` as a sparse tensor: row ids[b, o] gets factor[b, o] * hidden[b]."""
    values = factor[..., None] * hidden[:, None, :].float()
    return torch.sparse_coo_tensor(
        ids.reshape(1, -1),
        values.flatten(0, 1).to(weight.dtype),
        weight.shape,
        check_invariants=False,
    )
