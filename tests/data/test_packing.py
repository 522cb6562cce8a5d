"""Full sentences: everything once, whole where it fits, separators between documents."""

import numpy as np
import pytest

from ptmkernels.data import FullSentences
from tests.data.corpora import random_corpus, tokenizer

TOKENIZER = tokenizer()


@pytest.mark.parametrize("cross", [True, False], ids=["full", "doc"])
@pytest.mark.parametrize("length", [3, 26, 63])
def test_every_token_once_and_in_order(length, cross):
    corpus = random_corpus(30, tokens=(1, 90))
    source = FullSentences(corpus, TOKENIZER, length, cross_documents=cross)
    plan = source.plan(np.random.default_rng(0))
    seen = []
    for index in range(len(plan)):
        example = source.example(plan, index)
        assert len(example.input_ids) <= length
        assert example.input_ids[0] == TOKENIZER.cls_id
        assert example.input_ids[-1] == TOKENIZER.sep_id
        assert (example.input_ids[1:-1][~example.eligible[1:-1]] == TOKENIZER.sep_id).all()
        seen.append(example.input_ids[example.eligible])
    assert (np.concatenate(seen) == corpus.tokens).all()


@pytest.mark.parametrize("cross", [True, False], ids=["full", "doc"])
def test_as_many_whole_sentences_as_fit(cross):
    corpus = random_corpus(30, tokens=(1, 12))
    length = 41
    source = FullSentences(corpus, TOKENIZER, length, cross_documents=cross)
    plan = source.plan(np.random.default_rng(0))
    starts, documents = corpus.sentence_starts, corpus.document_token_starts
    assert np.isin(plan.ranges, starts).all()
    for index in range(len(plan) - 1):
        start, end = plan.ranges[index]
        breaks = ((start < documents) & (documents < end)).sum()
        used = end - start + breaks
        assert len(source.example(plan, index).input_ids) == used + 2
        following = starts[np.searchsorted(starts, end) + 1] - end + (end in documents)
        if cross:
            assert used + following > length - 2
        else:
            assert breaks == 0
            assert end in documents or used + following > length - 2


def test_no_room_for_text():
    with pytest.raises(ValueError, match="max_length is 2"):
        FullSentences(random_corpus(2), TOKENIZER, 2)
