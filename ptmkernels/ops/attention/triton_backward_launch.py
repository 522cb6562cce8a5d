"""Host side of the backward op: which kernels give which gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_backward, triton_row_terms
from ptmkernels.ops.attention.triton_bias_launch import bias_gradient, table_gradient
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_normal import RowFactors
from ptmkernels.ops.attention.triton_relative_launch import RelativeGradients
from ptmkernels.ops.attention.triton_terms import rows, rows_tensor
from ptmkernels.ops.attention.triton_tile import Rows
from ptmkernels.ops.attention.triton_tiled import RowTiles, TiledLaunch, default_tile, start
from ptmkernels.ops.triton_runtime import cdiv, launch
from ptmkernels.ops.triton_tune import Tile


class Backward:
    """One backward call: first the gradients of query, key and value, then those that read its row terms."""

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
        self.grad_lse_terms = self.grad_lse
        if call.terms.bias.data is not None:
            self._normalise()
        self.row_terms = lse.new_empty((2, *lse.shape))

    def _normalise(self) -> None:
        """Scales the gradients of each row, to which all others are proportional, so that its weights,
        recomputed from a log-sum-exp whose digits a large bias took, need not sum to 1."""
        factors = torch.empty_like(self.lse)
        start(RowFactors(self.call, self.lse, factors))
        scaled = (self.grad_output * factors[..., None]).to(self.output.dtype)
        self.grad_output = rows_tensor(scaled)
        if self.grad_lse is not None:
            self.grad_lse_terms = self.grad_lse * factors

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
        sum_keys = key_bias or "content_bias" in names
        if sum_keys and not call.relative:
            key_sums = self.lse.new_empty((batch, heads, key_len))
        found = {}
        fused = not call.relative and self._fused()
        if call.relative:
            inputs = (rows(self.output), rows(self.grad_output), self.lse, self.grad_lse_terms)
            inputs += (self.row_terms, grad_bias)
            relative = RelativeGradients(call, names, inputs, self.grad_output, grads, sum_keys)
            start(relative)
            key_sums = relative.key_sums
            found = relative.options()
        elif fused:
            start(_Fused(call, self, grads, grad_bias, key_sums))
        else:
            self._pair(grads, grad_bias, key_sums)
        if call.negated and not fused:
            grads[0].neg_()
        grad_rows = rows(self.grad_output)
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

    def _fused(self) -> bool:
        """Whether one kernel gives dq, dk and dv: where it has a tile and its order does not matter."""
        if torch.are_deterministic_algorithms_enabled():
            return False
        return default_tile(self.call, "backward") is not None

    def _pair(self, grads: list[Tensor], grad_bias: Tensor | None, key_sums: Tensor | None) -> None:
        """dq first, which leaves the row terms."""
        call = self.call
        inputs = (rows(call.query), rows(call.key), rows(call.value))
        grad_output = rows(self.grad_output)
        query_arguments = (
            *(*inputs, rows(self.output), grad_output, rows(grads[0])),
            *(self.lse, self.grad_lse_terms, self.row_terms, grad_bias),
        )
        key_arguments = (
            *(*inputs, grad_output, rows(grads[1]), rows(grads[2])),
            *(self.row_terms, key_sums, None, None),
        )
        kernel = triton_backward._backward_query
        start(RowTiles(call, "backward_query", kernel, query_arguments))
        kernel = triton_backward._backward_key
        start(RowTiles(call, "backward_key", kernel, key_arguments, of_keys=True))

    def _row_bias_gradient(self, bias: Tensor) -> Tensor:
        """A softmax does not feel what its whole row shares: only the log-sum-exp passes a gradient."""
        if self.grad_lse is None:
            return torch.zeros_like(bias, memory_format=torch.contiguous_format)
        seen = torch.where(self.lse == -torch.inf, 0.0, self.grad_lse)
        return seen[..., None].sum_to_size(bias.shape).to(bias.dtype)


@dataclass(slots=True)
class _Fused(TiledLaunch):
    """dq, dk and dv of a call by one kernel, which adds up dq in memory."""

    call: Call
    backward: Backward
    grads: list[Tensor]
    grad_bias: Tensor | None
    key_sums: Tensor | None
    name: str = "backward"

    def run(self, tile: Tile) -> None:
        call, backward = self.call, self.backward
        grad_query, grad_key, grad_value = self.grads
        grad_output = rows(backward.grad_output)
        self._row_terms(grad_output)
        if grad_query.dtype == torch.float32:
            sums = grad_query.zero_()
        else:
            sums = backward.lse.new_zeros(grad_query.shape)
        arguments = (
            *(rows(t) for t in (call.query, call.key, call.value)),
            *(grad_output, rows(grad_key), rows(grad_value)),
            *(backward.row_terms, self.key_sums, sums, self.grad_bias),
        )
        kernel = triton_backward._backward_key
        RowTiles(call, self.name, kernel, arguments, of_keys=True).run(tile)
        torch.mul(sums, call.given.scale, out=grad_query)

    def _row_terms(self, grad_output: Rows) -> None:
        call, backward = self.call, self.backward
        batch, heads, length, _ = call.sizes
        block = min(64, 4096 // call.block_d)
        launch(
            triton_row_terms._row_terms,
            (cdiv(length, block) * heads * batch,),
            (
                *(rows(backward.output), grad_output, backward.lse, backward.grad_lse_terms),
                *(backward.row_terms, call.sizes),
            ),
            {
                "HEAD_DIM": call.query.shape[3],
                "BLOCK": block,
                "BLOCK_D": call.block_d,
                "NATURAL": call.terms.bias.data is not None,
            },
            warps=4,
        )
