"""The training steps of the Triton backend, interpreted, window after window, against the reference."""

import os

import numpy as np
import pytest
import torch

from ptmkernels.models import Word2Vec
from ptmkernels.ops import AliasTable, HuffmanTree, cbow_step_, skipgram_step_
from ptmkernels.ops.word_vectors import keep_thresholds, reference
from tests.ops.test_attention_runs import Counter
from tests.ops.word_vectors.test_steps import DTYPES, TOLERANCE, case, mean_change, subword_case

# On a GPU windows run at the same time: there is no order to compare with.
pytestmark = pytest.mark.interpreted
SEED = torch.tensor([77])
STEPS = pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
EVERY_OUTPUT = 1 << 20


def expected(step, matrices, tokens, outputs_at_once=EVERY_OUTPUT, **options):
    """The matrices and statistics of the reference in float64, in the order of the Triton kernels."""
    tree, sampler = options.pop("tree", None), options.pop("sampler", None)
    a, b = (m.double() for m in matrices)
    rest = {"position": 0, "keep": None, "subwords": None, "min_learning_rate": 0.0, **options}
    rest["negatives"] = 0 if tree else rest.pop("num_negatives", 5)
    rest["total"] = rest.get("total", rest["position"] + len(tokens))
    values = reference.train_step_(
        a, b, tokens, cbow=step is cbow_step_, seed=SEED, tree=tree, sampler=sampler,
        outputs_at_once=outputs_at_once, **rest,
    )  # fmt: skip
    return a, b, values


def check(step, matrices, tokens, outputs_at_once=EVERY_OUTPUT, **options):
    tolerance = options.pop("tolerance", TOLERANCE)
    ra, rb, (loss, loss_pairs, pairs, words) = expected(
        step, matrices, tokens, outputs_at_once, **options
    )
    a, b = (m.clone() for m in matrices)
    s = step(a, b, tokens, backend="triton", seed=SEED, **options)
    torch.testing.assert_close(a.double(), ra, **tolerance)
    torch.testing.assert_close(b.double(), rb, **tolerance)
    assert (s.pairs, s.words) == (pairs, words)
    assert s.loss == pytest.approx(loss / loss_pairs if loss_pairs else np.nan, 1e-2, nan_ok=True)


@STEPS
def test_negative_sampling(step):
    """Sub-sampling, places beyond 32 bits, an odd width, and negatives that are drawn twice."""
    counts, tokens, matrices = case(tokens=32)
    keep = keep_thresholds(np.linspace(0.4, 1.2, len(counts)))
    options = {"window": 3, "learning_rate": 0.05, "sampler": AliasTable.from_counts(counts)}
    check(step, matrices, tokens, keep=keep, position=2**33 - 8, total=2**34, **options)


@STEPS
def test_hierarchical_softmax(step):
    counts, tokens, (a, b) = case(tokens=50, width=20)
    tree = HuffmanTree.from_counts(counts)
    check(step, [a, b[1:]], tokens, window=2, learning_rate=0.05, tree=tree)


@pytest.mark.parametrize("negatives", [0, 1, 9])
def test_numbers_of_negatives(negatives):
    counts, tokens, matrices = case(tokens=30, width=4)
    options = {"sampler": AliasTable.from_counts(counts), "num_negatives": negatives}
    check(skipgram_step_, matrices, tokens, window=2, learning_rate=0.05, **options)


@STEPS
def test_more_outputs_than_a_program_holds(step):
    """A path in several blocks: each is trained with all contexts before the next."""
    from ptmkernels.ops.word_vectors import triton_step

    before, triton_step.MAX_TILE = triton_step.MAX_TILE, 32
    try:
        counts, tokens, (a, b) = case(tokens=30, width=16)
        assert triton_step.blocks_of(7, 16) == {"BLOCK_O": 2, "BLOCK_D": 16}
        tree = HuffmanTree.from_counts(counts)
        check(step, [a, b[1:]], tokens, 2, window=2, learning_rate=0.05, tree=tree)
    finally:
        triton_step.MAX_TILE = before


