"""Corruption of text for masked language modelling, in two steps that objectives combine.

1. Units: which tokens stand or fall together. A unit is a token, a whole word, a span, an n-gram: anything
   that gives each token the number of its unit, -1 for a token that is never chosen.
2. Choice and replacement: units are drawn until the budget is full, and each chosen token (or each chosen
   unit as one) becomes [MASK], a random token, or stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ptmkernels.data.tokenizer import WordPieceTokenizer

__all__ = [
    "IGNORED",
    "Masking",
    "budget",
    "choose_units",
    "corrupt",
    "token_units",
    "whole_word_units",
]

IGNORED = -100  # the label of a token that is not predicted

# (ids (L,), eligible (L,) booleans) -> units (L,)
Units = Callable[[np.ndarray, np.ndarray], np.ndarray]


def budget(length: int, probability: float, most: int | None = None) -> int:
    """How many tokens to predict: max(1, round(probability * length)), at most `most`.

    Args:
        length: L, special tokens included, as BERT counts it.
        probability: 0.15 in BERT.
        most: 20 in BERT at L = 128; None = no limit.
    """
    count = max(1, round(probability * length))
    return count if most is None else min(count, most)


def token_units(ids: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Each token by itself.

    Args:
        ids: (L,) tokens.
        eligible: (L,) booleans, false for special tokens.
    """
    return np.where(eligible, np.cumsum(eligible) - 1, -1)


def whole_word_units(
    ids: np.ndarray, eligible: np.ndarray, continues_word: np.ndarray
) -> np.ndarray:
    """The pieces of a word together (BERT's whole-word masking).

    Args:
        ids, eligible: as for :func:`token_units`.
        continues_word: (V,) booleans, true for pieces that go on a word.
    """
    begins = eligible & ~continues_word[ids]
    # A piece at the head of a cut-off segment begins a word, whatever it looks like.
    begins[1:] |= eligible[1:] & ~eligible[:-1]
    begins[0] = eligible[0]
    return np.where(eligible, np.cumsum(begins) - 1, -1)


def choose_units(units: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw units without replacement, passing over those that would exceed the budget.

    Args:
        units: (L,) unit of each token, 0..U - 1, -1 = never chosen.
        count: tokens to choose at most.
        rng: the source of the draw.

    Returns:
        (L,) booleans.
    """
    sizes = np.bincount(units[units >= 0])
    order = rng.permutation(len(sizes))
    if len(order) and sizes.max() == 1:
        taken = order[:count]
    else:
        taken, left = [], count
        for unit in order:
            if 0 < sizes[unit] <= left:
                taken.append(unit)
                left -= sizes[unit]
    return np.isin(units, taken)


def corrupt(
    ids: np.ndarray,
    chosen: np.ndarray,
    rng: np.random.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    decide_by: np.ndarray | None = None,
) -> np.ndarray:
    """Replace chosen tokens: [MASK] 80%, a random token 10%, unchanged 10% (BERT).

    Args:
        ids: (L,) tokens; not changed.
        chosen: (L,) booleans.
        rng: the source of the draw.
        mask_id: id of [MASK].
        vocab_size: V; a random token is any of the whole vocabulary, as in BERT's released code.
        mask_share, random_share: of the chosen; the rest stays as it is.
        decide_by: (L,) units of which each shares one fate (SpanBERT's spans); None = token by token.

    Returns:
        (L,) ids.
    """
    positions = np.flatnonzero(chosen)
    groups = np.arange(len(positions)) if decide_by is None else decide_by[positions]
    _, groups = np.unique(groups, return_inverse=True)
    fate = rng.random(groups.max(initial=-1) + 1)[groups]
    drawn = rng.integers(vocab_size, size=len(positions))
    corrupted = ids.copy()
    corrupted[positions[fate < mask_share]] = mask_id
    at_random = (mask_share <= fate) & (fate < mask_share + random_share)
    corrupted[positions[at_random]] = drawn[at_random]
    return corrupted


@dataclass(frozen=True)
class Masking:
    """BERT's masking of one sequence.

    Args:
        mask_id, vocab_size: of the tokenizer.
        units: which tokens stand together.
        probability: share of the tokens to predict.
        max_predictions: in one sequence at most; None = no limit.
        mask_share, random_share: see :func:`corrupt`.

    Raises:
        ValueError: a share or the limit is out of range.
    """

    mask_id: int
    vocab_size: int
    units: Units = token_units
    probability: float = 0.15
    max_predictions: int | None = None
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.probability < 1.0:
            raise ValueError(f"mask probability is {self.probability}; expected 0 < p < 1")
        if self.max_predictions is not None and self.max_predictions < 1:
            raise ValueError(f"max_predictions is {self.max_predictions}; expected a number >= 1")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share is {self.mask_share} and random_share {self.random_share}; expected "
                "shares >= 0 that sum to at most 1"
            )

    @classmethod
    def of(cls, tokenizer: WordPieceTokenizer, *, whole_words: bool = False, **options) -> Masking:
        """The masking for a tokenizer; `options` are the fields from `probability` on."""

        def words(ids: np.ndarray, eligible: np.ndarray) -> np.ndarray:
            return whole_word_units(ids, eligible, tokenizer.continues_word)

        units = words if whole_words else token_units
        return cls(tokenizer.mask_id, tokenizer.vocab_size, units, **options)

    def __call__(
        self, ids: np.ndarray, eligible: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Corrupt one sequence.

        Args:
            ids: (L,) tokens.
            eligible: (L,) booleans, false for special tokens.
            rng: the source of all draws.

        Returns:
            corrupted ids (L,); labels (L,), the true token where it is to be predicted, else -100.
        """
        count = budget(len(ids), self.probability, self.max_predictions)
        chosen = choose_units(self.units(ids, eligible), count, rng)
        corrupted = corrupt(
            ids,
            chosen,
            rng,
            mask_id=self.mask_id,
            vocab_size=self.vocab_size,
            mask_share=self.mask_share,
            random_share=self.random_share,
        )
        return corrupted, np.where(chosen, ids, IGNORED)
