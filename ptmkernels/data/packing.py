"""RoBERTa's training examples: as many whole sentences as fit, across documents or not.

Liu et al. 2019, section 4.2, FULL-SENTENCES and DOC-SENTENCES. No next-sentence task, one segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptmkernels.data.encoding import EncodedCorpus
from ptmkernels.data.examples import Example
from ptmkernels.data.tokenizer import WordPieceTokenizer

__all__ = ["FullSentences", "PackPlan"]

SPECIAL = 2  # [CLS] … [SEP]


@dataclass(frozen=True, eq=False)
class PackPlan:
    """The examples of one pass: (N, 2) int64, first and end token of each in the corpus."""

    ranges: np.ndarray

    def __len__(self) -> int:
        return len(self.ranges)


class FullSentences:
    """An example source (see :mod:`ptmkernels.data.examples`) of packed sentences.

    A sentence that is longer than an example is cut. Where a new document begins within an example, an
    extra [SEP] stands before it.

    Args:
        corpus: the text.
        tokenizer: gives the special tokens.
        max_length: L at most, special tokens included.
        cross_documents: go on with the next document where one ends (FULL-SENTENCES).

    Raises:
        ValueError: `max_length` leaves no room for text.
    """

    def __init__(
        self,
        corpus: EncodedCorpus,
        tokenizer: WordPieceTokenizer,
        max_length: int,
        cross_documents: bool = True,
    ) -> None:
        if max_length <= SPECIAL:
            raise ValueError(f"max_length is {max_length}; expected more than {SPECIAL}")
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.max_tokens = max_length - SPECIAL
        self.cross_documents = cross_documents
        self._plan = PackPlan(self._ranges())

    def plan(self, rng: np.random.Generator) -> PackPlan:
        """The examples of one pass over the corpus; always the same, nothing is drawn."""
        return self._plan

    def _ranges(self) -> np.ndarray:
        documents = self.corpus.document_token_starts
        bounds = _cut_long(self.corpus.sentence_starts, self.max_tokens)
        begins = np.isin(bounds[:-1], documents)  # pieces that begin a document
        # Tokens and separators of all pieces before; the separator of a first piece is spared.
        length = bounds + np.concatenate([[0], np.cumsum(begins)])
        next_document = np.searchsorted(bounds, documents)
        ranges, start = [], 0
        while start < len(begins):
            room = length[start] + begins[start] + self.max_tokens
            end = int(np.searchsorted(length, room, side="right")) - 1
            if not self.cross_documents:
                end = min(end, int(next_document[np.searchsorted(next_document, start, "right")]))
            ranges.append((bounds[start], bounds[end]))
            start = end
        return np.array(ranges, dtype=np.int64)

    def example(self, plan: PackPlan, index: int) -> Example:
        """[CLS] sentences [SEP], and a [SEP] between documents."""
        start, end = plan.ranges[index]
        documents = self.corpus.document_token_starts
        # Documents that begin after the first token and before the end.
        first, last = documents.searchsorted([start + 1, end])
        breaks = documents[first:last] - start
        text = self.corpus.tokens[start:end].astype(np.int64)
        sep = self.tokenizer.sep_id
        inner = np.insert(text, breaks, sep)
        ids = np.concatenate([[self.tokenizer.cls_id], inner, [sep]])
        eligible = np.insert(np.ones(len(text), dtype=bool), breaks, False)
        eligible = np.concatenate([[False], eligible, [False]])
        return Example(ids, eligible, np.zeros(len(ids), dtype=np.int64), {})


def _cut_long(starts: np.ndarray, most: int) -> np.ndarray:
    """(P + 1,) bounds of pieces of at most `most` tokens: sentences, and parts of those that are longer."""
    lengths = np.diff(starts)
    pieces = -(-lengths // most)
    first = np.repeat(starts[:-1], pieces)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.append(first + number * most, starts[-1])
