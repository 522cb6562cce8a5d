"""How many stretches of a text a GPU may train at the same time.

Each stretch changes a row from what the row was when the stretch read it. N copies of one row in flight add
up N changes from about the same row, as one change with N times the learning rate would: learning becomes
worse, and in the end diverges. So the sum of the learning rates of the copies of the busiest row is bounded,

    max_in_flight * copies * learning_rate <= RATE_OF_COPIES,

where `copies` is how many of them one stretch holds on average (:func:`copies_of_busiest_row`). It is made
from numbers on the host; nothing is read from the device. docs/word_vectors.md has the figures behind it.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree
from ptmkernels.ops.negative_sampling.sampler import AliasTable

RATE_OF_COPIES = 0.2
ROOT_COPIES = 0.25  # what a copy of the root of a tree counts
FREQUENT_WORDS = 64  # kFrequentWords of csrc/word_vectors/cuda/step.cuh
MOST = 1 << 20  # more than any GPU runs
NOISE_POWER = 0.75  # of the counts, in word2vec


def max_in_flight(
    share: np.ndarray | None = None,
    *,
    sampler: AliasTable | None = None,
    tree: HuffmanTree | None = None,
    window: int,
    num_negatives: int = 5,
    learning_rate: float,
    subwords: tuple[Tensor, Tensor] | None = None,
) -> int:
    """The bound that keeps the quality of vectors, at least 1.

    Args:
        share: (V,), how often each word is among those that sub-sampling keeps, in any unit; None = as the
            noise, its counts being raised to 0.75, without sub-sampling (which makes the bound lower than
            need be where there is some).
        sampler, tree, window, num_negatives, learning_rate: those of the step.
        subwords: those of the step, on the CPU.

    Example:
        >>> import torch
        >>> from ptmkernels.ops import AliasTable
        >>> noise = AliasTable.from_counts(torch.ones(1000))
        >>> max_in_flight(sampler=noise, window=5, learning_rate=0.025)
        727
    """
    copies = copies_of_busiest_row(share, sampler, tree, window, num_negatives, subwords)
    bound = RATE_OF_COPIES / max(copies * learning_rate, RATE_OF_COPIES / MOST)
    return max(1, int(bound))


def copies_of_busiest_row(
    share: np.ndarray | None,
    sampler: AliasTable | None,
    tree: HuffmanTree | None,
    window: int,
    num_negatives: int,
    subwords: tuple[Tensor, Tensor] | None = None,
) -> float:
    """Copies of the busiest row that one stretch holds on average.

    A window has window + 1 contexts on average, each with its row, one row for its centre word, and one
    for each negative; the rows of all but the most frequent words stay while they are within reach, for
    2 * window + 1 windows. Every window has the root of a tree; but it bears four times as many copies as the
    row of a word (docs/word_vectors.md), and counts for ROOT_COPIES.
    """
    noise = np.zeros(len(tree)) if sampler is None else sampler.on_host.double().numpy()
    share = noise ** (1 / NOISE_POWER) if share is None else np.asarray(share, dtype=np.float64)
    share = share / max(share.sum(), np.finfo(np.float64).tiny)
    if subwords is None:
        frequent, others = share[:FREQUENT_WORDS].max(initial=0), share[FREQUENT_WORDS:]
        inputs = max((window + 1) * frequent, (2 * window + 1) * others.max(initial=0))
    else:
        inputs = (2 * window + 1) * _shares_with_subwords(share, subwords).max(initial=0)
    if tree is not None:
        return max(inputs, ROOT_COPIES)
    return max(inputs, share.max(initial=0) + num_negatives * noise.max(initial=0))


def _shares_with_subwords(share: np.ndarray, subwords: tuple[Tensor, Tensor]) -> np.ndarray:
    """How often the row of a word is changed, its sub-words' rows being those of other words too."""
    offsets, rows = (t.numpy() for t in subwords)
    lengths = np.diff(offsets)
    of_row = np.bincount(rows, weights=np.repeat(share, lengths))
    return np.add.reduceat(of_row[rows], offsets[:-1]) / lengths
