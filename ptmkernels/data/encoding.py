"""A tokenised corpus as three flat arrays: tokens, where sentences start, where documents start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ptmkernels.data.tokenizer import WordPieceTokenizer

__all__ = ["EncodedCorpus", "encode_corpus"]

_BATCH_SENTENCES = 8192  # what is tokenised at a time


@dataclass(frozen=True, eq=False)
class EncodedCorpus:
    """Documents of sentences of tokens; none of them empty.

    Args:
        tokens: (T,) ids, document after document.
        sentence_starts: (S + 1,) int64, first token of each sentence, and T.
        document_starts: (N + 1,) int64, first sentence of each document, and S.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    document_starts: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_sentences(self) -> int:
        return len(self.sentence_starts) - 1

    @property
    def num_documents(self) -> int:
        return len(self.document_starts) - 1

    @property
    def document_token_starts(self) -> np.ndarray:
        """(N + 1,) int64, first token of each document, and T."""
        return self.sentence_starts[self.document_starts]


def encode_corpus(documents: Iterable[list[str]], tokenizer: WordPieceTokenizer) -> EncodedCorpus:
    """Tokenise documents; sentences without a token, and documents without a sentence, are left out.

    Raises:
        ValueError: no token is left.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    tokens, sentence_lengths, document_lengths = [], [], []
    for batch in _batches(documents):
        lengths, parts = [], []
        for ids in tokenizer.encode([sentence for document in batch for sentence in document]):
            lengths.append(len(ids))
            parts += ids
        tokens.append(np.array(parts, dtype=dtype))
        bounds = np.cumsum([0, *map(len, batch)])
        filled = np.concatenate([[0], np.cumsum(np.array(lengths) > 0)])
        document_lengths.append(np.diff(filled[bounds]))
        sentence_lengths.append(np.array(lengths))
    if not tokens or not sum(map(len, tokens)):
        raise ValueError("the corpus holds no token")
    return EncodedCorpus(
        np.concatenate(tokens), _starts(sentence_lengths), _starts(document_lengths)
    )


def _batches(documents: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    count = 0
    for document in documents:
        batch.append(document)
        count += len(document)
        if count >= _BATCH_SENTENCES:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _starts(lengths: list[np.ndarray]) -> np.ndarray:
    lengths = np.concatenate(lengths)
    return np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64)
