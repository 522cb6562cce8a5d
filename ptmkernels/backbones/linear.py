"""Linear layers that stay fast in bfloat16 and float16 on a CPU without instructions for them.

There torch's matrix product of narrow numbers runs at a tenth of the speed of float32. Widening the
operands, multiplying in float32 and rounding the result costs little and rounds less often.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "linear"]


def _slow_dtypes() -> frozenset[torch.dtype]:
    """The dtypes whose matrices torch multiplies on this CPU without instructions made for them."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    fast = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(dtype for dtype, is_fast in fast.items() if not is_fast)


SLOW_DTYPES = _slow_dtypes()


class Linear(nn.Linear):
    """torch's linear layer; see the file for what differs."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias``, in the dtype that torch.nn.functional.linear would give.

    Args:
        input: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out).
    """
    if input.device.type != "cpu":
        return F.linear(input, weight, bias)
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
    if dtype not in SLOW_DTYPES or weight.dtype == torch.float64:
        return F.linear(input, weight, bias)
    with torch.autocast("cpu", enabled=False):
        return _WideLinear.apply(input, weight, bias, dtype)


class _WideLinear(torch.autograd.Function):
    """The product in float32; what is kept for the backward pass stays narrow."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        bias = None if bias is None else bias.float()
        return F.linear(input.float(), weight.float(), bias).to(dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        input, weight, bias, _ = inputs
        ctx.save_for_backward(input, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx, grad: Tensor):
        input, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad = grad.float()
        rows = grad.flatten(0, -2)
        grad_input = (grad @ weight.float()).to(input.dtype) if wanted[0] else None
        grad_weight = grad_bias = None
        if wanted[1]:
            grad_weight = (rows.t() @ input.float().flatten(0, -2)).to(weight.dtype)
        if wanted[2]:
            grad_bias = rows.sum(0).to(ctx.bias_dtype)
        return grad_input, grad_weight, grad_bias, None
