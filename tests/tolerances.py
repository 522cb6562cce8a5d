"""Every tolerance of the tests, once, with where it comes from."""

import torch

# Kernels against `reference` run in float64 on the same inputs: the error may be at most twice that of
# the formula run in the low precision itself (flash-attention's rule), plus this floor, a few units of
# round-off of the dtype for results of size 1.
KERNEL_FLOOR = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
KERNEL_RATIO = 2.0

# Models against an oracle with the same float32 weights: other summation orders in each layer.
ORACLE = {"rtol": 1e-5, "atol": 1e-5}
ORACLE_GRADIENT = {"rtol": 1e-4, "atol": 1e-5}


def assert_close_to_reference(
    actual, low, exact, name: str = "", size: float = 1.0, dtype: torch.dtype | None = None
) -> None:
    """The 2x rule: `actual` is the kernel's, `low` the formula's in the same dtype, `exact` in float64.

    `size` is that of the terms, where the result is a sum whose terms may cancel; `dtype` what is
    computed in, where that is not the result's (float32 gradients of bfloat16 attention).
    """
    if not exact.numel():
        return
    error = (actual.double() - exact.double()).abs().max().item()
    own = (low.double() - exact.double()).abs().max().item()
    size = max(exact.double().abs().max().item(), size)
    bound = KERNEL_RATIO * own + KERNEL_FLOOR[dtype or actual.dtype] * size
    assert error <= bound, (
        f"{name}: error {error:.3g} exceeds {bound:.3g} (formula's own {own:.3g})"
    )
