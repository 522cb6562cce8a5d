"""What the machine could do at best: the measured rates behind the floors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch

_MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}
_REPEATS = 7


@dataclass(frozen=True)
class Work:
    """What an op must do whatever the implementation."""

    operations: float  # floating-point operations
    bytes: float  # bytes read and written


def host_seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cuda_seconds(call: Callable[[], object]) -> float:
    """Seconds of one call on the current CUDA stream, by events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call on `device`."""
    return cuda_seconds(call) if device.type == "cuda" else host_seconds(call)


def floor_seconds(work: Work, device: torch.device, dtype: torch.dtype) -> float:
    """The larger of operations over the matrix product's rate and bytes over the copy rate.

    A machine without matrix instructions for `dtype` can compute in float32, so the better rate counts.
    """
    threads = torch.get_num_threads()
    rate = max(matmul_rate(device, d, threads) for d in {dtype, torch.float32})
    return max(work.operations / rate, work.bytes / copy_rate(device, threads))


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Floating-point operations a second of `torch.matmul` on large squares."""
    size = _MATMUL_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _median_seconds(lambda: a @ b, device)


@cache
def copy_rate(device: torch.device, threads: int) -> float:
    """Bytes a second, read plus written, of a copy too large for the caches."""
    source = torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _median_seconds(lambda: target.copy_(source), device)


def _median_seconds(call: Callable[[], object], device: torch.device) -> float:
    call()
    return median(seconds(call, device) for _ in range(_REPEATS))
