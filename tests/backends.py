"""The backends that run here: each test over kernels is parametrised by them."""

import torch

import ptmkernels.ops  # noqa: F401  loads the libraries
from ptmkernels._selector import BACKENDS, unavailable

_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


def _has_kernel(backend: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        "ptmkernels::attention_forward", _KEYS[backend]
    )


KERNELS = [b for b in BACKENDS if b in _KEYS and unavailable(b) is None and _has_kernel(b)]


def device_of(backend: str) -> str:
    """Where the tensors of a call to this backend are."""
    return "cuda" if backend != "cpu" and torch.cuda.is_available() else "cpu"


def normal(*shape: int, backend: str = "cpu", dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal random numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device_of(backend), dtype)
