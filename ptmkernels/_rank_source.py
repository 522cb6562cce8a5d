"""Where the ranks of a mask come from, so that two masks can be compared without looking at the values."""

from __future__ import annotations

import torch
from torch import Tensor

Source = (
    tuple  # what the ranks are made of: names, numbers, sources, and tensors with their versions
)


def rank_source(kind: str, *parts) -> Source | None:
    """What ranks are made of: equal sources make equal ranks. None = nothing is known.

    Args:
        kind: how they are made.
        parts: of what: tensors, numbers, other sources.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return None
    known = tuple(_versioned(part) if isinstance(part, Tensor) else part for part in parts)
    return None if None in known else (kind, *known)


def _versioned(tensor: Tensor) -> Source | None:
    """A tensor as it is now; None where changes of it are not counted."""
    return None if tensor.is_inference() else (_Same(tensor), tensor._version)


class _Same:
    """A tensor that equals itself only, whatever another one holds."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)
