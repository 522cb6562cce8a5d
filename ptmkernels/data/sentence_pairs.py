"""BERT's training examples: two segments, the second of which follows the first or comes from elsewhere.

Devlin et al. 2019, section 3.1 and appendix A.2, in the detail of the released data script: a document's
sentences are gathered until they reach the target length; the chunk is cut in two at a random sentence;
half of the time the second part is replaced by sentences of another document, and the sentences that it
displaced are used again for the next example. One document in ten aims at a random shorter length.

Segments are contiguous, so an example is four token offsets and a label, whatever its length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptmkernels.data.encoding import EncodedCorpus
from ptmkernels.data.examples import Example
from ptmkernels.data.tokenizer import WordPieceTokenizer

__all__ = ["PairPlan", "SentencePairs", "truncate_pairs"]

SPECIAL = 3  # [CLS] A [SEP] B [SEP]


@dataclass(frozen=True, eq=False)
class PairPlan:
    """The examples of one pass.

    Args:
        segments: (N, 2, 2) int64, first and end token of segments A and B in the corpus.
        random_next: (N,) booleans, B does not follow A.
    """

    segments: np.ndarray
    random_next: np.ndarray

    def __len__(self) -> int:
        return len(self.random_next)


class SentencePairs:
    """An example source (see :mod:`ptmkernels.data.examples`) of BERT's pairs.

    Args:
        corpus: at least two documents.
        tokenizer: gives the special tokens.
        max_length: L at most, special tokens included.
        short_probability: share of the documents that aim at a random shorter length.

    Raises:
        ValueError: the corpus has a single document, or a number is out of range.
    """

    def __init__(
        self,
        corpus: EncodedCorpus,
        tokenizer: WordPieceTokenizer,
        max_length: int,
        short_probability: float = 0.1,
    ) -> None:
        if corpus.num_documents < 2:
            raise ValueError(
                "the corpus has one document, and the next-sentence task draws from another; put a blank "
                "line between documents, or train without the next-sentence task"
            )
        if max_length < SPECIAL + 2:
            raise ValueError(f"max_length is {max_length}; expected at least {SPECIAL + 2}")
        if not 0.0 <= short_probability <= 1.0:
            raise ValueError(f"short_probability is {short_probability}; expected 0 <= p <= 1")
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.max_tokens = max_length - SPECIAL
        self.short_probability = short_probability

    def plan(self, rng: np.random.Generator) -> PairPlan:
        """Draw the examples of one pass over the corpus."""
        pairs = [
            pair
            for document in range(self.corpus.num_documents)
            for pair in self._pairs_of(document, rng)
        ]
        segments = np.array([pair[:4] for pair in pairs], dtype=np.int64).reshape(-1, 2, 2)
        random_next = np.array([pair[4] for pair in pairs], dtype=bool)
        return PairPlan(truncate_pairs(segments, self.max_tokens, rng), random_next)

    def _pairs_of(self, document: int, rng: np.random.Generator):
        """(first and end token of A, first and end token of B, random next?) of a document."""
        starts = self.corpus.sentence_starts
        sentence, last = self.corpus.document_starts[document : document + 2].tolist()
        target = self.max_tokens
        if rng.random() < self.short_probability:
            target = int(rng.integers(2, self.max_tokens + 1))
        while sentence < last:
            end = self._end_of_chunk(sentence, last, target)
            split = sentence + 1
            if end - sentence > 1:
                split = int(rng.integers(sentence + 1, end))
            # A chunk of one sentence has nothing that could follow.
            random_next = end - sentence == 1 or rng.random() < 0.5
            first, middle = int(starts[sentence]), int(starts[split])
            if random_next:
                second = self._random_segment(document, target - (middle - first), rng)
                sentence = split  # what B displaced comes again
            else:
                second = (middle, int(starts[end]))
                sentence = end
            yield first, middle, *second, random_next

    def _end_of_chunk(self, sentence: int, last: int, target: int) -> int:
        """The first sentence that is no more needed to have `target` tokens, or the end of the document."""
        starts = self.corpus.sentence_starts
        reached = int(starts.searchsorted(starts[sentence] + target))
        return min(max(reached, sentence + 1), last)

    def _random_segment(
        self, document: int, target: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Sentences of another document, from a random one on."""
        other = int(rng.integers(self.corpus.num_documents - 1))
        other += other >= document
        first, last = self.corpus.document_starts[other : other + 2].tolist()
        sentence = int(rng.integers(first, last))
        end = self._end_of_chunk(sentence, last, target)
        starts = self.corpus.sentence_starts
        return int(starts[sentence]), int(starts[end])

    def example(self, plan: PairPlan, index: int) -> Example:
        """[CLS] A [SEP] B [SEP]; `next_sentence_label` is 0 where B follows A, 1 where it does not."""
        tokens = self.corpus.tokens
        (a_start, a_end), (b_start, b_end) = plan.segments[index]
        a_len, b_len = a_end - a_start, b_end - b_start
        ids = np.full(a_len + b_len + SPECIAL, self.tokenizer.sep_id, dtype=np.int64)
        ids[0] = self.tokenizer.cls_id
        ids[1 : a_len + 1] = tokens[a_start:a_end]
        ids[a_len + 2 : -1] = tokens[b_start:b_end]
        eligible = np.ones(len(ids), dtype=bool)
        eligible[[0, a_len + 1, -1]] = False
        segments = np.zeros(len(ids), dtype=np.int64)
        segments[a_len + 2 :] = 1
        labels = {"next_sentence_label": int(plan.random_next[index])}
        return Example(ids, eligible, segments, labels)


def truncate_pairs(segments: np.ndarray, max_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Cut pairs to `max_tokens` as BERT does: one token at a time from the longer, front or back by a coin.

    Taken together: the longer loses until both are equal, then B and A in turn; and of the tokens that a
    segment loses, a binomial number goes at the front.

    Args:
        segments: (N, 2, 2) first and end token of A and B; not changed.
        max_tokens: of both together.
        rng: the source of the coins.

    Returns:
        (N, 2, 2) int64.
    """
    lengths = segments[..., 1] - segments[..., 0]
    excess = np.maximum(lengths.sum(1) - max_tokens, 0)
    a_len, b_len = lengths[:, 0], lengths[:, 1]
    from_longer = np.minimum(excess, np.abs(a_len - b_len))
    rest = excess - from_longer
    lost = np.stack(
        [
            np.where(a_len > b_len, from_longer, 0) + rest // 2,
            np.where(b_len > a_len, from_longer, 0) + (rest + 1) // 2,
        ],
        axis=1,
    )
    front = rng.binomial(lost, 0.5)
    return np.stack([segments[..., 0] + front, segments[..., 1] - (lost - front)], axis=-1)
