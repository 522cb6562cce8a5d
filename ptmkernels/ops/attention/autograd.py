"""Fake kernels and the one autograd formula of attention, shared by every backend.

`ptmkernels::attention_forward` and `attention_backward` dispatch by device to the C++ and CUDA kernels;
the Triton backend is a second pair of ops of the same schema.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from ptmkernels.ops.attention import reference
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions

_NAMES = AttentionOptions._fields
_PLACES = [_NAMES.index(name) for name in DIFFERENTIABLE]
_QKV = 3  # the options follow query, key and value in the forward op
_BEFORE = 7  # and in the backward op grad_output, grad_lse, query, key, value, output and lse


def register(forward_name: str, backward_name: str, like: Callable[[Tensor], Tensor]) -> None:
    """Give a pair of ops of the attention schemas their fake kernels and their gradients.

    Args:
        like: allocates as the kernels do what has the shape of an argument.
    """
    torch.library.register_fake(forward_name, partial(_fake_forward, like))
    torch.library.register_fake(backward_name, partial(_fake_backward, like))
    forward_op, backward_op = _op(forward_name), _op(backward_name)

    def backward(ctx, grad_output, grad_lse):
        query, key, value, output, lse, *tensors = ctx.saved_tensors
        wanted = sum(ctx.needs_input_grad[_QKV + place] << n for n, place in enumerate(_PLACES))
        grads = backward_op(
            torch.zeros_like(output) if grad_output is None else unit_stride(grad_output),
            grad_lse,
            *(query, key, value, output, lse),
            *ctx.rebuild(tensors),
            wanted,
        )
        result = [*grads[:_QKV], *[None] * len(_NAMES)]
        for n in wanted_places(wanted):
            result[_QKV + _PLACES[n]] = grads[_QKV + n]
        return tuple(result)

    _register_gradient(forward_op, _save_forward, backward)
    _register_gradient(backward_op, _save_backward, _double_backward)
    for op in (forward_name, backward_name):
        torch.library.register_vmap(op, _refuse_vmap)


def _op(name: str) -> torch._ops.OpOverload:
    namespace, name = name.split("::")
    return getattr(getattr(torch.ops, namespace), name).default


def _register_gradient(op: torch._ops.OpOverload, save: Callable, backward: Callable) -> None:
    """What `torch.library.register_autograd` does, but for a lookup of every argument's default.

    That lookup takes longer, with two dozen arguments, than all else that a call does on the host.
    """

    def below(keyset, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            *inputs, keyset = arguments
            output = below(keyset, *inputs)
            save(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return *backward(ctx, *grads), None

    def run(keyset, *inputs):
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return Differentiable.apply(*inputs, keyset)
        return below(keyset, *inputs)

    _library_of(op.namespace).impl(op, run, "Autograd", with_keyset=True)


@cache
def _library_of(namespace: str) -> torch.library.Library:
    """Where the ops of a namespace get their gradients; it has to live as long as they."""
    return torch.library.Library(namespace, "FRAGMENT")


def wanted_places(wanted: int) -> list[int]:
    """The places in ``DIFFERENTIABLE`` of the gradients that a backward op is asked for."""
    return [n for n in range(len(DIFFERENTIABLE)) if wanted >> n & 1]


def unit_stride(tensor: Tensor) -> Tensor:
    """`tensor` with a last dimension of stride 1, as the kernels read it; the others may have any."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _refuse_vmap(info, in_dims, *args):
    raise RuntimeError(
        "torch.func.vmap over a kernel of ptmkernels is not supported: the ops take a batch dimension; "
        "fold the mapped dimension into it, or use backend='reference'"
    )


def contiguous_like(tensor: Tensor) -> Tensor:
    """Memory for a result of the shape of `tensor`."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def layout_like(tensor: Tensor) -> Tensor:
    """The same in the layout of `tensor` on the CPU, where that keeps the last dimension's stride 1."""
    made = torch.empty_like(tensor)
    kept = tensor.device.type == "cpu" and made.stride(-1) == 1
    return made if kept else contiguous_like(tensor)


def _fake_forward(like, query, key, value, *options):
    return like(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def _fake_backward(like, grad_output, grad_lse, query, key, value, output, lse, *rest):
    *options, wanted = rest
    grads = [like(query), like(key), like(value)] + [query.new_empty(0) for _ in DIFFERENTIABLE]
    for n in wanted_places(wanted):
        of_rows = DIFFERENTIABLE[n] in ("relative_key", "relative_value")
        grads[_QKV + n] = (like if of_rows else contiguous_like)(options[_PLACES[n]])
    return tuple(grads)


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
    ctx.set_materialize_grads(False)  # most callers have no gradient of the log-sum-exp
    ctx.save_for_backward(query, key, value, *output, *tensors)


def _save_backward(ctx, inputs, output):
    tensors, ctx.rebuild = _split(inputs)
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, *grads):
    """Derivatives of the backward op, by differentiating the reference; of any order.

    `output` and `lse` are functions of the other inputs, so their share goes to those.
    """
    inputs = ctx.rebuild(ctx.saved_tensors)
    *inputs, wanted = inputs
    places = [0, 1, 2, 3, 4, *(_BEFORE + place for place in _PLACES)]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        for place in places:
            if inputs[place] is not None:
                inputs[place] = _apart(inputs[place])
        options = AttentionOptions(*inputs[_BEFORE:])
        outputs = reference.attention_forward(*inputs[2:5], options)
        given = [
            (out, grad) for out, grad in zip(outputs, inputs, strict=False) if grad is not None
        ]
        leaves = [2, 3, 4, *(_BEFORE + _PLACES[n] for n in wanted_places(wanted))]
        grads = [*grads[:_QKV], *(grads[_QKV + n] for n in wanted_places(wanted))]
        first = torch.autograd.grad(
            [out for out, _ in given],
            [inputs[p] for p in leaves],
            [g for _, g in given],
            create_graph=True,
        )
        asked = [p for p in places if ctx.needs_input_grad[p]]
        second = torch.autograd.grad(
            first, [inputs[p] for p in asked], grads, create_graph=create_graph, allow_unused=True
        )
    result = [None] * (len(inputs) + 1)  # and `wanted_grads`
    for place, grad in zip(asked, second, strict=True):
        result[place] = grad
    return tuple(result)


def _apart(tensor: Tensor) -> Tensor:
    """An alias to differentiate by, so that what other inputs owe to `tensor` is not counted."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
