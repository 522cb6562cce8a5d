"""The bound on the stretches of text that a GPU trains at the same time.

The emulation runs the CUDA kernels with as many warps at once as 132 multiprocessors hold, in an order drawn
at random: rows are changed from copies as old as on such a GPU, or older.
"""

import numpy as np
import pytest
import torch

from ptmkernels.benchmarks.planted_topics import held_out_loss, plant, topic_precision
from ptmkernels.models import FastText, Word2Vec
from ptmkernels.ops import AliasTable, HuffmanTree, cbow_step_, skipgram_step_
from ptmkernels.ops.word_vectors.in_flight import MOST, copies_of_busiest_row, max_in_flight
from tests.ops.word_vectors.test_steps import case
from tests.simt import library
from tests.simt.word_vectors import step

EVERY_KIND = pytest.mark.parametrize("cbow", [False, True], ids=["skip-gram", "cbow"])
EVERY_LOSS = pytest.mark.parametrize("tree", [False, True], ids=["negatives", "tree"])
SEED = torch.tensor([77])


def outputs(counts, tree):
    """What a step scores against: as its arguments."""
    made = HuffmanTree.from_counts(counts) if tree else AliasTable.from_counts(counts)
    return {"tree" if tree else "sampler": made}


def train_all_at_once(cbow, a, b, tokens, bound, **options):
    with library.interleaved(multiprocessors=132):
        return step(cbow, a, b, tokens, seed=SEED, max_in_flight=bound, **options)


@pytest.mark.usefixtures("nothing_reported")
@EVERY_KIND
@EVERY_LOSS
def test_vectors_are_as_good_as_those_of_one_thread(cbow, tree):
    """Held-out loss and precision at 10 after a few passes over a text with planted topics."""
    topics, window, epochs = plant(16, 12, 128, 500), 3, 3
    generator, size, found = torch.Generator().manual_seed(5), len(topics.counts), {}
    start = (torch.rand(size, 20, generator=generator) - 0.5) / 20
    options = {"window": window, "learning_rate": 0.05, **outputs(topics.counts, tree)}
    bound = max_in_flight(topics.counts.numpy(), **options)
    assert 8 <= bound <= 32
    options["total"] = epochs * len(topics.tokens)
    for name in ("one thread", "many warps"):
        a, b = start.clone(), torch.zeros(size - tree, 20)
        for position in range(0, options["total"], len(topics.tokens)):
            if name == "many warps":
                train_all_at_once(cbow, a, b, topics.tokens, bound, position=position, **options)
            else:
                one = cbow_step_ if cbow else skipgram_step_
                one(a, b, topics.tokens, position=position, seed=SEED, backend="cpu", **options)
        judged = outputs(topics.counts, tree) | {"cbow": cbow, "window": window}
        loss = held_out_loss(a, b, topics.held_out, **judged)
        found[name] = (loss, topic_precision(a, topics.topic))
    (loss, precision), (many_loss, many_precision) = found.values()
    assert many_loss <= 1.01 * loss, found
    assert many_precision >= precision - 0.01, found


@pytest.mark.usefixtures("nothing_reported")
@EVERY_LOSS
@pytest.mark.parametrize(
    ("cbow", "vocabulary", "rate"), [(False, 500, 0.05), (True, 20, 0.1)], ids=["skip-gram", "cbow"]
)
def test_frequent_words_do_not_learn_too_fast(cbow, vocabulary, rate, tree):
    """One word in seven, or in four, is the same one: with every warp that fits the loss goes up."""
    counts, tokens, (a, b) = case(vocabulary=vocabulary, tokens=10_000, width=40)
    options = {"window": 3, "learning_rate": rate, **outputs(counts, tree)}
    bound = max_in_flight(**options)
    options["total"] = 10**9
    one = cbow_step_ if cbow else skipgram_step_
    matrices, losses = (a, b[tree:]), []
    for many in (False, True):
        a, b = (m.clone() for m in matrices)
        for again in (False, True):
            if many and not again:
                seen = train_all_at_once(cbow, a, b, tokens, bound, **options)
            else:
                seen = one(a, b, tokens, seed=SEED, backend="cpu", **options)
            losses.append(seen.loss)
    assert losses[2] <= 1.01 * losses[0], losses
    assert losses[3] <= 1.01 * losses[1], losses


def test_without_a_bound_vectors_are_worse():
    """The emulation shows what the bound is for."""
    counts, tokens, matrices = case(vocabulary=500, tokens=12_000, width=40)
    options = {"window": 3, "learning_rate": 0.05, "total": 10**9, **outputs(counts, False)}
    losses = []
    for bound in (7, MOST):
        a, b = (m.clone() for m in matrices)
        losses.append(train_all_at_once(False, a, b, tokens, bound, **options).loss)
    assert losses[1] > 1.02 * losses[0]


