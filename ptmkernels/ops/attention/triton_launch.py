"""The two ops of the Triton backend: from torch tensors to kernel launches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_decode, triton_kernels
from ptmkernels.ops.attention.autograd import wanted_places
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions
from ptmkernels.ops.attention.triton_backward_launch import Backward
from ptmkernels.ops.attention.triton_call import Call, prepare
from ptmkernels.ops.attention.triton_terms import rows, rows_tensor
from ptmkernels.ops.attention.triton_tile import Rows
from ptmkernels.ops.attention.triton_tiled import RowTiles, TiledLaunch, start
from ptmkernels.ops.triton_runtime import cdiv, launch, multiprocessors, next_power_of_2, on_device
from ptmkernels.ops.triton_tune import Tile


def attention_forward(query: Tensor, key: Tensor, value: Tensor, *options) -> tuple[Tensor, Tensor]:
    """The op `triton_attention_forward` (schema in `triton_ops`)."""
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    if _nothing_to_do(query, key):
        return output.zero_(), lse.fill_(-torch.inf)
    with on_device(query):
        call = prepare(query, key, value, AttentionOptions(*options))
        start(_Decode(call, output, lse) if call.few_queries else _forward(call, output, lse))
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
    contiguous = {"memory_format": torch.contiguous_format}
    grads = [torch.empty_like(t, **contiguous) for t in (query, key, value)]
    if _nothing_to_do(query, key):
        for grad in grads:
            grad.zero_()
        found = {n: torch.zeros_like(getattr(options, n), **contiguous) for n in names}
    else:
        with on_device(query):
            call = prepare(query, key, value, options)
            backward = Backward(call, rows_tensor(grad_output), output, lse, grad_lse, names)
            found = backward.run(grads)
    by_name = (found[n] if n in found else query.new_empty(0) for n in DIFFERENTIABLE)
    return *grads, *by_name


def _nothing_to_do(query: Tensor, key: Tensor) -> bool:
    return query.numel() == 0 or key.numel() == 0


def _forward(call: Call, output: Tensor, lse: Tensor) -> TiledLaunch:
    arguments = (rows(call.query), rows(call.key), rows(call.value), rows(output), lse)
    return RowTiles(call, "forward", triton_kernels._forward, arguments)


@dataclass(slots=True)
class _Decode(TiledLaunch):
    """Attention of few queries: the keys in spans, then the spans joined."""

    call: Call
    output: Tensor
    lse: Tensor
    name: str = "decode"

    def run(self, tile: Tile) -> None:
        call, output, lse = self.call, self.output, self.lse
        batch, heads, length, head_dim = call.query.shape
        spans, span_len = self._spans(tile.n)
        parts, part_lse, totals = output, lse, None
        if spans > 1:
            parts = output.new_empty((batch, heads, length, spans, head_dim), dtype=torch.float32)
            part_lse, totals = (lse.new_empty((batch, heads, length, spans)) for _ in range(2))
        launch(
            triton_decode._decode,
            (spans * call.key.shape[1] * batch,),
            (
                *(rows(t) for t in (call.query, call.key, call.value)),
                *(Rows(parts, *parts.stride()[:3]), Rows(part_lse, *part_lse.stride()[:3])),
                *(totals, head_dim, 1),
                *(call.terms, call.sizes, spans, span_len),
            ),
            {
                "BLOCK_ROWS": max(16, next_power_of_2(length * call.group)),
                "BLOCK_N": tile.n,
                "CHUNK": max(1024, tile.n),
                **call.constants,
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
                    "BLOCK_SPANS": next_power_of_2(spans),
                    "BLOCK_D": call.block_d,
                },
                warps=4,
            )

    def _spans(self, block_n: int) -> tuple[int, int]:
        """(number of spans, keys in each): programs for every multiprocessor twice over."""
        call = self.call
        tiles = cdiv(call.sizes.key_len, block_n)
        others = call.key.shape[0] * call.key.shape[1]
        wanted = cdiv(2 * multiprocessors(call.query.device), others)
        tiles_each = cdiv(tiles, max(1, min(wanted, 128)))
        return cdiv(tiles, tiles_each), tiles_each * block_n
