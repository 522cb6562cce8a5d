"""Philox4x32-10, the counter-based generator behind every random number of the kernels.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The same bits in every backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32-bit words of a * b, in int64 arithmetic without overflow of the high word."""
    low_part = a * (b & 0xFFFF)
    high = (a * (b >> 16) + (low_part >> 16)) >> 16
    return high, (a * b) & _WORD


def philox4x32(counter: tuple[Tensor, ...], seed: Tensor) -> Tensor:
    """Four random 32-bit words for each counter.

    Args:
        counter: four int64 tensors (broadcastable) of values below 2**32.
        seed: int64 (1,), the key.

    Returns:
        int64, the broadcast shape and a last dimension of 4, values below 2**32.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return torch.stack([c0, c1, c2, c3], dim=-1)


def dropout_keep(
    seed: Tensor, p: float, batch: int, heads: int, query_len: int, key_len: int
) -> Tensor:
    """(B, H, L, S) booleans: which attention weights dropout with probability `p` keeps.

    Weight (b, h, i, j) takes word j mod 4 of counter (j // 4, i, h, b) and stays where it is at least
    floor(p * 2**32).
    """

    def index(size: int, dim: int) -> Tensor:
        return torch.arange(size, device=seed.device).view(
            [-1 if d == dim else 1 for d in range(4)]
        )

    groups = index((key_len + 3) // 4, 3)
    words = philox4x32((groups, index(query_len, 2), index(heads, 1), index(batch, 0)), seed)
    return words.flatten(3)[..., :key_len] >= int(p * 2**32)
