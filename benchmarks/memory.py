"""Peak memory that a call takes beyond what was there before it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Bytes that torch's allocator holds at most during the call, results included, beyond the start."""
    return _cuda_peak(call, device) if device.type == "cuda" else _host_peak(call)


def _cuda_peak(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _host_peak(call: Callable[[], object]) -> int:
    """From the profiler's record of every allocation and release: exact, but blind to plain malloc."""
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # it would write of its start and stop to stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = call()
    del kept
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    level = peak = 0
    for _, change in changes:
        level += change
        peak = max(peak, level)
    return peak


def peak_resident_bytes(call: Callable[[], object]) -> int | None:
    """Growth of the resident set at its height during the call, which sees plain malloc too.

    None where it cannot be told: it takes Linux and glibc. A bound from above, as malloc may spread its
    blocks over more pages than they fill; memory that an earlier call left behind in the process, such
    as a thread's scratch, does not count.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        return None
    ctypes.CDLL(None).malloc_trim(0)
    try:
        reset.write_text("5")  # the high-water mark starts again from here
    except OSError:
        return None
    before = _status_bytes(status, "VmRSS")
    kept = call()
    height = _status_bytes(status, "VmHWM")
    del kept
    return max(0, height - before)


def _status_bytes(status: Path, field: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{status} has no field {field}")
