"""What the tests of the losses' Triton kernels share."""

import pytest
import torch

from tests.tolerances import assert_close_to_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MARKS = [] if DEVICE == "cuda" else pytest.mark.interpreted


def check(run, inputs, **options):
    """Loss and gradients by the 2x rule; `run(backend, *inputs, **options)` gives all three."""
    there = {k: v.to(DEVICE) if hasattr(v, "to") else v for k, v in options.items()}
    actual = run("triton", *(t.to(DEVICE) for t in inputs), **there)
    low = run("reference", *inputs, **options)
    exact = run("reference", *inputs, dtype=torch.float64, **options)
    for name, a, b, c in zip(("loss", "hidden", "weight"), actual, low, exact, strict=True):
        assert_close_to_reference(a.cpu(), b, c, name)
