"""The checks of the public attention functions; kernels trust what passed here."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ptmkernels._shapes import broadcasts
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.options import DTYPES, BucketedBias, compute_dtype


def check_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask | None,
    bias: Tensor | BucketedBias | None,
    scale: float | None,
    dropout_p: float,
    seed: Tensor | None,
) -> None:
    """Raises ValueError or TypeError, naming the argument, for anything that an op cannot take."""
    check_tensors(query, key, value)
    batch, heads, query_len, _ = query.shape
    sizes = (batch, heads, query_len, key.shape[2])
    if mask is not None:
        check_mask(mask, sizes, query.device)
    if isinstance(bias, BucketedBias):
        check_bucketed_bias(bias, sizes, query.device)
    elif bias is not None:
        check_bias(bias, sizes, query.device)
    if scale is not None:
        check_number("scale", scale)
        if not abs(scale) < math.inf:  # not math.isfinite, which torch.compile cannot trace
            raise ValueError(f"scale is {scale}; expected a finite number")
    check_dropout(dropout_p, seed, query.device)


def check_dense(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a tensor")
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "is a nested tensor" if tensor.is_nested else f"has layout {tensor.layout}"
        raise TypeError(
            f"{name} {kind}; expected a dense tensor (rows of many lengths: one long row under "
            "AttentionMask.documents)"
        )


def check_tensors(query: Tensor, key: Tensor, value: Tensor, query_name: str = "query") -> None:
    named = ((query_name, query), ("key", key), ("value", value))
    for name, tensor in named:
        check_dense(name, tensor)
        if tensor.dim() != 4:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected 4 dimensions (B, H, length, D)"
            )
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected one of {DTYPES}")
        if tensor.dtype != query.dtype:
            raise TypeError(
                f"{name} has dtype {tensor.dtype}; expected that of {query_name}, {query.dtype}"
            )
        if tensor.device != query.device:
            raise ValueError(
                f"{name} is on {tensor.device}; expected the device of {query_name}, {query.device}"
            )
    batch, heads, _, head_dim = query.shape
    if head_dim < 1:
        raise ValueError(f"{query_name} has head dimension {head_dim}; expected at least 1")
    if key.shape[0] != batch or key.shape[3] != head_dim:
        raise ValueError(
            f"key has shape {tuple(key.shape)}; expected ({batch}, heads, S, {head_dim})"
        )
    if value.shape != key.shape:
        raise ValueError(
            f"value has shape {tuple(value.shape)}; expected that of key, {tuple(key.shape)}"
        )
    if key.shape[1] == 0 or heads % key.shape[1]:
        raise ValueError(
            f"key has {key.shape[1]} heads; expected a divisor of the {heads} heads of {query_name}"
        )


def check_mask(
    mask: AttentionMask, sizes: tuple[int, int, int, int], device: torch.device, name: str = "mask"
) -> None:
    batch, heads, query_len, key_len = sizes
    if not isinstance(mask, AttentionMask):
        raise TypeError(
            f"{name} is a {type(mask).__name__}; expected an AttentionMask "
            "(AttentionMask.dense takes a boolean tensor, AttentionMask.keys a padding mask)"
        )
    check_mask_sizes(mask, batch, query_len, key_len, name)
    if mask.allowed is not None and not broadcasts(mask.allowed.shape[1], heads):
        raise ValueError(f"{name}.allowed has {mask.allowed.shape[1]} heads; expected 1 or {heads}")
    if mask.device != device:
        raise ValueError(f"{name} is on {mask.device}; expected the device of query, {device}")


def check_mask_sizes(
    mask: AttentionMask, batch: int, query_len: int, key_len: int, name: str
) -> None:
    if (mask.query_len, mask.key_len) != (query_len, key_len):
        raise ValueError(
            f"{name} has {mask.query_len} queries and {mask.key_len} keys; expected {query_len} and {key_len}"
        )
    if not broadcasts(mask.batch_size, batch):
        raise ValueError(f"{name} has batch size {mask.batch_size}; expected 1 or {batch}")


def check_bias(bias: Tensor, sizes: tuple[int, ...], device: torch.device) -> None:
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias is a {type(bias).__name__}; expected a tensor or a BucketedBias")
    if bias.dtype not in DTYPES:
        raise TypeError(
            f"bias has dtype {bias.dtype}; expected a floating one (masks go to `mask`)"
        )
    fits = bias.dim() <= 4 and all(
        broadcasts(*pair) for pair in zip(reversed(bias.shape), reversed(sizes), strict=False)
    )
    if not fits:
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}; expected one that broadcasts to {sizes}"
        )
    if bias.device != device:
        raise ValueError(f"bias is on {bias.device}; expected the device of query, {device}")


def check_bucketed_bias(bias: BucketedBias, sizes: tuple[int, ...], device: torch.device) -> None:
    """The sizes; what the values must be, `BucketedBias` itself has seen to."""
    _, heads, query_len, key_len = sizes
    if bias.table.shape[1] != heads:
        raise ValueError(f"bias.table has shape {tuple(bias.table.shape)}; expected (N, {heads})")
    expected = max(query_len + key_len - 1, 0)
    if bias.buckets.shape[0] != expected:
        raise ValueError(
            f"bias.buckets has shape {tuple(bias.buckets.shape)}; expected (L + S - 1,) = ({expected},)"
        )
    for name, tensor in (("table", bias.table), ("buckets", bias.buckets)):
        if tensor.device != device:
            raise ValueError(
                f"bias.{name} is on {tensor.device}; expected the device of query, {device}"
            )


def check_dropout(dropout_p: float, seed: Tensor | None, device: torch.device) -> None:
    check_number("dropout_p", dropout_p)
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"dropout_p is {dropout_p}; expected 0 <= dropout_p <= 1")
    if seed is None:
        return
    if not isinstance(seed, Tensor) or seed.dtype != torch.int64:
        came = seed.dtype if isinstance(seed, Tensor) else type(seed).__name__
        raise TypeError(f"seed is {came}; expected an int64 tensor (1,)")
    if seed.dim() != 1 or seed.shape[0] != 1:
        raise ValueError(f"seed has shape {tuple(seed.shape)}; expected (1,)")
    if seed.device != device:
        raise ValueError(f"seed is on {seed.device}; expected the device of query, {device}")


def check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | torch.SymFloat):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number")


def check_weights(query: Tensor, lse: Tensor | None, dropout_p: float, seed: Tensor | None) -> None:
    """The arguments that `attention_weights` has besides, after :func:`check_attention`."""
    if dropout_p > 0.0 and seed is None:
        raise ValueError("seed is None; with dropout the weights need the seed of the forward call")
    if lse is None:
        return
    expected, dtype = query.shape[:3], compute_dtype(query)
    if not isinstance(lse, Tensor) or lse.dtype != dtype:
        came = lse.dtype if isinstance(lse, Tensor) else type(lse).__name__
        raise TypeError(f"lse is {came}; expected a tensor of {dtype}")
    if lse.shape != expected:
        raise ValueError(
            f"lse has shape {tuple(lse.shape)}; expected (B, H, L) = {tuple(expected)}"
        )
    if lse.device != query.device:
        raise ValueError(f"lse is on {lse.device}; expected the device of query, {query.device}")
