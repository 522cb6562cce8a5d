"""Keys and values of the tokens so far, for generation one token at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["KeyValueCache", "LayerCache", "new_cache"]


class KeyValueCache:
    """The keys and values of one attention; for inference, since it writes in place.

    The storage doubles when it is full, so n tokens cost O(n) copies; the op reads views of it.
    """

    def __init__(self) -> None:
        self.length = 0
        self._storage: Tensor | None = None  # (2, B, Hk, capacity, D)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens; returns all keys and values so far.

        Args:
            key, value: (B, Hk, new tokens, D).

        Returns:
            Views (B, Hk, S, D) that are right until the next call.

        Raises:
            RuntimeError: a gradient is wanted; a cache would write over what the backward pass needs.
        """
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
            raise RuntimeError("a key/value cache cannot be differentiated; use torch.no_grad()")
        end = self.length + key.shape[2]
        self._reserve(end, key)
        self._storage[0, :, :, self.length : end] = key
        self._storage[1, :, :, self.length : end] = value
        self.length = end
        return self.views()

    def views(self) -> tuple[Tensor, Tensor]:
        """All keys and values, (B, Hk, S, D)."""
        stored = self._storage[:, :, :, : self.length]
        return stored[0], stored[1]

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row ``rows[b]`` was (beam search)."""
        if self._storage is not None:
            self._storage = self._storage.index_select(1, rows)

    def _reserve(self, length: int, like: Tensor) -> None:
        capacity = 0 if self._storage is None else self._storage.shape[3]
        if length <= capacity:
            return
        batch, heads, _, head_dim = like.shape
        grown = like.new_empty((2, batch, heads, max(length, 2 * capacity, 16), head_dim))
        if self._storage is not None:
            grown[:, :, :, : self.length] = self._storage[:, :, :, : self.length]
        self._storage = grown


@dataclass
class LayerCache:
    """The caches of one layer's self-attention and cross-attention."""

    attention: KeyValueCache = field(default_factory=KeyValueCache)
    cross_attention: KeyValueCache = field(default_factory=KeyValueCache)

    def reorder(self, rows: Tensor) -> None:
        self.attention.reorder(rows)
        self.cross_attention.reorder(rows)


def new_cache(num_layers: int) -> list[LayerCache]:
    """Empty caches for a stack of `num_layers`."""
    return [LayerCache() for _ in range(num_layers)]
