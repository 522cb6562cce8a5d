"""Attention by the CUDA kernels on the emulation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from ptmkernels.ops.attention.autograd import unit_stride
from ptmkernels.ops.attention.call import FORWARD
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
    options = AttentionOptions.of(query, mask, bias, scale, dropout_p, seed)
    output, lse = _forward(query, key, value, options, tf32)
    return (output, lse) if return_lse else output


def _forward(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions, tf32: bool):
    ops = torch.ops.ptmkernels_simt
    forward = ops.attention_forward_tf32 if tf32 else ops.attention_forward
    return forward(*map(unit_stride, (query, key, value)), *options)


@contextmanager
def in_place_of_cpu(tf32: bool = False) -> Iterator[None]:
    """Within it the backend "cpu" of every attention op is the emulated CUDA one."""
    with patch.dict(FORWARD, cpu=partial(_forward, tf32=tf32)):
        yield


def kernel(inputs: Inputs, backend: str = "cpu") -> dict[str, Tensor]:
    """What the emulated kernels make of a case: output, log-sum-exp and every gradient, by name."""
    output, lse = masked_attention(
        *(inputs.query, inputs.key, inputs.value, inputs.mask), **inputs.options, return_lse=True
    )
    return results(inputs, output, lse)
