"""Every tolerance of the tests, once, with where it comes from."""

import torch

# Kernels against `reference` run in float64 on the same inputs: the error may be at most twice that of
# the formula run in the low precision itself (flash-attention's rule), plus this floor, a few units of
# round-off of the dtype for results of size 1.
KERNEL_FLOOR = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
KERNEL_RATIO = 2.0
# Of the size of the terms, where a float32 result sums hundreds of terms that came rounded to the dtype:
# their errors are random, and so is their sum, in ours as in the formula's.
SUM_FLOOR = {torch.float32: 2e-6, torch.bfloat16: 1e-3, torch.float16: 1.25e-4}

# Models against an oracle with the same float32 weights: other summation orders in each layer.
ORACLE = {"rtol": 1e-5, "atol": 1e-5}
ORACLE_GRADIENT = {"rtol": 1e-4, "atol": 1e-5}


def assert_close_to_reference(
    actual, low, exact, name: str = "", size: float = 1.0, dtype: torch.dtype | None = None
) -> None:
    """The 2x rule: `actual` is the kernel's, `low` the formula's in the same dtype, `exact` in float64.

    `size` is that of the terms, where the result is a sum whose terms may cancel; `dtype` what they came in.
    """
    if not exact.numel():
        return
    error = (actual.double() - exact.double()).abs().max().item()
    own = (low.double() - exact.double()).abs().max().item()
    floor = KERNEL_FLOOR[actual.dtype]
    if actual.dtype == torch.float32 and dtype is not None:
        floor = SUM_FLOOR[dtype]
    bound = KERNEL_RATIO * own + floor * max(exact.double().abs().max().item(), size)
    assert error <= bound, (
        f"{name}: error {error:.3g} exceeds {bound:.3g} (formula's own {own:.3g})"
    )
