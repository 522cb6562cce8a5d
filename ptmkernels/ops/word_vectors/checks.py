"""Checks that the ops of word vectors share; each error names the argument."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from ptmkernels.ops.refusals import refusals, transforms_active

# What every op of word vectors has, best first. The ops have no large products, so that CUDA's own kernels,
# which are there when the process starts, go before those that Triton compiles at the first call.
BACKENDS = ("cpu", "cuda", "triton", "reference")
KERNEL_DTYPES = (torch.float32, torch.bfloat16)
MAX_WINDOW = 1000
MAX_NEGATIVES = 1 << 16
FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_matrix(name: str, value: object, dtypes: tuple[torch.dtype, ...] = FLOATING) -> None:
    """A two-dimensional dense floating tensor of at least one column."""
    check_type(name, value, Tensor)
    if value.layout != torch.strided:
        raise TypeError(f"{name} has layout {value.layout}; expected torch.strided")
    if value.dim() != 2 or value.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected two dimensions (rows, D)"
        )
    if value.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {value.dtype}; expected one of {dtypes}")


def check_ids(name: str, value: object, shape: tuple[int, ...], size: int, device) -> None:
    """Integers of a shape, each below `size`; the values are read only where that costs no wait."""
    check_type(name, value, Tensor)
    if value.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} has dtype {value.dtype}; expected torch.int64 or torch.int32")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
    check_device(name, value, device)
    if not values_are_read(value.device) or not value.numel():
        return
    low, high = int(value.min()), int(value.max())
    if low < 0 or high >= size:
        raise ValueError(f"{name} holds {low}..{high}; expected 0..{size - 1}")


def values_are_read(device: torch.device) -> bool:
    """Whether checks may look at values: not on a GPU, nor where they stand for others (compile, vmap)."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and not transforms_active()


def check_tensor(name: str, value: object, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A tensor of a dtype and a shape."""
    check_type(name, value, Tensor)
    if value.dtype != dtype or tuple(value.shape) != shape:
        raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}; expected {dtype} {shape}")


def check_type(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a {kind.__name__}")


def check_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}; expected {device}")


def check_number(name: str, value: float, low: float, *, above: bool = False) -> None:
    """A finite number of at least `low`, or above it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; expected a number")
    fits = math.isfinite(value) and (value > low if above else value >= low)
    if not fits:
        raise ValueError(
            f"{name} is {value}; expected a finite number {'>' if above else '>='} {low}"
        )


def check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """A whole number from `low` to `high`, if any."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    if value < low or (high is not None and value > high):
        expected = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} is {value}; expected {expected}")


def check_reduction(reduction: str) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; expected 'none', 'mean' or 'sum'")


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """`loss` (B,) as `reduction` says."""
    return loss if reduction == "none" else getattr(loss, reduction)()


def kernel_refusals(op: str, *matrices: Tensor) -> dict[str, str | None]:
    """For each backend why it cannot take these matrices, by the first of them that it refuses."""
    found = refusals(op, BACKENDS, matrices[0])
    for matrix in matrices[1:]:
        for backend, reason in refusals(op, BACKENDS, matrix).items():
            found[backend] = found[backend] or reason
    return found
