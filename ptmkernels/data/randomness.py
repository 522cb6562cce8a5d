"""Random numbers that depend on what they are for, not on when they are drawn.

A counter-based generator is opened at (seed, purpose, stream, index). Whoever asks, in whatever order and on
however many processes, draws the same numbers; so a run can be resumed at any example.
"""

from __future__ import annotations

import numpy as np

__all__ = ["MASKING", "ORDER", "PLAN", "generator_at"]

# Purposes: independent sequences of the same seed.
PLAN = 1  # how sentences become examples
ORDER = 2  # the order of an epoch's examples
MASKING = 3  # the corruption of one example


def generator_at(seed: int, purpose: int, stream: int, index: int = 0) -> np.random.Generator:
    """The generator of one place.

    Args:
        seed: of the run, 0 <= seed < 2**64.
        purpose: one of the constants of this module.
        stream: the epoch, or the replica of a statically masked corpus.
        index: the example within it.
    """
    # The low word of the counter counts draws, so neighbours never overlap.
    philox = np.random.Philox(key=[seed, purpose], counter=[0, 0, index, stream])
    return np.random.Generator(philox)
