"""XLNet's sampler (Yang et al. 2019, and the released code): what is predicted, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Permutation", "PermutedExample", "choose_spans", "factorisation_order"]

NOT_PERMUTED = -1  # the rank of a token that is neither predicted nor a separator: it comes first


def choose_spans(
    begins: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    context: int = 6,
    max_gram: int = 5,
) -> np.ndarray:
    """Choose spans of 1 to `max_gram` tokens, each somewhere within `context` times as many.

    A span has n tokens with probability proportional to 1 / n and starts at the first begin of a word from
    its drawn place on. As in the released code n counts tokens, not words; where the end of the text comes
    too early, single tokens anywhere fill up the count.

    Args:
        begins: (L,) booleans, tokens that begin a word.
        count: how many tokens to choose, at most L.
        rng: the source of the draws.
        context: K; a share of 1 / K is predicted.
        max_gram: the longest span.

    Returns:
        (L,) booleans, exactly `count` of them true.

    Raises:
        ValueError: `count` is negative or more than L.
    """
    length = len(begins)
    if not 0 <= count <= length:
        raise ValueError(f"count is {count}; expected a number from 0 to {length}")
    # (L + 1,) the next begin of a word at or after each place; L = none.
    places = np.append(np.where(begins, np.arange(length), length), length)
    next_begin = np.minimum.accumulate(places[::-1])[::-1]
    chances = 1.0 / np.arange(1, max_gram + 1)
    chances /= chances.sum()
    chosen = np.zeros(length, dtype=bool)
    place, left = 0, count
    while place < length and left > 0:
        size = min(int(rng.choice(max_gram, p=chances)) + 1, left)
        before = int(rng.integers(context * size))
        start = int(next_begin[min(place + before, length)])
        end = start + size
        if end >= length:
            break
        chosen[start:end] = True
        left -= size
        place = end + context * size - before
    chosen[rng.permutation(np.flatnonzero(~chosen))[:left]] = True
    return chosen


def factorisation_order(
    permuted: np.ndarray, rng: np.random.Generator, block: int | None = None
) -> np.ndarray:
    """The rank of each token: permuted ones a place of their own, the others all come first.

    Args:
        permuted: (L,) booleans, predicted tokens and separators.
        rng: the source of the draw.
        block: the order is drawn within blocks of so many tokens, the same in each; a divisor of L. None = L.

    Returns:
        (L,) int64 ranks, -1 or 0..L-1.

    Raises:
        ValueError: `block` does not divide L.
    """
    length = len(permuted)
    block = length if block is None else block
    if block < 1 or length % block:
        raise ValueError(f"block is {block}; expected a divisor of {length}")
    order = rng.permutation(block)
    places = (np.arange(0, length, block)[:, None] + order).reshape(-1)
    return np.where(permuted, places, NOT_PERMUTED)


@dataclass(frozen=True, eq=False)
class PermutedExample:
    """The order of one sequence and what is predicted in it.

    Args:
        rank: (L,) int64, as `perm_rank` of the model.
        targets: (P,) int64 rising positions; the last may be repeated to fill up.
        labels: (P,) int64 tokens, -100 where a position only fills up.
    """

    rank: np.ndarray
    targets: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Permutation:
    """XLNet's permutation of one sequence, in two parts.

    The first `reuse_len` tokens, which the next segment remembers, and the rest are sampled and permuted
    separately: the first never see the rest, the rest see all of the first. Separators keep a place of their
    own in the order, see themselves, and are never predicted.

    Args:
        predictions: P, in both parts together; the first gets the half, rounded up.
        reuse_len: length of the first part.
        block: as for :func:`factorisation_order`.
        context, max_gram: as for :func:`choose_spans`.
    """

    predictions: int = 85
    reuse_len: int = 256
    block: int | None = 256
    context: int = 6
    max_gram: int = 5

    def __call__(
        self,
        ids: np.ndarray,
        begins: np.ndarray,
        functional: np.ndarray,
        rng: np.random.Generator,
        *,
        backwards: bool = False,
    ) -> PermutedExample:
        """Sample one sequence.

        Args:
            ids: (L,) tokens.
            begins: (L,) booleans, tokens that begin a word in reading order.
            functional: (L,) booleans, separators and class tokens.
            rng: the source of all draws.
            backwards: the text runs from right to left, and so are its spans drawn.
        """
        second = self.predictions // 2
        parts = (
            (slice(0, self.reuse_len), self.predictions - second),
            (slice(self.reuse_len, len(ids)), second),
        )
        chosen = np.zeros(len(ids), dtype=bool)
        rank = np.empty(len(ids), dtype=np.int64)
        lowest = 0
        for part, count in parts:
            turn = slice(None, None, -1 if backwards else 1)
            spans = choose_spans(
                begins[part][turn], count, rng, context=self.context, max_gram=self.max_gram
            )
            chosen[part] = spans[turn]
            order = factorisation_order(chosen[part] | functional[part], rng, self.block)
            rank[part] = order + lowest
            lowest = rank[part].max(initial=lowest) + 2
        return self._example(ids, rank, np.flatnonzero(chosen & ~functional))

    def _example(self, ids: np.ndarray, rank: np.ndarray, targets: np.ndarray) -> PermutedExample:
        """With P targets: chosen separators are not predicted, so some may be missing."""
        labels = np.full(self.predictions, -100)
        labels[: len(targets)] = ids[targets]
        missing = self.predictions - len(targets)
        filler = targets[-1:] if len(targets) else np.zeros(1, dtype=np.int64)
        return PermutedExample(rank, np.append(targets, np.repeat(filler, missing)), labels)