@STEPS
def test_subwords(step):
    counts, tokens, (_, b) = case(tokens=24, width=9)
    a, subwords = subword_case(len(counts), width=9)
    options = {"subwords": subwords, "sampler": AliasTable.from_counts(counts)}
    check(step, [a, b], tokens, window=3, learning_rate=0.05, **options)


@STEPS
def test_bfloat16_stays_near_the_reference(step):
    counts, tokens, matrices = case(tokens=20, width=20, dtype=torch.bfloat16)
    options = {"window": 3, "learning_rate": 0.02, "sampler": AliasTable.from_counts(counts)}
    check(step, matrices, tokens, tolerance={"rtol": 0.05, "atol": 0.03}, **options)


def test_bfloat16_rounding_has_no_drift():
    moved = {dtype: mean_change("triton", 512, 20, dtype) for dtype in DTYPES}
    assert moved[torch.float32] > 8e-4
    assert moved[torch.bfloat16] == pytest.approx(moved[torch.float32], rel=0.1)


def test_draws_are_those_of_every_backend():
    """Which words stay, how far they reach and what is drawn, from what a step changes."""
    from ptmkernels.ops.word_vectors.triton_step import word_vectors_step_

    counts, tokens, matrices = case(vocabulary=200, tokens=120, width=1)
    keep = keep_thresholds(np.linspace(0.2, 1.2, 200))
    # Over the tree of one word there is nothing to train: the counts show which words stay and their reach.
    tree = HuffmanTree.from_counts(torch.tensor([1]))
    counted = (
        tokens.clamp(max=0),
        keep[:1],
        None,
        tree.offsets,
        tree.path,
        None,
        None,
        1,
        False,
        5,
        0,
    )
    arguments = (matrices[0][:1], matrices[1][:0], *counted, 0.1, 0.0, 2**40, 2**41, SEED, 1)
    plan = word_vectors_step_(*arguments)
    assert torch.equal(plan, torch.ops.ptmkernels.word_vectors_step_(*arguments))
    # A negative's row changes by a multiple of what it was drawn: with rows of zeros, by nothing else.
    sampler, changed = AliasTable.from_counts(counts), []
    for backend in ("cpu", "triton"):
        a, b = torch.ones(200, 1), torch.zeros(200, 1)
        options = {"window": 1, "learning_rate": 1e-6, "total": 10**9, "sampler": sampler}
        skipgram_step_(a, b, tokens[:25], keep=keep, seed=SEED, backend=backend, **options)
        changed.append((b / 5e-7).round().int())
    assert torch.equal(*changed)
    assert changed[0].unique().numel() > 3


def test_no_tokens_and_one_word():
    counts, tokens, (a, b) = case(vocabulary=1, tokens=20)
    sampler = AliasTable.from_counts(counts)
    options = {"window": 2, "learning_rate": 0.05, "sampler": sampler}
    check(skipgram_step_, [a, b], tokens, **options)
    check(cbow_step_, [a, b], tokens[:0], **options)


def test_the_kernel_runs():
    counts, tokens, matrices = case(tokens=5, width=4)
    with Counter() as counter:
        skipgram_step_(
            *matrices, tokens, window=1, learning_rate=0.1, seed=SEED, backend="triton",
            sampler=AliasTable.from_counts(counts),
        )  # fmt: skip
    assert counter.counts["triton_word_vectors_step_"] == 1
    assert "word_vectors_step_" not in counter.counts


def test_word2vec_trains_with_it():
    """Forced here, as it is chosen on a GPU; a test that another process runs takes no fixture."""
    sentences = [["a", "b", "c", "d"], ["b", "a", "c"]] * 3
    vectors = {}
    for backend in ("cpu", "triton"):
        os.environ["PTMKERNELS_BACKEND"] = backend
        try:
            model = Word2Vec(vector_size=8, min_count=1, window=2, sample=0.1, learning_rate=0.1)
            vectors[backend] = model.fit(sentences, epochs=1).word_matrix()
        finally:
            del os.environ["PTMKERNELS_BACKEND"]
    assert abs(vectors["triton"] - vectors["cpu"]).max() < 1e-3
