"""Host side of the gradients of a bias that several scores share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_bias
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_terms import rows
from ptmkernels.ops.attention.triton_tile import Rows
from ptmkernels.ops.attention.triton_tiled import TiledLaunch, start
from ptmkernels.ops.triton_runtime import cdiv, launch
from ptmkernels.ops.triton_tune import Tile


@dataclass(slots=True)
class _Scores:
    """What the kernels recompute the gradients of the scores from."""

    call: Call
    grad_output: Rows
    row_terms: Tensor  # (2, B, H, L) float32

    def launch(
        self, target: Tensor, summed_batch: int, summed_heads: int, by_distance: bool, tile: Tile
    ) -> None:
        """Run `_bias_gradient`, which writes `target`."""
        call = self.call
        batch, heads, length, key_len = call.sizes
        down, across = cdiv(length, tile.m), cdiv(key_len, tile.n)
        own_tiles = down + across - 1 if by_distance else down * across
        kept = batch // summed_batch * (heads // summed_heads)
        call.launch(
            triton_bias._bias_gradient,
            own_tiles * kept,
            (
                *(rows(t) for t in (call.query, call.key, call.value)),
                *(self.grad_output, self.row_terms, target, *call.ranges(tile)),
                *(call.terms, call.sizes, self.row_terms.numel() // 2),
                *(summed_batch, summed_heads),
            ),
            tile,
            BY_DISTANCE=by_distance,
        )


@dataclass(slots=True)
class _BiasGradient(TiledLaunch):
    call: Call
    scores: _Scores
    grad: Tensor
    summed_batch: int
    summed_heads: int
    name: str = "bias"

    def run(self, tile: Tile) -> None:
        self.scores.launch(self.grad, self.summed_batch, self.summed_heads, False, tile)


@dataclass(slots=True)
class _TableGradient(TiledLaunch):
    """Sums by distance, then by bucket."""

    call: Call
    scores: _Scores
    grad: Tensor
    name: str = "bias"

    def run(self, tile: Tile) -> None:
        batch, heads, length, key_len = self.call.sizes
        diagonals = cdiv(length, tile.m) + cdiv(key_len, tile.m) - 1
        sums = self.scores.row_terms.new_empty((heads, diagonals, 2, tile.m))
        self.scores.launch(sums, batch, 1, True, tile)
        launch(
            triton_bias._bucket_sums,
            (self.grad.numel(),),
            (sums, self.call.given.bias_bucket, self.grad, heads, length, key_len),
            {"BLOCK": tile.m},
            warps=4,
        )


def bias_gradient(call: Call, grad_output: Rows, row_terms: Tensor) -> Tensor:
    """The gradient of a bias that batch rows or heads share.

    Args:
        row_terms: (2, B, H, L) float32, the log-sum-exp to the base 2 and delta of each query.
    """
    bias = call.given.bias
    grad = torch.empty_like(bias, memory_format=torch.contiguous_format)
    summed = (call.sizes.batch // bias.shape[0], call.sizes.heads // bias.shape[1])
    start(_BiasGradient(call, _Scores(call, grad_output, row_terms), grad, *summed))
    return grad


def table_gradient(call: Call, grad_output: Rows, row_terms: Tensor) -> Tensor:
    """The gradient of a bucketed bias; arguments as in :func:`bias_gradient`."""
    grad = torch.empty_like(call.given.bias_table, memory_format=torch.contiguous_format)
    start(_TableGradient(call, _Scores(call, grad_output, row_terms), grad))
    return grad
