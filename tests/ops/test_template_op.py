"""template_op, the example of CONTRIBUTING.md."""

import pytest
import torch

from ptmkernels.ops import template_op


@pytest.mark.parametrize("shape", [(), (0,), (3, 41)])
def test_against_reference(shape):
    x, y = torch.randn(shape), torch.randn(shape)
    expected = template_op(x, y, 0.5, backend="reference")
    torch.testing.assert_close(template_op(x, y, 0.5, backend="cpu"), expected)


def test_inputs_need_not_be_contiguous():
    x, y = torch.randn(7, 5).T, torch.randn(5, 14)[:, ::2]
    torch.testing.assert_close(template_op(x, y, -2.0, backend="cpu"), y - 2 * x)


def test_the_op_is_registered_as_torch_expects():
    x, y = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    torch.library.opcheck(torch.ops.ptmkernels.template_op, (x, y, 3.0))


def test_gradients():
    x, y = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    weight = torch.randn(3, 5)
    grads = torch.autograd.grad((weight * template_op(x, y, 3.0, backend="cpu")).sum(), (x, y))
    torch.testing.assert_close(grads, (3 * weight, weight))


@pytest.mark.parametrize(
    ("x", "y", "error", "name"),
    [
        (torch.ones(2).double(), torch.ones(2), TypeError, "x has dtype torch.float64"),
        (torch.ones(2), torch.ones(2, dtype=torch.int32), TypeError, "y has dtype torch.int32"),
        (torch.ones(2), torch.ones(3), ValueError, r"y has shape \(3,\)"),
    ],
)
def test_bad_arguments_are_named(x, y, error, name):
    with pytest.raises(error, match=name):
        template_op(x, y, 1.0)
