"""Fake kernels and the one autograd formula of attention, shared by every backend.

`ptmkernels::attention_forward` and `attention_backward` dispatch by device to the C++ and CUDA kernels;
the Triton backend is a second pair of ops of the same schema.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.attention import reference
from ptmkernels.ops.attention.options import AttentionOptions

_OPTIONS = len(AttentionOptions.__dataclass_fields__)
_BIAS, _TABLE = (
    list(AttentionOptions.__dataclass_fields__).index(n) for n in ("bias", "bias_table")
)


def register(forward_name: str, backward_name: str) -> None:
    """Give a pair of ops of the attention schemas their fake kernels and their gradients."""
    torch.library.register_fake(forward_name, _fake_forward)
    torch.library.register_fake(backward_name, _fake_backward)
    namespace, name = backward_name.split("::")
    backward_op = getattr(getattr(torch.ops, namespace), name).default

    def backward(ctx, grad_output, grad_lse):
        query, key, value, output, lse, *tensors = ctx.saved_tensors
        options = ctx.rebuild(tensors)
        bias, table = 3 + _BIAS, 3 + _TABLE
        wanted = ctx.needs_input_grad
        grads = backward_op(
            grad_output,
            grad_lse,
            query,
            key,
            value,
            output,
            lse,
            *options,
            wanted[bias],
            wanted[table],
        )
        result = [None] * (3 + _OPTIONS)
        result[:3] = grads[:3]
        result[bias] = grads[3] if wanted[bias] else None
        result[table] = grads[4] if wanted[table] else None
        return tuple(result)

    torch.library.register_autograd(forward_name, backward, setup_context=_save_forward)
    torch.library.register_autograd(backward_name, _double_backward, setup_context=_save_backward)
    for op in (forward_name, backward_name):
        torch.library.register_vmap(op, _refuse_vmap)


def _refuse_vmap(info, in_dims, *args):
    raise RuntimeError(
        "torch.func.vmap over a kernel of ptmkernels is not supported: the ops take a batch dimension; "
        "fold the mapped dimension into it, or use backend='reference'"
    )


def _fake_forward(query, key, value, *options):
    batch, heads, length, _ = query.shape
    return torch.empty_like(query, memory_format=torch.contiguous_format), query.new_empty(
        (batch, heads, length), dtype=torch.float32
    )


def _fake_backward(grad_output, grad_lse, query, key, value, output, lse, *rest):
    bias, table = rest[_BIAS], rest[_TABLE]
    bias_wanted, table_wanted = rest[_OPTIONS:]
    contiguous = {"memory_format": torch.contiguous_format}
    return (
        *(torch.empty_like(t, **contiguous) for t in (query, key, value)),
        torch.empty_like(bias, **contiguous) if bias_wanted else query.new_empty(0),
        torch.empty_like(table, **contiguous) if table_wanted else query.new_empty(0),
    )


def _split(values: tuple) -> tuple[list[Tensor], object]:
    """The tensors among `values`, to save for backward, and a function that puts them back."""
    plain = [None if isinstance(v, Tensor) else (v,) for v in values]

    def rebuild(tensors) -> list:
        tensors = iter(tensors)
        return [next(tensors) if p is None else p[0] for p in plain]

    return [v for v in values if isinstance(v, Tensor)], rebuild


def _save_forward(ctx, inputs, output):
    query, key, value, *options = inputs
    tensors, ctx.rebuild = _split(options)
    ctx.save_for_backward(query, key, value, *output, *tensors)


def _save_backward(ctx, inputs, output):
    tensors, ctx.rebuild = _split(inputs)
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, *grads_of_grads):
    """Second derivatives by differentiating the reference twice; a kernel of their own has no use."""
    inputs = ctx.rebuild(ctx.saved_tensors)
    grad_output, grad_lse, query, key, value, _output, _lse, *rest = inputs
    options = rest[:_OPTIONS]
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (query, key, value)]
        for index in (_BIAS, _TABLE):
            if options[index] is not None:
                options[index] = options[index].detach().requires_grad_()
                leaves.append(options[index])
        upstream = [grad_output.detach().requires_grad_()]
        outputs = list(reference.attention_forward(*leaves[:3], AttentionOptions(*options)))
        if grad_lse is None:
            outputs.pop()
        else:
            upstream.append(grad_lse.detach().requires_grad_())
        first = torch.autograd.grad(outputs, leaves, upstream, create_graph=True)
        given = _given_for(grads_of_grads, options)
        pairs = [(f, g) for f, g in zip(first, given, strict=True) if g is not None]
        second = torch.autograd.grad(
            [f for f, _ in pairs], upstream + leaves, [g for _, g in pairs], allow_unused=True
        )
    return _place(list(second), grad_lse is not None, options)


def _given_for(grads: tuple, options: list) -> list:
    """The incoming gradients of the leaves that exist: query, key, value, bias, table."""
    given = list(grads[:3])
    for index, grad in ((_BIAS, grads[3]), (_TABLE, grads[4])):
        if options[index] is not None:
            given.append(grad if grad is not None and grad.numel() else None)
    return given


def _place(second: list, has_lse: bool, options: list) -> tuple:
    """The second derivatives at the places of the backward op's inputs."""
    result = [None] * (7 + _OPTIONS + 2)
    result[0] = second.pop(0)
    if has_lse:
        result[1] = second.pop(0)
    result[2:5] = second[:3]
    rest = second[3:]
    for index in (_BIAS, _TABLE):
        if options[index] is not None:
            result[7 + index] = rest.pop(0)
    return tuple(result)
