"""How the benchmarks of an op offer ours and the peers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptmkernels._selector import unavailable
from ptmkernels.benchmarks.harness import Case, Provider
from ptmkernels.ops.refusals import refusals


def from_setup(make: Callable, **arguments) -> Callable[[Case], Callable[..., Tensor]]:
    """``make(setup, **arguments)`` with the setup of the case."""
    return lambda case: make(case.setup, **arguments)


def by_backend(op: str, case: Case, ours: Callable[..., Callable[..., Tensor]]) -> list[Provider]:
    """Ours, ``ours(setup, backend=...)``, in each backend that serves `op` on the case's GPU."""
    if case.device.type != "cuda":
        return []
    there = [backend for backend in ("cuda", "triton") if unavailable(backend) is None]
    refused = refusals(op, there, torch.empty(0, device=case.device))
    return [
        Provider(f"ptmkernels, {backend}", from_setup(ours, backend=backend))
        for backend in there
        if refused[backend] is None
    ]
