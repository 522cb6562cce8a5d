"""Masked attention by the CUDA kernels on the emulation."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.attention.autograd import unit_stride
from ptmkernels.ops.attention.options import AttentionOptions
from tests.ops.attention_cases import Inputs, results


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask=None,
    *,
    bias=None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    return_lse: bool = False,
    tf32: bool = False,
):
    """As :func:`ptmkernels.ops.masked_attention`, for tensors on the CPU; float32 exactly or in TF32.

    The ops must be loaded (tests/simt/plugin.py).
    """
    ops = torch.ops.ptmkernels_simt
    forward = ops.attention_forward_tf32 if tf32 else ops.attention_forward
    options = AttentionOptions.of(query, mask, bias, scale, dropout_p, seed)
    output, lse = forward(*map(unit_stride, (query, key, value)), *options)
    return (output, lse) if return_lse else output


def kernel(inputs: Inputs, backend: str = "cpu") -> dict[str, Tensor]:
    """What the emulated kernels make of a case: output, log-sum-exp and every gradient, by name."""
    output, lse = masked_attention(
        *(inputs.query, inputs.key, inputs.value, inputs.mask), **inputs.options, return_lse=True
    )
    return results(inputs, output, lse)
