"""The masking sampler: exact counts, shares by chi-squared, units, and what a later objective builds on."""

import numpy as np
import pytest
from scipy import stats

from ptmkernels.data import (
    IGNORED,
    Masking,
    budget,
    choose_units,
    corrupt,
    token_units,
    whole_word_units,
)
from ptmkernels.data.randomness import MASKING, generator_at
from tests.data.corpora import tokenizer

VOCAB, MASK = 1000, 4
SIGNIFICANCE = 1e-4  # seeds are fixed, so a sound sampler passes for good


def sequence(length, rng):
    ids = rng.integers(5, VOCAB, size=length)
    eligible = np.ones(length, dtype=bool)
    eligible[[0, length // 2, -1]] = False
    return ids, eligible


@pytest.mark.parametrize(
    "length, probability, most, expected",
    [
        (1, 0.15, None, 1),
        (3, 0.15, None, 1),
        (63, 0.15, None, 9),  # 9.45
        (128, 0.15, 20, 19),  # 19.2
        (130, 0.15, None, 20),  # 19.5: halves go to the even number, as in Python's round
        (512, 0.15, 76, 76),  # 76.8 rounds to 77, capped
    ],
)
def test_budget(length, probability, most, expected):
    assert budget(length, probability, most) == expected


@pytest.mark.parametrize("length", [5, 41, 63, 128])
def test_exactly_the_budget_is_predicted(length):
    masking = Masking(MASK, VOCAB, max_predictions=20)
    for index in range(50):
        rng = generator_at(0, MASKING, 0, index)
        ids, eligible = sequence(length, rng)
        corrupted, labels = masking(ids, eligible, rng)
        chosen = labels != IGNORED
        assert chosen.sum() == budget(length, 0.15, 20)
        assert not (chosen & ~eligible).any()
        assert (labels[chosen] == ids[chosen]).all()
        assert (corrupted[~chosen] == ids[~chosen]).all()


def test_no_more_than_what_is_eligible():
    masking = Masking(MASK, VOCAB, probability=0.9)
    ids, eligible = np.array([2, 7, 3]), np.array([False, True, False])
    _, labels = masking(ids, eligible, generator_at(0, MASKING, 0))
    assert labels.tolist() == [IGNORED, 7, IGNORED]


def test_fates_and_positions_by_chi_squared():
    masking = Masking(MASK, VOCAB)
    length, fates, places = 64, np.zeros(3), np.zeros(64)
    drawn = []
    for index in range(4000):
        rng = generator_at(7, MASKING, 0, index)
        ids, eligible = sequence(length, rng)
        corrupted, labels = masking(ids, eligible, rng)
        chosen = labels != IGNORED
        places += chosen
        masked = chosen & (corrupted == MASK)
        same = chosen & (corrupted == ids)
        changed = chosen & ~masked & ~same
        fates += [masked.sum(), changed.sum(), same.sum()]
        drawn.append(corrupted[changed])
    # A random token is by chance the same, or [MASK] itself.
    shares = np.array([0.8 + 0.1 / VOCAB, 0.1 * (1 - 2 / VOCAB), 0.1 + 0.1 / VOCAB])
    assert stats.chisquare(fates, shares * fates.sum()).pvalue > SIGNIFICANCE
    eligible_places = np.delete(places, [0, length // 2, length - 1])
    assert places.sum() == eligible_places.sum()
    # Draws without replacement within a row: variance shrinks by (1 - n / N).
    n, total = 10, len(eligible_places)
    statistic = ((eligible_places - 4000 * n / total) ** 2).sum() / (4000 * n / total)
    scaled = statistic / (1 - n / total) * (total - 1) / total
    assert 1e-4 < stats.chi2.sf(scaled, total - 1) < 1 - 1e-4
    tokens = np.bincount(np.concatenate(drawn) // 100, minlength=10)
    assert stats.chisquare(tokens).pvalue > SIGNIFICANCE


def test_units_of_a_choice_are_whole_and_within_budget():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 5, size=12)
        units = np.repeat(np.arange(12), sizes)
        units = np.concatenate([[-1], units, [-1]])
        count = int(rng.integers(1, 12))
        chosen = choose_units(units, count, rng)
        assert not chosen[[0, -1]].any()
        assert chosen.sum() <= count
        for unit in range(12):
            assert chosen[units == unit].all() or not chosen[units == unit].any()
        # Nothing that still fits is left out.
        left = count - chosen.sum()
        assert all(chosen[units == u].any() or (units == u).sum() > left for u in range(12))


def test_every_unit_is_equally_likely():
    units = np.repeat(np.arange(10), 3)
    rng = np.random.default_rng(1)
    counts = np.zeros(10)
    for _ in range(3000):
        counts += np.bincount(units[choose_units(units, 7, rng)], minlength=10) / 3
    assert counts.sum() == 6000
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_whole_words_are_masked_whole():
    tok = tokenizer(70)
    ids = np.array(tok.encode(["Unbelievable transformations understood."], special_tokens=True)[0])
    eligible = ~np.isin(ids, [tok.cls_id, tok.sep_id])
    units = whole_word_units(ids, eligible, tok.continues_word)
    assert units[0] == units[-1] == -1
    words = [
        tok.decode(ids[units == unit].tolist()).replace(" ", "").replace("##", "")
        for unit in range(units.max() + 1)
    ]
    assert words == ["unbelievable", "transformations", "understood", "."]
    masking = Masking.of(tok, whole_words=True, probability=0.5)
    for index in range(50):
        _, labels = masking(ids, eligible, generator_at(0, MASKING, 0, index))
        chosen = labels != IGNORED
        assert all(len(set(chosen[units == u])) == 1 for u in range(units.max() + 1))


def test_a_cut_off_word_is_a_unit_at_the_head_of_a_segment():
    continues = np.array([False, False, True])
    ids = np.array([0, 2, 2, 0, 2, 1, 0])
    eligible = ids != 0
    assert whole_word_units(ids, eligible, continues).tolist() == [-1, 0, 0, -1, 1, 2, -1]
    assert token_units(ids, eligible).tolist() == [-1, 0, 1, -1, 2, 3, -1]


def test_spans_share_one_fate():
    ids = np.arange(10, 130)
    spans = np.repeat(np.arange(40), 3)
    options = {"mask_id": MASK, "vocab_size": VOCAB}
    chosen = np.ones(120, dtype=bool)
    fates = np.zeros(3)
    for index in range(200):
        rng = generator_at(0, MASKING, 1, index)
        corrupted = corrupt(ids, chosen, rng, decide_by=spans, **options).reshape(40, 3)
        masked = (corrupted == MASK).all(1)
        same = (corrupted == ids.reshape(40, 3)).all(1)
        assert ((corrupted == MASK).sum(1)[~masked] <= 1).all()  # only by a random token
        fates += [masked.sum(), 40 - masked.sum() - same.sum(), same.sum()]
    assert stats.chisquare(fates, np.array([0.8, 0.1, 0.1]) * 8000).pvalue > SIGNIFICANCE


def test_nothing_chosen_changes_nothing():
    ids = np.arange(7)
    rng = np.random.default_rng(0)
    same = corrupt(ids, np.zeros(7, dtype=bool), rng, mask_id=MASK, vocab_size=9)
    assert (same == ids).all()


@pytest.mark.parametrize(
    "options, word",
    [
        ({"probability": 0.0}, "mask probability is 0.0"),
        ({"probability": 1.0}, "mask probability is 1.0"),
        ({"max_predictions": 0}, "max_predictions is 0"),
        ({"mask_share": 0.95}, "sum to at most 1"),
        ({"random_share": -0.1}, "shares >= 0"),
    ],
)
def test_bad_options(options, word):
    with pytest.raises(ValueError, match=word):
        Masking(MASK, VOCAB, **options)
