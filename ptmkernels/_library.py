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


@cache
def cpu_library_error() -> str | None:
    """Why the library of schemas and CPU kernels could not be loaded, or None where it is."""
    path = _path("ptmkernels")
    if not path.is_file():
        return f"{path.name} is not built (install with compilation: pip install --no-build-isolation .)"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} could not be loaded into torch {torch.__version__}: {error}"
    return None


@cache
def cuda_library_error() -> str | None:
    """Why the library of CUDA kernels is not loaded, or None where it is."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if error := cpu_library_error():
        return error
    path = _path("ptmkernels_cuda")
    if not path.is_file():
        return f"{path.name} is not built (nvcc was not found, or PTMKERNELS_BUILD_CUDA=0)"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} could not be loaded into torch {torch.__version__}: {error}"
    return None
