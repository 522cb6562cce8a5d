"""What a source of training examples is: a plan of an epoch, and the tokens of one example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ptmkernels.data.encoding import EncodedCorpus

__all__ = ["Example", "ExampleSource"]


@dataclass(frozen=True, eq=False)
class Example:
    """One sequence before masking.

    Args:
        input_ids: (L,) int64 tokens, special ones included.
        eligible: (L,) booleans, false for special tokens.
        token_type_ids: (L,) int64 segments, 0 or 1.
        labels: labels of the whole sequence by name, such as `next_sentence_label`.
    """

    input_ids: np.ndarray
    eligible: np.ndarray
    token_type_ids: np.ndarray
    labels: dict[str, int]


class ExampleSource(Protocol):
    """Cuts a corpus into examples."""

    corpus: EncodedCorpus

    def plan(self, rng: np.random.Generator) -> Any:
        """Draw the examples of one pass over the corpus; something with a length."""

    def example(self, plan: Any, index: int) -> Example:
        """Example `index` of a plan; no draw is left to be made."""
