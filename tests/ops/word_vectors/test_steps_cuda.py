"""The CUDA kernels of the training steps, executed on the CPU by the emulation of tests/simt.

The emulation runs the blocks one after the other, so that updates without locks come in the order of the
text, and the result is that of the formula. Two words within reach of each other are different here where
a sentence is longer than a warp's stretch: each place of the ring is trained as a row of its own.
"""

import numpy as np
import pytest
import torch

from ptmkernels.ops import AliasTable, HuffmanTree, cbow_step_, skipgram_step_
from ptmkernels.ops.word_vectors import keep_thresholds
from tests.ops.word_vectors.test_steps import assert_same, case, subword_case
from tests.simt.word_vectors import step

pytestmark = pytest.mark.usefixtures("nothing_reported")
SEED = torch.tensor([2**40 + 77])
BOTH = pytest.mark.parametrize("cbow", [False, True], ids=["skip-gram", "cbow"])


def different_words(vocabulary=97, tokens=400, sentence=150, dtype=torch.int32):
    """A stream in which a word comes again after `vocabulary` others."""
    ids = torch.arange(tokens, dtype=dtype) * 7 % vocabulary
    ids[sentence::sentence] = -1
    return ids


def both(cbow, matrices, tokens, **options):
    """Matrices and statistics after the kernels and after the reference in float64."""
    a, b = (m.clone() for m in matrices)
    statistics = step(cbow, a, b, tokens, seed=SEED, **options)
    actual = (a.double(), b.double(), statistics)
    a, b = (m.double() for m in matrices)
    formula = cbow_step_ if cbow else skipgram_step_
    statistics = formula(a, b, tokens, seed=SEED, backend="reference", **options)
    return actual, (a, b, statistics)


@BOTH
@pytest.mark.parametrize("width", [1, 26, 132])
def test_negative_sampling(cbow, width):
    """Sub-sampling, long places, sentences over several stretches, whole and odd vectors."""
    counts, _, matrices = case(vocabulary=97, width=width)
    options = {
        "window": 4, "learning_rate": 0.05, "sampler": AliasTable.from_counts(counts),
        "keep": keep_thresholds(np.linspace(0.5, 1.2, 97)), "position": 2**33, "total": 2**34,
    }  # fmt: skip
    assert_same(both(cbow, matrices, different_words(), **options))


@BOTH
@pytest.mark.parametrize("negatives", [0, 1, 9])
def test_numbers_of_negatives(cbow, negatives):
    """One and several groups of outputs, equal negatives among them."""
    counts, _, matrices = case(vocabulary=97, width=20)
    options = {"sampler": AliasTable.from_counts(counts), "num_negatives": negatives}
    tokens = different_words(tokens=150)
    assert_same(both(cbow, matrices, tokens, window=2, learning_rate=0.05, **options))


