"""The negative-sampling loss in Triton (Mikolov et al. 2013, equation 4): a program for each batch row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptmkernels.ops.triton_runtime import launch, on_device
from ptmkernels.ops.word_vectors.triton_rows import (
    Matrix,
    Noise,
    low_word,
    matrix,
    products,
    resolve,
    sigmoid,
    softplus,
    tile,
)
from ptmkernels.ops.word_vectors.triton_sums import sum_by_id, sum_by_row


@triton.jit
def _negatives(noise, b, n, inside, count):
    """Negatives `n` of row `b`: given, or words 2 (n mod 2) and the next of counter (b, n // 2, 0)."""
    if noise.given is not None:
        id = tl.load(noise.given + b * count + n, mask=inside, other=0)
    else:
        call = (n >> 1).to(tl.uint32)
        low, high = low_word(b) + call * 0, low_word(b >> 32) + call * 0
        words = tl.philox(tl.load(noise.seed), low, high, call, call * 0)
        odd = (n & 1) == 1
        cell, threshold = tl.where(odd, words[2], words[0]), tl.where(odd, words[3], words[1])
        id = resolve(noise, cell, threshold)
    return id


@triton.jit
def _loss(
    loss,  # (B,) float32
    coefficient,  # (B, 1 + N) float32: d loss / d logit
    ids,  # (B, 1 + N) int64
    hidden: Matrix,  # (B, D)
    weight: Matrix,  # (V, D)
    target,  # (B,) int64
    noise: Noise,
    bias,  # (V,) float32 or None
    log_noise,  # (V,) float32 or None
    outputs,  # 1 + N
    SKIP_TARGET: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """-log sigmoid(x_0) - sum_n log sigmoid(-x_n), x = h.w + bias - log_noise; output 0 is the target."""
    b = tl.program_id(0).to(tl.int64)
    word = tl.load(target + b)
    total = 0.0
    for first in range(0, outputs, BLOCK_O):
        o = first + tl.arange(0, BLOCK_O)
        positive, inside = o == 0, o < outputs
        drawn = _negatives(noise, b, tl.maximum(o - 1, 0), inside & (o > 0), outputs - 1)
        id = tl.where(positive, word, drawn)
        used = inside
        if SKIP_TARGET:
            used = inside & (positive | (id != word))
        logit = products(hidden, b, weight, id, used, BLOCK_O, BLOCK_D)
        if bias is not None:
            logit += tl.load(bias + id, mask=used, other=0.0)
        if log_noise is not None:
            logit -= tl.load(log_noise + id, mask=used, other=0.0)
        sign = tl.where(positive, -1.0, 1.0)
        total += tl.sum(tl.where(used, softplus(sign * logit), 0.0), 0)
        place = b * outputs + o
        wrong = tl.where(used, sign * sigmoid(sign * logit), 0.0)
        tl.store(coefficient + place, wrong, mask=inside)
        tl.store(ids + place, id, mask=inside)
    tl.store(loss + b, total)


def negative_sampling_forward(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    negatives: Tensor | None,
    alias: Tensor | None,
    seed: Tensor | None,
    num_negatives: int,
    bias: Tensor | None,
    log_noise: Tensor | None,
    skip_target: bool,
    sparse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op `triton_negative_sampling_forward`; `sparse` is the autograd formula's."""
    batch, outputs, device = hidden.shape[0], num_negatives + 1, hidden.device
    loss = torch.empty(batch, dtype=torch.float32, device=device)
    coefficient = torch.empty(batch, outputs, dtype=torch.float32, device=device)
    ids = torch.empty(batch, outputs, dtype=torch.int64, device=device)
    if batch:
        blocks, warps = tile(outputs, hidden.shape[1])
        noise = Noise(negatives, alias, seed, weight.shape[0])
        arguments = (loss, coefficient, ids, matrix(hidden), matrix(weight), target, noise)
        constants = {"SKIP_TARGET": skip_target, **blocks}
        with on_device(hidden):
            launch(_loss, (batch,), (*arguments, bias, log_noise, outputs), constants, warps)
    return loss, coefficient, ids


def negative_sampling_backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, coefficient: Tensor, ids: Tensor, dense: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The op `triton_negative_sampling_backward`; its sums have one order (`triton_sums`)."""
    grad_hidden = sum_by_row(grad, coefficient, ids, weight)
    if not dense:
        return grad_hidden, grad.new_empty(0, 0), grad.new_empty(0)
    sums = sum_by_id(grad, coefficient, ids, hidden, weight.shape[0], with_bias=True)
    return grad_hidden, *sums
