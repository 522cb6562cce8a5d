"""Linear layers in narrow dtypes, as on a CPU that has no instructions for them."""

import pytest
import torch

from ptmkernels.backbones import linear as module
from ptmkernels.backbones.linear import Linear, linear

NARROW = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def every_narrow_dtype_is_slow(monkeypatch):
    monkeypatch.setattr(module, "SLOW_DTYPES", frozenset(NARROW))


def make(dtype, rows=(3, 5)):
    torch.manual_seed(0)
    shapes = ((*rows, 23), (17, 23), (17,))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def once_rounded(exact, dtype):
    """What numbers as large as the largest may be off by when they are rounded once."""
    eps = torch.finfo(dtype).eps
    return {"rtol": eps, "atol": eps * exact.detach().abs().max().item()}


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("rows", [(3, 5), (7,), (0, 4)])
def test_results_and_gradients_are_rounded_once(dtype, rows):
    narrow = make(dtype, rows)
    exact = [t.detach().double().requires_grad_() for t in narrow]
    actual, expected = linear(*narrow), torch.nn.functional.linear(*exact)
    assert actual.dtype == dtype
    grad = torch.randn_like(actual)
    grads = torch.autograd.grad(actual, narrow, grad)
    wide_grads = torch.autograd.grad(expected, exact, grad.double())
    for a, e in zip((actual, *grads), (expected, *wide_grads), strict=True):
        assert a.dtype == dtype
        if e.numel():
            torch.testing.assert_close(a.double(), e, **once_rounded(e, dtype))


def test_without_bias_and_with_frozen_weights():
    input, weight, _ = make(torch.bfloat16)
    weight.requires_grad_(False)
    linear(input, weight).sum().backward()
    assert input.grad is not None
    assert weight.grad is None


def test_autocast_gives_its_dtype_and_float32_gradients():
    layer, input = Linear(23, 17), torch.randn(4, 23, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(input)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), layer(input), rtol=1e-2, atol=1e-2)
    output.sum().backward()
    assert input.grad.dtype == layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_dtypes_are_left_to_torch(dtype):
    tensors = make(dtype)
    assert torch.equal(linear(*tensors), torch.nn.functional.linear(*tensors))


def test_compiles():
    tensors = make(torch.bfloat16)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*tensors), linear(*tensors))
    grads = [torch.autograd.grad(f(*tensors).float().sum(), tensors) for f in (compiled, linear)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
