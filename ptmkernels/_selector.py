"""Which backend serves a call: the measured default, a forced one, or a clear word why not."""

from __future__ import annotations

import importlib.util
import os
import warnings
from functools import cache

import torch

from ptmkernels._library import cpu_library_error, cuda_library_error

BACKENDS = ("cpu", "cuda", "triton", "reference")
ENVIRONMENT = "PTMKERNELS_BACKEND"
MIN_COMPUTE_CAPABILITY = (8, 0)  # what the CUDA library holds code for: sm_80 and later


@torch.compiler.assume_constant_result
def unavailable(backend: str) -> str | None:
    """Why `backend` cannot run in this process, or None where it can.

    Args:
        backend: one of ``BACKENDS``.
    """
    return _unavailable(backend)


@cache
def _unavailable(backend: str) -> str | None:
    if backend == "reference":
        return None
    if backend == "cpu":
        return cpu_library_error()
    if backend == "triton":
        return _triton_error()
    return _cuda_error()


def _triton_error() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install triton)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if not torch.cuda.is_available():
        return "no GPU is visible (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    return None


def _cuda_error() -> str | None:
    if error := cuda_library_error():
        return error
    if not torch.cuda.is_available():
        return "no CUDA device is visible, or its driver is older than the CUDA 13 run time needs (R580)"
    if torch.cuda.get_device_capability() < MIN_COMPUTE_CAPABILITY:
        name = torch.cuda.get_device_name()
        return f"{name} is older than compute capability 8.0; the Triton backend may serve it"
    return None


def forced_backend(argument: str | None) -> str | None:
    """The backend that the argument, or else the environment, asks for.

    Raises:
        ValueError: it is not the name of a backend.
    """
    name = argument if argument is not None else os.environ.get(ENVIRONMENT) or None
    if name is not None and name not in BACKENDS:
        source = "backend" if argument is not None else f"the environment variable {ENVIRONMENT}"
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join(BACKENDS)}")
    return name


def select(op: str, refusals: dict[str, str | None], argument: str | None = None) -> str:
    """The backend for one call.

    Args:
        op: name of the op, for messages.
        refusals: for each backend that has the op, in order of preference, why it cannot serve this
            call, or None where it can.
        argument: a forced backend.

    Raises:
        ValueError: the forced name is unknown.
        RuntimeError: the forced backend cannot serve, or none can; the message says why.
    """
    forced = forced_backend(argument)
    reasons, missing = {}, {}
    for backend in [forced] if forced else refusals:
        if backend not in refusals:
            reasons[backend] = "the op has no such backend"
            continue
        reason = unavailable(backend) or refusals[backend]
        if reason is None:
            if backend == "reference" and missing:
                _warn_of_reference(op, _listed(missing))
            return backend
        if refusals[backend] is None and not forced:
            missing[backend] = reason
        reasons[backend] = reason
    raise RuntimeError(f"{op}: no backend can serve this call ({_listed(reasons)})")


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items())


@torch.compiler.assume_constant_result
def _warn_of_reference(op: str, reasons: str) -> None:
    """Says once that the slow formula serves, so that a broken installation does not pass for a slow one."""
    _warn_once(op, reasons)


@cache
def _warn_once(op: str, reasons: str) -> None:
    warnings.warn(
        f"{op} runs as plain PyTorch, slowly, since no kernel can serve ({reasons}); "
        "`ptmkernels info` tells more",
        RuntimeWarning,
        stacklevel=2,
    )
