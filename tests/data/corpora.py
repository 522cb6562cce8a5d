"""Small corpora whose sampling is easy to reason about."""

import numpy as np

from ptmkernels.data import EncodedCorpus, WordPieceTokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A slicing selects a range of items in a sequence.",
    "Unbelievable transformations were understood immediately.",
    "It is used for conditional execution, is it not?",
]


def tokenizer(size=120):
    return WordPieceTokenizer.learn(SENTENCES * 3, size)


def random_corpus(num_documents, seed=0, sentences=(3, 30), tokens=(1, 25), vocab=(5, 100)):
    """Documents of random tokens; token t of document d cannot be told from others, offsets can."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(*sentences, size=num_documents)
    lengths = rng.integers(*tokens, size=counts.sum())
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return EncodedCorpus(
        rng.integers(*vocab, size=starts[-1]).astype(np.uint16),
        starts.astype(np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def topical_corpus(num_documents, seed=0, topics=8):
    """Documents of one token each, of `topics` tokens: the others in the row tell what a masked token was."""
    corpus = random_corpus(num_documents, seed)
    topic = np.random.default_rng(seed).integers(5, 5 + topics, size=num_documents)
    tokens = np.repeat(topic, np.diff(corpus.document_token_starts)).astype(np.uint16)
    return EncodedCorpus(tokens, corpus.sentence_starts, corpus.document_starts)