@BOTH
def test_more_negatives_than_a_warp_has_lanes(cbow):
    """Equal negatives become one among those that a warp draws at once: so many words that none are."""
    size = 200_000
    matrices = [torch.randn(size, 3, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    options = {"sampler": AliasTable.from_weights(np.ones(size)), "num_negatives": 40}
    tokens = torch.arange(30, dtype=torch.int32)
    assert_same(both(cbow, matrices, tokens, window=2, learning_rate=0.05, **options))


@BOTH
@pytest.mark.parametrize("vocabulary", [1, 2, 97])
def test_hierarchical_softmax(cbow, vocabulary):
    counts, tokens, (a, b) = case(vocabulary=vocabulary, width=12, tokens=40)
    if vocabulary == 97:
        tokens = different_words(tokens=150)
    options = {"window": 5, "learning_rate": 0.05, "tree": HuffmanTree.from_counts(counts)}
    if vocabulary == 2 and not cbow:  # equal words within reach: as sub-words that are words
        options["subwords"] = (torch.arange(3), torch.arange(2, dtype=torch.int32))
    assert_same(both(cbow, [a, b[1:]], tokens, **options))


@BOTH
def test_subwords(cbow):
    """Also equal words within reach, in sentences that one warp trains."""
    size = 23
    counts, tokens, (_, b) = case(vocabulary=size, width=41, tokens=50)
    a, subwords = subword_case(size)
    options = {"window": 3, "learning_rate": 0.05, "subwords": subwords}
    assert_same(both(cbow, [a, b], tokens, sampler=AliasTable.from_counts(counts), **options))


@pytest.mark.parametrize(("width", "cbow"), [(300, False), (2000, True)])
def test_rows_that_do_not_fit_into_shared_memory(width, cbow):
    counts, _, matrices = case(vocabulary=97, width=width)
    options = {"window": 45, "learning_rate": 0.02, "sampler": AliasTable.from_counts(counts)}
    assert_same(both(cbow, matrices, different_words(tokens=40), **options))


@BOTH
def test_long_sentences_are_cut_alike(cbow):
    counts, _, matrices = case(vocabulary=97, width=4)
    tokens = different_words(tokens=1400, sentence=2000)
    options = {"window": 1, "learning_rate": 0.02, "sampler": AliasTable.from_counts(counts)}
    assert_same(both(cbow, matrices, tokens, num_negatives=1, **options))


def test_more_stretches_than_blocks():
    """Each block trains several; with a small learning rate their order does not show."""
    counts, _, matrices = case(vocabulary=97, width=2)
    options = {"sampler": AliasTable.from_counts(counts), "num_negatives": 0, "total": 10**9}
    tokens = different_words(tokens=4300, sentence=500)
    assert_same(both(False, matrices, tokens, window=1, learning_rate=1e-5, **options))


@BOTH
@pytest.mark.parametrize("width", [20, 21])
def test_bfloat16_stays_near_the_reference(cbow, width):
    counts, _, matrices = case(vocabulary=97, width=width, dtype=torch.bfloat16)
    options = {"window": 3, "learning_rate": 0.02, "sampler": AliasTable.from_counts(counts)}
    # Each change of a row rounds to 8 bits.
    results = both(cbow, matrices, different_words(tokens=60), **options)
    assert_same(results, rtol=0.05, atol=0.03)


def test_bfloat16_rounding_has_no_drift():
    """Steps far below the last bit of a row still move it, by the right amount on average."""
    tokens = torch.tensor([0, 1, -1] * 30, dtype=torch.int32)
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.full((2, 1024), x, dtype=dtype) for x in (1 / 32, 1.0))
        options = {"sampler": AliasTable.from_counts(torch.tensor([1, 1])), "num_negatives": 0}
        step(False, a, b, tokens, seed=SEED, window=1, learning_rate=1e-4, total=10**9, **options)
        results[dtype] = a.double().mean().item() - 1 / 32
    assert results[torch.bfloat16] == pytest.approx(results[torch.float32], rel=0.2)


def test_rows_may_be_parts_of_wider_ones():
    counts, _, matrices = case(vocabulary=97, width=20)
    options = {"window": 3, "learning_rate": 0.05, "sampler": AliasTable.from_counts(counts)}
    wide = [torch.cat([m, torch.full((97, 11), 7.0)], 1) for m in matrices]
    tokens = different_words(tokens=70)
    step(False, *(w[:, :20] for w in wide), tokens, seed=SEED, **options)
    step(False, *matrices, tokens, seed=SEED, **options)
    for m, w in zip(matrices, wide, strict=True):
        torch.testing.assert_close(w[:, :20], m)
        assert (w[:, 20:] == 7).all()


def test_no_tokens_and_no_words():
    counts, _, (a, b) = case(vocabulary=5, width=4)
    before = a.clone()
    for tokens in ([], [-1, -1], [3], [2, -1, 4]):
        statistics = step(
            False, a, b, torch.tensor(tokens, dtype=torch.int32), seed=SEED, window=2,
            learning_rate=0.1, sampler=AliasTable.from_counts(counts),
        )  # fmt: skip
        assert (statistics.pairs, statistics.words) == (0, sum(t >= 0 for t in tokens))
    assert torch.equal(a, before)