def test_the_bound_follows_the_busiest_row():
    counts = np.array([600, 200, *[1] * 200])
    sampler, share = AliasTable.from_counts(counts), counts / counts.sum()
    noise = counts**0.75 / (counts**0.75).sum()
    copies = {
        negatives: copies_of_busiest_row(share, sampler, None, 2, negatives)
        for negatives in (0, 1, 5)
    }
    assert copies[0] == copies[1] == pytest.approx(3 * 0.6)
    assert copies[5] == pytest.approx(0.6 + 5 * noise[0])
    options = {"window": 2, "learning_rate": 0.01}
    assert max_in_flight(share, sampler=sampler, **options) == int(0.2 / 0.01 / copies[5])
    assert max_in_flight(100 * share, sampler=sampler, **options) == int(0.2 / 0.01 / copies[5])
    # Without shares they are those of the noise before its power was taken.
    assert max_in_flight(sampler=sampler, **options) == int(0.2 / 0.01 / copies[5])
    # Rare words stay in the ring for 2 * window + 1 windows.
    even, flat = np.ones(1000), AliasTable.from_counts(np.ones(1000))
    assert copies_of_busiest_row(even, flat, None, 2, 1) == pytest.approx(5 / 1000)
    tree = HuffmanTree.from_counts(counts)
    assert copies_of_busiest_row(even[:202], None, tree, 2, 0) == 0.25
    assert max_in_flight(tree=tree, window=2, learning_rate=0.1) == 8


def test_sub_words_of_many_words_are_busy():
    """Two words of four share their second row, which changes with each of them."""
    subwords = (
        torch.tensor([0, 2, 4, 5, 6]),
        torch.tensor([0, 4, 1, 4, 2, 3], dtype=torch.int32),
    )
    sampler = AliasTable.from_counts(np.ones(4))
    copies = copies_of_busiest_row(np.ones(4), sampler, None, 3, 0, subwords)
    assert copies == pytest.approx(7 * (0.25 + 0.5) / 2)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, MOST), (1e9, 1)])
def test_the_bound_has_limits(rate, expected):
    sampler = AliasTable.from_counts(np.ones(4))
    assert max_in_flight(sampler=sampler, window=1, learning_rate=rate) == expected


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_backends_without_a_bound_refuse_one(backend):
    counts, tokens, (a, b) = case(tokens=10)
    options = {"window": 1, "learning_rate": 0.1, "seed": SEED, **outputs(counts, False)}
    with pytest.raises(ValueError, match=f"max_in_flight is 3; .*{backend}.*threads"):
        skipgram_step_(a, b, tokens, max_in_flight=3, backend=backend, **options)


def test_fit_refuses_a_bound_on_the_cpu():
    model = Word2Vec(vector_size=4, min_count=1)
    for value, error in ((3, "max_in_flight is 3; expected None"), (0, "max_in_flight is 0")):
        with pytest.raises(ValueError, match=error):
            model.fit([["a", "b"]], max_in_flight=value)


@pytest.mark.parametrize("sample", [0, 1e-2])
@pytest.mark.parametrize("kind", [Word2Vec, FastText])
def test_fit_takes_the_shares_of_its_own_text(kind, sample):
    """Sub-sampling makes the most frequent word rarer, sub-words its row busier."""
    sentences = [["many"] * 30 + ["manly", "more"] * 3] * 4
    options = {"window": 2, "learning_rate": 1e-4}
    model = kind(vector_size=4, min_count=1, sample=sample, negative=3, **options)
    model.build_vocabulary(sentences)
    counts = model.vocabulary.counts
    share = counts / counts.sum()
    kept = (
        share * np.minimum((np.sqrt(share / sample) + 1) * sample / share, 1) if sample else share
    )
    sampler = AliasTable.from_counts(counts)
    options |= {"sampler": sampler, "num_negatives": 3}
    bound = model._most_in_flight(sampler, None)
    assert bound == max_in_flight(kept, subwords=model.subwords, **options)
    if kind is FastText:
        assert bound < max_in_flight(kept, **options)


@pytest.mark.interpreted
@pytest.mark.parametrize("value", [1, 2])
def test_triton_programs_share_the_text_out(value):
    """So few programs that each trains several runs of windows: every pair once."""
    counts, tokens, matrices = case(tokens=50, width=4)
    options = {"window": 2, "learning_rate": 1e-4, "total": 10**9, "seed": SEED}
    options |= outputs(counts, False)
    results = []
    for backend, bound in (("cpu", None), ("triton", value)):
        a, b = (m.double().float() for m in matrices)
        s = skipgram_step_(a, b, tokens, max_in_flight=bound, backend=backend, **options)
        results.append((a, b, s))
    (a, b, s), (ta, tb, ts) = results
    torch.testing.assert_close(ta - matrices[0], a - matrices[0], rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(tb - matrices[1], b - matrices[1], rtol=1e-2, atol=1e-6)
    assert (ts.pairs, ts.words) == (s.pairs, s.words)


@pytest.mark.interpreted
def test_triton_refuses_a_bound_of_none():
    counts, tokens, (a, b) = case(tokens=10)
    options = {"window": 1, "learning_rate": 0.1, "seed": SEED, **outputs(counts, False)}
    with pytest.raises(ValueError, match="max_in_flight is 0; expected at least 1"):
        skipgram_step_(a, b, tokens, max_in_flight=0, backend="triton", **options)
