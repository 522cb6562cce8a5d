"""Host side of the backward op: which kernels give which gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_backward
from ptmkernels.ops.attention.triton_bias_launch import bias_gradient, table_gradient
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_relative_launch import SharedGradients
from ptmkernels.ops.attention.triton_terms import rows, rows_tensor
from ptmkernels.ops.attention.triton_tiled import RowTiles, start


class Backward:
    """One backward call: dq first, which leaves the row terms that the other kernels read."""

    def __init__(
        self,
        call: Call,
        grad_output: Tensor,
        output: Tensor,
        lse: Tensor,
        grad_lse: Tensor | None,
        names: list[str],
    ) -> None:
        self.call = call
        self.names = names  # of the options whose gradient is wanted
        self.grad_output = rows_tensor(grad_output)
        self.output = rows_tensor(output)
        self.lse = lse.contiguous()
        self.grad_lse = None if grad_lse is None else grad_lse.contiguous()
        self.row_terms = lse.new_empty((2, *lse.shape))

    def run(self, grads: list[Tensor]) -> dict[str, Tensor]:
        """Fills the gradients of query, key and value; those of the wanted options by name."""
        call, names = self.call, self.names
        bias = call.given.bias if "bias" in names else None
        batch, heads, length, key_len = call.sizes
        own_bias = bias is not None and bias.shape == (batch, heads, length, key_len)
        key_bias = bias is not None and not own_bias and bias.shape[2:] == (1, key_len)
        grad_bias = key_sums = None
        if own_bias:
            grad_bias = torch.zeros_like(bias, memory_format=torch.contiguous_format)
        if key_bias or "content_bias" in names:
            key_sums = self.lse.new_empty((batch, heads, key_len))
        shared = SharedGradients(call, names)
        grad_rows = rows(self.grad_output)
        inputs = (rows(call.query), rows(call.key), rows(call.value))
        query_arguments = (
            *(*inputs, rows(self.output), grad_rows, rows(grads[0])),
            *(self.lse, self.grad_lse, self.row_terms, grad_bias, shared.row_sums),
        )
        key_arguments = (
            *(*inputs, grad_rows, rows(grads[1]), rows(grads[2])),
            *(self.row_terms, key_sums),
        )
        kernel = triton_backward._backward_query
        start(RowTiles(call, "backward_query", kernel, query_arguments))
        kernel = triton_backward._backward_key
        start(RowTiles(call, "backward_key", kernel, key_arguments, of_keys=True))
        if call.negated:
            grads[0].neg_()
        found = shared.gradients(self.grad_output, self.row_terms, key_sums)
        if own_bias:
            found["bias"] = grad_bias
        elif key_bias:
            found["bias"] = key_sums[:, :, None].sum_to_size(bias.shape).to(bias.dtype)
        elif bias is not None and bias.shape[3] == 1:
            found["bias"] = self._row_bias_gradient(bias)
        elif bias is not None:
            found["bias"] = bias_gradient(call, grad_rows, self.row_terms)
        if "bias_table" in names:
            found["bias_table"] = table_gradient(call, grad_rows, self.row_terms)
        return found

    def _row_bias_gradient(self, bias: Tensor) -> Tensor:
        """A softmax does not feel what its whole row shares: only the log-sum-exp passes a gradient."""
        if self.grad_lse is None:
            return torch.zeros_like(bias, memory_format=torch.contiguous_format)
        seen = torch.where(self.lse == -torch.inf, 0.0, self.grad_lse)
        return seen[..., None].sum_to_size(bias.shape).to(bias.dtype)
