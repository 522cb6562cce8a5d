"""XLNet's sampler: its statistics, and its masks against the definition and against the interval form."""

import numpy as np
import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.data.permutation import Permutation, choose_spans, factorisation_order

L, REUSE, P = 48, 24, 9


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [0, 1, 9, 48])
def test_as_many_as_asked_for(count):
    begins = rng().random(L) < 0.6
    for seed in range(50):
        assert choose_spans(begins, count, rng(seed)).sum() == count


def test_spans_are_as_likely_as_one_over_their_length():
    """In a long text nothing cuts a span short, and two never touch unless there is no room between."""
    begins = np.ones(200_000, dtype=bool)
    chosen = choose_spans(begins, 25_000, rng())
    edges = np.flatnonzero(np.diff(chosen.astype(int), prepend=0, append=0))
    lengths = (edges[1::2] - edges[::2])[:-1]
    counts = np.bincount(np.minimum(lengths, 6), minlength=7)[1:6]
    expected = 1 / np.arange(1, 6) / (1 / np.arange(1, 6)).sum()
    # some 11,000 spans: the deviation of a share is 0.005; spans that touch look like longer ones
    np.testing.assert_allclose(counts / len(lengths), expected, atol=0.03)
    # one in six of the text that was passed, plus the span itself
    assert edges[-1] / 25_000 == pytest.approx(7, rel=0.02)


def test_spans_start_where_words_do():
    begins = np.arange(20_000) % 3 == 0
    chosen = choose_spans(begins, 1000, rng(), max_gram=2)
    starts = np.flatnonzero(np.diff(chosen.astype(int), prepend=0) == 1)
    assert np.mean(starts % 3 == 0) == 1.0


def test_an_order_in_blocks():
    order = factorisation_order(np.ones(24, dtype=bool), rng(), 8)
    assert sorted(order) == list(range(24))
    assert np.array_equal(order[8:16], order[:8] + 8)
    some = np.arange(24) % 2 == 0
    assert np.array_equal(factorisation_order(some, rng(), 8) == -1, ~some)


def test_orders_are_all_as_likely():
    draws = [tuple(factorisation_order(np.ones(3, dtype=bool), rng(s))) for s in range(3000)]
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(counts) == 6
    np.testing.assert_allclose(counts / 3000, 1 / 6, atol=0.03)  # four deviations


def sample(seed, backwards=False):
    source = rng(100 + seed)
    ids = source.integers(0, 1000, L)
    functional = np.zeros(L, dtype=bool)
    functional[[35, L - 2, L - 1]] = True
    begins = (source.random(L) < 0.7) | functional
    permute = Permutation(predictions=P, reuse_len=REUSE, block=12)
    return ids, functional, permute(ids, begins, functional, rng(seed), backwards=backwards)


def released_masks(rank, targets, functional):
    """Who sees whom, as the paper's code says it for each part: row i may see column j."""
    predicted = np.zeros(L, dtype=bool)
    predicted[targets] = True
    permuted = predicted | functional
    query = np.zeros((L, L), dtype=bool)
    for part in (range(REUSE), range(REUSE, L)):
        place = {j: rank[j] if permuted[j] else -np.inf for j in part}
        for i in part:
            for j in part:
                own = place[i] if predicted[i] else place[i] + 0.5 if permuted[i] else -1e9
                query[i, j] = not permuted[j] or own > place[j]
    query[REUSE:, :REUSE] = True
    return query | np.eye(L, dtype=bool), query


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_interval_masks_are_those_of_the_released_code(seed, backwards):
    ids, functional, example = sample(seed, backwards)
    real = example.labels != -100
    assert np.array_equal(example.labels[real], ids[example.targets[real]])
    assert not functional[example.targets[real]].any()
    assert len(example.targets) == len(example.labels) == P
    assert (np.diff(example.targets[real]) > 0).all()
    content, query = released_masks(example.rank, example.targets[real], functional)
    rank = torch.from_numpy(example.rank)[None]
    targets = torch.from_numpy(example.targets[real])
    predicted = torch.zeros(1, L, dtype=torch.bool)
    predicted[0, targets] = True
    masks = [
        AttentionMask.permutation(rank, predicted, stream).to_dense()[0].numpy()
        for stream in ("content", "query")
    ]
    np.testing.assert_array_equal(masks[0], content)
    np.testing.assert_array_equal(masks[1][targets], query[targets])


def test_halves_get_their_share():
    first = [(sample(s)[2].targets[sample(s)[2].labels != -100] < REUSE).sum() for s in range(20)]
    assert set(first) == {5}


@pytest.mark.parametrize("count", [-1, 4])
def test_counts_that_cannot_be(count):
    with pytest.raises(ValueError, match=f"count is {count}; expected a number from 0 to 3"):
        choose_spans(np.ones(3, dtype=bool), count, rng())


def test_blocks_that_cannot_be():
    with pytest.raises(ValueError, match="block is 5; expected a divisor of 12"):
        factorisation_order(np.ones(12, dtype=bool), rng(), 5)
