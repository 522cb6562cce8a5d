"""On the CPU results lie as what they belong to, so that transposed heads are never copied."""

import pytest
import torch

from ptmkernels.ops import masked_attention, relative_attention
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions

B, L, H, D = 2, 21, 3, 8


def by_head(*shape: int, seed: int) -> torch.Tensor:
    """(B, H, length, D), stored as (B, length, H, D)."""
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).transpose(1, 2)
    return made.detach().requires_grad_()


def packed() -> list[torch.Tensor]:
    """Query, key and value as one projection gives them: neither dense nor contiguous."""
    qkv = torch.randn(B, L, 3, H, D, generator=torch.Generator().manual_seed(5))
    return [part.transpose(1, 2).detach().requires_grad_() for part in qkv.unbind(2)]


def inputs() -> list[torch.Tensor]:
    return [by_head(B, L, H, D, seed=n) for n in range(3)] + [by_head(1, 2 * L, H, D, seed=3)]


def contiguous(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t.detach().contiguous().requires_grad_() for t in tensors]


@pytest.mark.parametrize("make", [inputs, packed])
def test_results_lie_as_the_arguments(make):
    tensors = make()
    attend = relative_attention if len(tensors) == 4 else masked_attention
    output = attend(*tensors, backend="cpu")
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    grads = torch.autograd.grad((output * weights).sum(), tensors)
    for result in (output, *grads):
        assert result.transpose(1, 2).is_contiguous()
    plain = contiguous(tensors)
    expected = attend(*plain, backend="cpu")
    assert expected.is_contiguous()
    assert torch.equal(output, expected)
    for one, two in zip(grads, torch.autograd.grad((expected * weights).sum(), plain), strict=True):
        assert two.is_contiguous()
        assert torch.equal(one, two)


@pytest.mark.parametrize("make", [inputs, packed])
def test_fake_results_lie_alike(make):
    tensors = [t.detach() for t in make()]
    relative = {"relative_key": tensors[3], "relative_offset": L} if len(tensors) == 4 else {}
    options = AttentionOptions.of(tensors[0], None, None, None, 0.0, None, **relative)
    forward = torch.ops.ptmkernels.attention_forward.default
    torch.library.opcheck(forward, (*tensors[:3], *options))
    output, lse = forward(*tensors[:3], *options)
    wanted = 1 << DIFFERENTIABLE.index("relative_key") if relative else 0
    arguments = (torch.randn_like(output), None, *tensors[:3], output, lse, *options, wanted)
    torch.library.opcheck(torch.ops.ptmkernels.attention_backward.default, arguments)


def test_compiled_with_transposed_heads():
    """Inductor asserts the strides that the fake kernels promised."""

    def step(*tensors):
        output = relative_attention(*(2 * t for t in tensors), backend="cpu")
        return output.transpose(1, 2).reshape(B, L, H * D).sin()

    tensors = inputs()
    compiled = torch.compile(step, fullgraph=True)
    actual, expected = (
        torch.autograd.grad(function(*tensors).sum(), tensors) for function in (compiled, step)
    )
    for one, two in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_no_queries_give_zeros():
    query = torch.randn(B, H, 0, D, requires_grad=True)
    key = torch.randn(B, H, 4, D)
    rows = by_head(1, 5, H, D, seed=0)
    output = relative_attention(query, key, key, rows, relative_offset=2, backend="cpu")
    (gradient,) = torch.autograd.grad(output.sum(), rows)
    assert torch.equal(gradient, torch.zeros_like(rows))
