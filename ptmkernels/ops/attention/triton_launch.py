"""Host side of the Triton backend: from torch tensors to kernel launches."""

from __future__ import annotations

from functools import partial

import torch
import triton
from torch import Tensor

from ptmkernels.ops.attention import (
    triton_backward,
    triton_bias,
    triton_decode,
    triton_kernels,
    triton_normal,
)
from ptmkernels.ops.attention.autograd import wanted_places
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_relative_launch import SharedGradients
from ptmkernels.ops.attention.triton_terms import rows, rows_tensor
from ptmkernels.ops.attention.triton_tile import Rows
from ptmkernels.ops.triton_runtime import launch, multiprocessors, on_device
from ptmkernels.ops.triton_tune import Tile


def attention_forward(query: Tensor, key: Tensor, value: Tensor, *options) -> tuple[Tensor, Tensor]:
    """The op `triton_attention_forward` (schema in `triton_ops`)."""
    call = Call.of(query, key, value, AttentionOptions(*options))
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    if call.empty:
        return output.zero_(), lse.fill_(-torch.inf)
    with on_device(query):
        if call.few_queries:
            call.run("decode", partial(_decode, call, output, lse))
        else:
            call.run("forward", partial(_forward, call, output, lse))
    return output, lse


def attention_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    *rest,
) -> tuple[Tensor, ...]:
    """The op `triton_attention_backward` (schema in `triton_ops`)."""
    *options, wanted = rest
    options = AttentionOptions(*options)
    names = [DIFFERENTIABLE[n] for n in wanted_places(wanted)]
    call = Call.of(query, key, value, options)
    contiguous = {"memory_format": torch.contiguous_format}
    grads = [torch.empty_like(t, **contiguous) for t in (query, key, value)]
    of_options = {name: query.new_empty(0) for name in DIFFERENTIABLE}
    if call.empty:
        for grad in grads:
            grad.zero_()
        of_options |= {n: torch.zeros_like(getattr(options, n), **contiguous) for n in names}
        return *grads, *of_options.values()
    with on_device(query):
        backward = _Backward(call, rows_tensor(grad_output), output, lse, grad_lse, names)
        of_options |= backward.run(grads)
    return *grads, *of_options.values()


def _forward(call: Call, output: Tensor, lse: Tensor, tile: Tile) -> None:
    ranges, ranges_batch = call.ranges(tile)
    batch, heads, length, _ = call.query.shape
    call.launch(
        triton_kernels._forward,
        triton.cdiv(length, tile.m) * heads * batch,
        (
            *(rows(t) for t in (call.query, call.key, call.value, output)),
            *(lse, ranges, ranges_batch, call.terms, call.sizes),
        ),
        tile,
        **call.tile_classes(call.sizes.key_len, tile.n),
    )


def _decode(call: Call, output: Tensor, lse: Tensor, tile: Tile) -> None:
    batch, heads, length, head_dim = call.query.shape
    spans, span_len = _spans(call, tile.n)
    parts, part_lse, totals = output, lse, None
    if spans > 1:
        parts = output.new_empty((batch, heads, length, spans, head_dim), dtype=torch.float32)
        part_lse, totals = (lse.new_empty((batch, heads, length, spans)) for _ in range(2))
    launch(
        triton_decode._decode,
        (spans * call.key.shape[1] * batch,),
        (
            *(rows(t) for t in (call.query, call.key, call.value)),
            *(rows(parts), Rows(part_lse, *part_lse.stride()[:3])),
            *(totals, head_dim, 1),
            *(call.terms, call.sizes, spans, span_len),
        ),
        {
            "BLOCK_ROWS": max(16, triton.next_power_of_2(length * call.group)),
            "BLOCK_N": tile.n,
            "CHUNK": max(1024, tile.n),
            **call.constants(),
        },
        warps=tile.warps,
        stages=tile.stages,
    )
    if spans > 1:
        launch(
            triton_decode._combine,
            (batch * heads * length,),
            (parts, part_lse, totals, output, lse, spans),
            {
                "HEAD_DIM": head_dim,
                "BLOCK_SPANS": triton.next_power_of_2(spans),
                "BLOCK_D": call.block_d,
            },
            warps=4,
        )


