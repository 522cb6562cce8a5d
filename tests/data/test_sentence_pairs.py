"""BERT's pairs: labels, documents, put-back sentences, lengths, truncation."""

import numpy as np
import pytest
from scipy import stats

from ptmkernels.data import SentencePairs, encode_corpus, truncate_pairs
from ptmkernels.data.randomness import PLAN, generator_at
from tests.data.corpora import random_corpus, tokenizer

SIGNIFICANCE = 1e-4
TOKENIZER = tokenizer()


def plan_of(corpus, length=63, seed=0, stream=0, **options):
    source = SentencePairs(corpus, TOKENIZER, length, **options)
    return source, source.plan(generator_at(seed, PLAN, stream))


def documents_at(corpus, tokens):
    return np.searchsorted(corpus.document_token_starts, tokens, side="right") - 1


def test_random_next_comes_from_another_document_and_true_next_follows():
    corpus = random_corpus(60)
    _, plan = plan_of(corpus, short_probability=0.0, length=40)
    a, b = plan.segments[:, 0], plan.segments[:, 1]
    same = documents_at(corpus, a[:, 0]) == documents_at(corpus, b[:, 0])
    assert (same == ~plan.random_next).all()
    # A true pair lies in one place: what is between the segments was cut off by truncation.
    follows = ~plan.random_next
    assert (a[follows, 1] <= b[follows, 0]).all()
    assert (b[follows, 0] - a[follows, 1] < 40).all()
    for segment in (a, b):  # no segment crosses the end of a document
        assert (
            documents_at(corpus, segment[:, 0]) == documents_at(corpus, segment[:, 1] - 1)
        ).all()


def test_half_of_the_pairs_are_random():
    # Documents long enough that no chunk is a single sentence, which is random by necessity.
    corpus = random_corpus(200, sentences=(40, 60), tokens=(3, 9))
    _, plan = plan_of(corpus, length=63, short_probability=0.0)
    last = np.isin(plan.segments[:, 0, 1], corpus.document_token_starts)
    labels = plan.random_next[~last]
    counts = [labels.sum(), (~labels).sum()]
    assert sum(counts) > 1000
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_every_other_document_is_equally_likely():
    corpus = random_corpus(8, sentences=(300, 301), tokens=(3, 9))
    picks = np.zeros(8)
    for stream in range(10):
        _, plan = plan_of(corpus, stream=stream)
        own = documents_at(corpus, plan.segments[:, 0, 0])
        other = documents_at(corpus, plan.segments[:, 1, 0])
        picks += np.bincount(other[(own == 0) & plan.random_next], minlength=8)
    assert picks[0] == 0
    assert stats.chisquare(picks[1:]).pvalue > SIGNIFICANCE


def test_displaced_sentences_come_again():
    # Every sentence but the last of a document stands in some A or true B: nothing is lost.
    corpus = random_corpus(40, sentences=(5, 20), tokens=(2, 6))
    _, plan = plan_of(corpus, length=4000, short_probability=0.0)
    covered = np.zeros(corpus.num_tokens, dtype=int)
    for (a, b), random_next in zip(plan.segments, plan.random_next, strict=True):
        covered[slice(*a)] += 1
        if not random_next:
            covered[slice(*b)] += 1
    assert (covered == 1).all()


def test_one_document_in_ten_is_short():
    corpus = random_corpus(6000, sentences=(30, 31), tokens=(1, 2))
    _, plan = plan_of(corpus, length=18)  # 15 tokens beside the special ones
    first = np.isin(plan.segments[:, 0, 0], corpus.document_token_starts[:-1])
    lengths = (plan.segments[first, :, 1] - plan.segments[first, :, 0]).sum(1)
    # A target drawn from 2..15 is 15 itself once in 14. A random B may end with its document.
    ends = np.isin(plan.segments[first, 1, 1], corpus.document_token_starts)
    short = (lengths < 15)[~(plan.random_next[first] & ends)]
    expected = 0.1 * 13 / 14
    counts = [short.sum(), (~short).sum()]
    assert stats.chisquare(counts, np.array([expected, 1 - expected]) * len(short)).pvalue > 1e-4


def test_truncation_equals_taking_tokens_one_by_one():
    """Lengths exactly; the split between front and back in distribution."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 40, size=(500, 2))
    start = np.array([1000, 5000])
    segments = np.stack([np.broadcast_to(start, lengths.shape), start + lengths], axis=-1)
    cut = truncate_pairs(segments, 30, rng)
    for (a, b), row in zip(lengths.tolist(), cut, strict=True):
        while a + b > 30:
            if a > b:
                a -= 1
            else:
                b -= 1
        assert (row[:, 1] - row[:, 0]).tolist() == [a, b]
    assert (cut[..., 0] >= segments[..., 0]).all()
    assert (cut[..., 1] <= segments[..., 1]).all()
    # A of 26 and B of 14 lose ten tokens of A.
    many = np.broadcast_to(np.array([[[0, 26], [0, 14]]]), (4000, 2, 2))
    front = truncate_pairs(many, 30, rng)[:, 0, 0]
    expected = stats.binom.pmf(np.arange(11), 10, 0.5) * 4000
    assert stats.chisquare(np.bincount(front, minlength=11), expected).pvalue > SIGNIFICANCE


def test_layout_of_an_example():
    documents = [["the quick dog.", "a lazy fox."], ["it is used.", "for a dog."]]
    corpus = encode_corpus(documents, TOKENIZER)
    source, plan = plan_of(corpus, length=63, short_probability=0.0)
    assert len(plan) >= 2
    for index in range(len(plan)):
        example = source.example(plan, index)
        tokens = TOKENIZER.decode(example.input_ids.tolist()).split()
        assert tokens[0] == "[CLS]"
        assert tokens[-1] == "[SEP]"
        assert tokens.count("[SEP]") == 2
        special = np.isin(example.input_ids, [TOKENIZER.cls_id, TOKENIZER.sep_id])
        assert (example.eligible == ~special).all()
        first_sep = int(np.flatnonzero(example.input_ids == TOKENIZER.sep_id)[0])
        assert (example.token_type_ids == (np.arange(len(special)) > first_sep)).all()
        assert example.labels == {"next_sentence_label": int(plan.random_next[index])}


def test_lengths_never_exceed_the_limit():
    corpus = random_corpus(50, tokens=(1, 90))
    for length in (5, 26, 41, 63):
        source, plan = plan_of(corpus, length=length)
        sizes = (plan.segments[..., 1] - plan.segments[..., 0]).sum(1)
        assert sizes.max() <= length - 3
        assert (plan.segments[..., 1] > plan.segments[..., 0]).all()
        assert len(source.example(plan, 0).input_ids) == sizes[0] + 3


def test_a_single_document_is_refused():
    with pytest.raises(ValueError, match="one document"):
        SentencePairs(random_corpus(1), TOKENIZER, 63)
    with pytest.raises(ValueError, match="max_length is 4"):
        SentencePairs(random_corpus(2), TOKENIZER, 4)
    with pytest.raises(ValueError, match="short_probability"):
        SentencePairs(random_corpus(2), TOKENIZER, 63, 1.5)
