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


def device_of(backend: str) -> str:
    """Where the tensors of a call to this backend are."""
    return "cuda" if backend != "cpu" and torch.cuda.is_available() else "cpu"


def normal(*shape: int, backend: str = "cpu", dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal random numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device_of(backend), dtype)