def _spans(call: Call, block_n: int) -> tuple[int, int]:
    """(number of spans, keys in each): programs for every multiprocessor twice over."""
    key_len = call.sizes.key_len
    tiles = triton.cdiv(key_len, block_n)
    others = call.key.shape[0] * call.key.shape[1]
    wanted = triton.cdiv(2 * multiprocessors(call.query.device), others)
    tiles_each = triton.cdiv(tiles, max(1, min(wanted, 128)))
    return triton.cdiv(tiles, tiles_each), tiles_each * block_n


class _Backward:
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
        self.output = rows_tensor(output)
        self.lse = lse.contiguous()
        self.grad_lse = None if grad_lse is None else grad_lse.contiguous()
        self.grad_output, self.grad_lse_terms = grad_output, self.grad_lse
        if call.terms.bias.data is not None:
            self._normalise()
        self.row_terms = lse.new_empty((2, *lse.shape))
        self.shared = SharedGradients(call, names)

    def _normalise(self) -> None:
        """Scales the gradients of each row, to which all others are proportional, so that its weights,
        recomputed from a log-sum-exp whose digits a large bias took, need not sum to 1."""
        factors = torch.empty_like(self.lse)
        self.call.run("backward_query", partial(self._factors, factors))
        self.grad_output = rows_tensor(
            (self.grad_output * factors[..., None]).to(self.output.dtype)
        )
        if self.grad_lse is not None:
            self.grad_lse_terms = self.grad_lse * factors

    def _factors(self, factors: Tensor, tile: Tile) -> None:
        call = self.call
        ranges, ranges_batch = call.ranges(tile)
        batch, heads, length, _ = call.query.shape
        call.launch(
            triton_normal._row_factors,
            triton.cdiv(length, tile.m) * heads * batch,
            (
                *(rows(call.query), rows(call.key), self.lse, factors),
                *(ranges, ranges_batch, call.terms, call.sizes),
            ),
            tile,
        )

    def run(self, grads: list[Tensor]) -> dict[str, Tensor]:
        """Fills the gradients of query, key and value; those of the wanted options by name."""
        bias = self.call.given.bias if "bias" in self.names else None
        batch, heads, length, key_len = self.call.sizes
        grad_bias = key_sums = None
        if bias is not None and tuple(bias.shape) == (batch, heads, length, key_len):
            grad_bias = torch.zeros_like(bias, memory_format=torch.contiguous_format)
        of_keys = bias is not None and tuple(bias.shape[2:]) == (1, key_len)
        if (of_keys and grad_bias is None) or "content_bias" in self.names:
            key_sums = self.lse.new_empty((batch, heads, key_len))
        self.call.run("backward_query", partial(self._query, grads[0], grad_bias))
        self.call.run("backward_key", partial(self._key, *grads[1:], key_sums))
        if self.call.negated:
            grads[0].neg_()
        found = self.shared.gradients(self.grad_output, self.row_terms, key_sums)
        if grad_bias is not None:
            found["bias"] = grad_bias
        elif bias is not None:
            found["bias"] = self._shared_bias_gradient(bias, key_sums if of_keys else None)
        if "bias_table" in self.names:
            found["bias_table"] = self.table_gradient()
        return found

    def _inputs(self) -> tuple[Rows, ...]:
        call = self.call
        return tuple(rows(t) for t in (call.query, call.key, call.value))

    def _query(self, grad_query: Tensor, grad_bias: Tensor | None, tile: Tile) -> None:
        call = self.call
        ranges, ranges_batch = call.ranges(tile)
        batch, heads, length, _ = call.query.shape
        call.launch(
            triton_backward._backward_query,
            triton.cdiv(length, tile.m) * heads * batch,
            (
                *self._inputs(),
                *(rows(t) for t in (self.output, self.grad_output, grad_query)),
                *(self.lse, self.grad_lse_terms, self.row_terms, grad_bias, self.shared.row_sums),
                *(ranges, ranges_batch, call.terms, call.sizes, self.lse.numel()),
            ),
            tile,
            **call.tile_classes(call.sizes.key_len, tile.n),
        )

    def _key(
        self, grad_key: Tensor, grad_value: Tensor, key_sums: Tensor | None, tile: Tile
    ) -> None:
        call = self.call
        ranges, ranges_batch = call.ranges(tile, of_keys=True)
        batch, key_heads, key_len, _ = call.key.shape
        call.launch(
            triton_backward._backward_key,
            triton.cdiv(key_len, tile.n) * key_heads * batch,
            (
                *self._inputs(),
                *(rows(t) for t in (self.grad_output, grad_key, grad_value)),
                *(self.row_terms, key_sums, ranges, ranges_batch),
                *(call.terms, call.sizes, self.lse.numel()),
            ),
            tile,
            **call.tile_classes(call.sizes.query_len, tile.m),
        )

    def _shared_bias_gradient(self, bias: Tensor, key_sums: Tensor | None) -> Tensor:
        """The gradient of a bias that several scores share."""
        if key_sums is not None:
            return key_sums[:, :, None].sum_to_size(bias.shape).to(bias.dtype)
        if bias.shape[3] == 1:
            return self._row_bias_gradient(bias)
        grad = torch.empty_like(bias, memory_format=torch.contiguous_format)
        batch, heads, _, _ = self.call.query.shape
        shared = (batch // bias.shape[0], heads // bias.shape[1])
        self.call.run("bias", partial(self._bias_kernel, grad, *shared, False))
        return grad

    def _row_bias_gradient(self, bias: Tensor) -> Tensor:
        """A softmax does not feel what its whole row shares: only the log-sum-exp passes a gradient."""
        if self.grad_lse is None:
            return torch.zeros_like(bias, memory_format=torch.contiguous_format)
        seen = torch.where(self.lse == -torch.inf, 0.0, self.grad_lse)
        return seen[..., None].sum_to_size(bias.shape).to(bias.dtype)

    def table_gradient(self) -> Tensor:
        """The gradient of a bucketed bias: sums by distance, then by bucket."""
        table = self.call.given.bias_table
        grad = torch.empty_like(table, memory_format=torch.contiguous_format)
        self.call.run("bias", partial(self._table_kernels, grad))
        return grad

    def _table_kernels(self, grad: Tensor, tile: Tile) -> None:
        call = self.call
        _, heads, length, key_len = call.sizes
        diagonals = triton.cdiv(length, tile.m) + triton.cdiv(key_len, tile.m) - 1
        sums = self.lse.new_empty((heads, diagonals, 2, tile.m))
        self._bias_kernel(sums, call.query.shape[0], 1, True, tile)
        launch(
            triton_bias._bucket_sums,
            (grad.numel(),),
            (sums, call.given.bias_bucket, grad, heads, length, key_len),
            {"BLOCK": tile.m},
            warps=4,
        )

    def _bias_kernel(
        self, target: Tensor, summed_batch: int, summed_heads: int, by_distance: bool, tile: Tile
    ) -> None:
        call = self.call
        ranges, ranges_batch = call.ranges(tile)
        _, heads, length, key_len = call.sizes
        down, across = triton.cdiv(length, tile.m), triton.cdiv(key_len, tile.n)
        own_tiles = down + across - 1 if by_distance else down * across
        kept = call.query.shape[0] // summed_batch * (heads // summed_heads)
        call.launch(
            triton_bias._bias_gradient,
            own_tiles * kept,
            (
                *self._inputs(),
                *(rows(self.grad_output), self.row_terms, target, ranges, ranges_batch),
                *(call.terms, call.sizes, self.lse.numel(), summed_batch, summed_heads),
            ),
            tile,
            BY_DISTANCE=by_distance,
        )
