"""The backends that run here: each test over kernels is parametrised by them."""

import torch

import ptmkernels.ops  # noqa: F401  loads the libraries
from ptmkernels._selector import BACKENDS, unavailable

_KERNEL = {
    "cpu": ("ptmkernels::attention_forward", "CPU"),
    "cuda": ("ptmkernels::attention_forward", "CUDA"),
    "triton": ("ptmkernels::triton_attention_forward", "CUDA"),
}


def _runs(backend: str) -> bool:
    """Triton's interpreter is too slow for every test: tests/ops/test_attention_triton.py has its own."""
    if backend not in _KERNEL or unavailable(backend) is not None:
        return False
    interpreted = backend == "triton" and not torch.cuda.is_available()
    return not interpreted and torch._C._dispatch_has_kernel_for_dispatch_key(*_KERNEL[backend])


KERNELS = [backend for backend in BACKENDS if _runs(backend)]
DEVICE = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda", "reference": "cpu"}
