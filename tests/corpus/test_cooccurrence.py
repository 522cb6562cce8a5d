"""Co-occurrence counts against a plain Python count."""

import collections

import numpy as np
import pytest

from ptmkernels._corpus import CooccurrenceCounter


def tokens(count=3000, vocabulary=40, seed=1):
    ids = np.random.default_rng(seed).integers(-1, vocabulary, count).astype(np.int32)
    return np.where(np.random.default_rng(seed + 1).random(count) < 0.1, -1, ids).astype(np.int32)


def plain_counts(ids, window, symmetric, weighted):
    counts = collections.defaultdict(float)
    sentence = []
    for word in [*ids.tolist(), -1]:
        if word < 0:
            for i, centre in enumerate(sentence):
                for j in range(max(0, i - window), i):
                    value = 1 / (i - j) if weighted else 1
                    counts[centre, sentence[j]] += value
                    if symmetric:
                        counts[sentence[j], centre] += value
            sentence = []
        else:
            sentence.append(word)
    return counts


def as_dict(entries):
    return {(int(e["row"]), int(e["column"])): float(e["value"]) for e in entries}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_counts(symmetric, weighted):
    ids = tokens()
    counter = CooccurrenceCounter(window=4, symmetric=symmetric, weighted=weighted)
    counter.add(ids)
    entries = counter.take()
    expected = plain_counts(ids, 4, symmetric, weighted)
    assert as_dict(entries) == pytest.approx(expected, rel=1e-12)
    keys = entries["row"].astype(np.int64) << 32 | entries["column"]
    assert (np.diff(keys) > 0).all()
    assert len(counter.take()) == 0


@pytest.mark.parametrize("shuffled", [False, True])
def test_spilled_counts_equal_those_in_memory(tmp_path, shuffled):
    ids = tokens(count=400_000, vocabulary=3000)
    small = CooccurrenceCounter(window=5, memory=4 << 20, folder=str(tmp_path))
    large = CooccurrenceCounter(window=5)
    for piece in np.array_split(ids, 7):
        small.add(piece)
        large.add(piece)
    assert small.runs > 1
    assert large.runs == 0
    expected = large.take()
    if shuffled:
        count = small.write_shuffled(str(tmp_path / "pairs"), seed=3)
        entries = np.fromfile(tmp_path / "pairs", expected.dtype)
        assert count == len(entries)
        # Neighbouring keys are no nearer to each other than by chance.
        order = entries["row"].astype(np.float64)
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.01
        entries = np.sort(entries, order=["row", "column"])
    else:
        entries = small.take()
    np.testing.assert_array_equal(entries["row"], expected["row"])
    np.testing.assert_array_equal(entries["column"], expected["column"])
    np.testing.assert_allclose(entries["value"], expected["value"], rtol=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == (["pairs"] if shuffled else [])


def test_shuffle_depends_on_the_seed_alone(tmp_path):
    def order(seed):
        counter = CooccurrenceCounter()
        counter.add(tokens())
        counter.write_shuffled(str(tmp_path / "pairs"), seed=seed)
        return (tmp_path / "pairs").read_bytes()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="window is 0"):
        CooccurrenceCounter(window=0)
    counter = CooccurrenceCounter(folder=str(tmp_path / "missing"))
    counter.add(tokens())
    with pytest.raises(FileNotFoundError, match="missing"):
        counter.write_shuffled(str(tmp_path / "pairs"), seed=1)
