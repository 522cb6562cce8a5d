"""Times of several calls, taken in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ptmkernels.benchmarks.machine import host_seconds, seconds

MIN_SAMPLE_SECONDS = (
    1e-3  # shorter calls are repeated within a sample, or the clock is what is measured
)
ROUNDS = (5, 60)
HOST_CALLS = 9  # whose time on the host is taken
FLUSH_BYTES = 2**28  # written before each sample on a GPU, so that nothing starts in its L2 cache


def time_in_turns(
    calls: Sequence[Callable[[], object]], device: torch.device, budget: float
) -> list[list[float]]:
    """Seconds of each call in each round, in turns, so that a change of the machine's speed meets all alike.

    Args:
        budget: seconds for all of it, from which the number of rounds follows.
    """
    samples: list[list[float]] = [[] for _ in calls]
    if not calls:
        return samples
    single = [min(seconds(call, device) for _ in range(2)) for call in calls]
    inner = [_repeats(s, device) for s in single]
    round_seconds = sum(s * n for s, n in zip(single, inner, strict=True))
    rounds = int(np.clip(budget / max(round_seconds, 1e-9), *ROUNDS))
    gpu = device.type == "cuda"
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if gpu else None
    for round_index in range(rounds):
        shift = round_index % len(calls)
        for call, n, of_call in _rotated(list(zip(calls, inner, samples, strict=True)), shift):
            if flush is not None:
                flush.zero_()
            of_call.append(seconds(_repeated(call, n), device) / n)
    return samples


def issue_seconds(call: Callable[[], object]) -> float:
    """What the host takes to issue a call to an idle GPU."""

    def issued() -> float:
        torch.cuda.synchronize()
        return host_seconds(call)

    return float(np.median([issued() for _ in range(HOST_CALLS)]))


def _repeats(single: float, device: torch.device) -> int:
    if device.type == "cuda":
        return 1
    return max(1, int(np.ceil(MIN_SAMPLE_SECONDS / max(single, 1e-7))))


def _rotated(items: list, shift: int) -> list:
    return items[shift:] + items[:shift]


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated
