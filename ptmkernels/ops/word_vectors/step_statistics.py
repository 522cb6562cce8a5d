"""The numbers that a training step of word vectors gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["StepStatistics"]


@dataclass(frozen=True)
class StepStatistics:
    """What a training step saw.

    Attributes:
        loss: mean loss of a (centre, context) pair (CBOW: of a window) before its update, over a sample
            of one window in 64; NaN where the sample is empty.
        pairs: (centre, context) pairs trained.
        words: tokens that sub-sampling kept.
    """

    loss: float
    pairs: int
    words: int

    @staticmethod
    def of(values) -> StepStatistics:
        loss, loss_pairs, pairs, words = torch.as_tensor(values, dtype=torch.float64).tolist()
        return StepStatistics(loss / loss_pairs if loss_pairs else math.nan, int(pairs), int(words))
