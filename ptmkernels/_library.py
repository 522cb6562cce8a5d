"""Loads the compiled libraries: the one with the schemas and CPU kernels, and the CUDA one."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch

LIBRARY_DIR = Path(__file__).parent / "lib"
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_PREFIX = "" if sys.platform == "win32" else "lib"


def _path(name: str) -> Path:
    return LIBRARY_DIR / f"{_PREFIX}{name}{_SUFFIX}"


def _load_error(name: str, why_not_built: str) -> str | None:
    """Loads a library. Why it could not be, or None."""
    path = _path(name)
    if not path.is_file():
        return f"{path.name} is not built ({why_not_built})"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} could not be loaded into torch {torch.__version__}: {error}"
    return None


@cache
def cpu_library_error() -> str | None:
    """Why the library of schemas and CPU kernels could not be loaded, or None where it is."""
    return _load_error("ptmkernels", "install with compilation: pip install --no-build-isolation .")


@cache
def cuda_library_error() -> str | None:
    """Why the library of CUDA kernels is not loaded, or None where it is."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return cpu_library_error() or _load_error(
        "ptmkernels_cuda", "nvcc was not found, or PTMKERNELS_BUILD_CUDA=0"
    )
