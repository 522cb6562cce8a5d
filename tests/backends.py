"""The backends that run here: each test over kernels is parametrised by them."""

import torch

import ptmkernels.ops  # noqa: F401  loads the libraries
from ptmkernels._selector import BACKENDS, unavailable

_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


def _has_kernel(backend: str, op: str = "ptmkernels::attention_forward") -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(op, _KEYS.get(backend, "Undefined"))


KERNELS = [b for b in BACKENDS if b in _KEYS and unavailable(b) is None and _has_kernel(b)]
DEVICE = {"cpu": "cpu", "cuda": "cuda", "reference": "cpu"}
