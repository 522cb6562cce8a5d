"""Comparing shapes so that torch.compile with dynamic sizes gives the answer that eager code gives.

`size in (1, n)` does not: a size that is traced and one that is plain are never the same object, and for
`in` then never equal. `==` asks, and records the answer as a condition of the compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["broadcasts", "has_shape"]


def broadcasts(size: int, full: int) -> bool:
    """Whether a dimension is 1 or `full`."""
    return size == 1 or size == full


def has_shape(tensor: Tensor, *shapes: Sequence[int]) -> bool:
    """Whether a tensor has one of the shapes."""
    return any(
        tensor.dim() == len(shape)
        and all(one == other for one, other in zip(tensor.shape, shape, strict=True))
        for shape in shapes
    )
