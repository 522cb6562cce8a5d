"""Torch ops whose kernels are written in Triton, defined without importing Triton."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module

import torch

_library = torch.library.Library("ptmkernels", "FRAGMENT")


def define(schema: str, module: str) -> None:
    """Define an op `triton_NAME` for CUDA and ROCm, and for the CPU, where Triton interprets it.

    Args:
        schema: of the op.
        module: the function NAME of it runs the op; it is imported by the first call.
    """
    name = schema.partition("(")[0]

    @cache
    def function() -> Callable:
        return getattr(import_module(module), name.removeprefix("triton_"))

    def run(*args):
        return function()(*args)

    _library.define(schema)
    for device in ("CUDA", "CPU"):
        _library.impl(name, run, device)
