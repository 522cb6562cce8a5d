"""Long text cut into segments for models with memory: each row of a batch goes on where it was.

The corpus is one stream of tokens, cut into as many rows as all processes have in a batch. Batch t holds
segment t of every row, a pure function of the place in the data as for
:class:`ptmkernels.data.MaskedDataset`.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptmkernels.data.dataset import Cursor
from ptmkernels.data.encoding import EncodedCorpus
from ptmkernels.data.permutation import Permutation
from ptmkernels.data.randomness import MASKING, generator_at
from ptmkernels.data.tokenizer import WordPieceTokenizer

__all__ = ["CausalSegments", "PermutedSegments", "SegmentDataset"]


class SegmentDataset(ABC):
    """Segments of a stream, epoch after epoch.

    Args:
        corpus: its documents get a separator each at the end.
        tokenizer: gives the special tokens.
        batch_size: rows of a batch of one process.
        num_processes: how many take turns.
        length: L, tokens of a segment.
        stride: how far a row goes on from segment to segment.
        seed: of everything drawn.

    Raises:
        ValueError: the text is too short for one segment a row.
    """

    def __init__(
        self,
        corpus: EncodedCorpus,
        tokenizer: WordPieceTokenizer,
        *,
        batch_size: int,
        num_processes: int = 1,
        length: int,
        stride: int,
        seed: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.batch_size, self.length, self.stride, self.seed = batch_size, length, stride, seed
        self.num_rows = batch_size * num_processes
        ends = corpus.document_token_starts[1:]
        self.tokens = np.insert(corpus.tokens.astype(np.int64), ends, tokenizer.sep_id)
        self.row_length = len(self.tokens) // self.num_rows
        self.steps = (self.row_length - 1 - length) // stride + 1
        if self.row_length <= length:
            raise ValueError(
                f"the text has {len(self.tokens)} tokens, {self.row_length} for each of {self.num_rows} "
                f"rows; expected more than a segment's {length}"
            )

    def row(self, number: int, values: np.ndarray) -> np.ndarray:
        """Row `number` of `tokens`, or of other values of each token."""
        return values[number * self.row_length : (number + 1) * self.row_length]

    def epoch_length(self, epoch: int) -> int:
        """The number of segments, the same in every epoch."""
        return self.steps * self.num_rows

    def __len__(self) -> int:
        return self.epoch_length(0)

    def advance(self, cursor: Cursor, count: int) -> Cursor:
        """The place `count` segments further on."""
        epochs, position = divmod(cursor.position + count, len(self))
        return Cursor(cursor.epoch + epochs, position)

    def batch(self, cursor: Cursor, count: int) -> dict[str, Tensor]:
        """The `count` segments from a place on.

        Returns:
            What :meth:`segment` gives, stacked; `attention_mask` (B, L) of ones; `continues` (B,) booleans,
            false where a row begins.
        """
        segments, steps = [], []
        for offset in range(count):
            place = self.advance(cursor, offset)
            step, row = divmod(place.position, self.num_rows)
            rng = generator_at(self.seed, MASKING, place.epoch, place.position)
            segments.append(self.segment(row, step, rng))
            steps.append(step)
        batch = {name: np.stack([s[name] for s in segments]) for name in segments[0]}
        batch["attention_mask"] = np.ones((count, self.length), dtype=np.int64)
        batch["continues"] = np.array(steps) > 0
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    @abstractmethod
    def segment(self, row: int, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One segment; subclasses say what a model needs."""

    def __getitem__(self, place: tuple[Cursor, int]) -> dict[str, Tensor]:
        """:meth:`batch` for a loader."""
        return self.batch(*place)

    def epoch_batch(self, number: int, size: int) -> dict[str, Tensor]:
        """Batch `number` of the first epoch."""
        return self.batch(Cursor(0, number * size), size)

    def fingerprint(self) -> dict[str, Any]:
        """What the segments depend on, for a run that goes on to make sure of."""
        first = self.batch(Cursor(), self.batch_size)
        return {
            "seed": self.seed,
            "rows": self.num_rows,
            "examples": len(self),
            "tokens": zlib.crc32(self.tokens.tobytes()),
            "batch": zlib.crc32(b"".join(first[name].numpy().tobytes() for name in sorted(first))),
        }


class CausalSegments(SegmentDataset):
    """Segments one after another, with the next token of each as its label (Transformer-XL)."""

    def segment(self, row: int, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`input_ids` and `labels`, (L,) each."""
        start = step * self.stride
        text = self.row(row, self.tokens)[start : start + self.length + 1]
        return {"input_ids": text[:-1], "labels": text[1:]}


class PermutedSegments(SegmentDataset):
    """XLNet's segments: [text that is remembered | A | SEP | B | SEP | CLS], permuted.

    A goes on after the remembered text and ends with a sentence. Half of the time B goes on after A, half of
    the time it begins with a sentence anywhere in the row. The second half of a batch holds the same text as
    the first, backwards.

    Args:
        permutation: the sampler.
        others: as for :class:`SegmentDataset`; `stride` is the length that is remembered.

    Raises:
        ValueError: the batch size is odd, or as for :class:`SegmentDataset`.
    """

    def __init__(
        self, corpus: EncodedCorpus, *arguments: Any, permutation: Permutation, **options: Any
    ) -> None:
        super().__init__(corpus, *arguments, **options)
        if self.batch_size % 2:
            raise ValueError(
                f"batch_size is {self.batch_size}; expected an even number, half of it backwards"
            )
        self.permutation = permutation
        sentences = np.repeat(np.arange(corpus.num_sentences), np.diff(corpus.sentence_starts))
        ends = corpus.document_token_starts[1:]
        self.sentences = np.insert(sentences, ends, sentences[ends - 1])

    def backwards(self, number: int) -> bool:
        """Whether row `number` is in the second half of its batch."""
        return number % self.batch_size >= self.batch_size // 2

    def row(self, number: int, values: np.ndarray) -> np.ndarray:
        """As :meth:`SegmentDataset.row`; those of the second half are of the first, reversed."""
        if self.backwards(number):
            return super().row(number - self.batch_size // 2, values)[::-1]
        return super().row(number, values)

    def segment(self, row: int, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`input_ids`, `token_type_ids`, `perm_rank` (L,), `target_mapping` and `labels` (P,)."""
        tokenizer, text = self.tokenizer, self.row(row, self.tokens)
        start = step * self.stride
        middle = start + self.stride
        a, b = self._two_texts(text, self.row(row, self.sentences), middle, rng)
        sep = [tokenizer.sep_id]
        ids = np.concatenate([text[start:middle], a, sep, b, sep, [tokenizer.cls_id]])
        functional = np.isin(ids, [tokenizer.sep_id, tokenizer.cls_id])
        begins = ~tokenizer.continues_word[ids]
        order = self.permutation(ids, begins, functional, rng, backwards=self.backwards(row))
        return {
            "input_ids": ids,
            "token_type_ids": np.repeat([0, 1, 2], [self.stride + len(a) + 1, len(b) + 1, 1]),
            "perm_rank": order.rank,
            "target_mapping": order.targets,
            "labels": order.labels,
        }

    def _two_texts(
        self, text: np.ndarray, sentences: np.ndarray, begin: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A, from `begin` on, and B; together they fill the segment."""
        room = self.length - self.stride - 3
        cuts = np.flatnonzero(np.diff(sentences[begin : begin + room])) + 1
        size = int(rng.choice(cuts)) if len(cuts) else int(rng.integers(1, room))
        other = begin + size
        if rng.random() < 0.5:
            other = int(rng.integers(len(text) - (room - size) + 1))
            other = int(np.flatnonzero(sentences == sentences[min(other, len(text) - 1)])[0])
        return text[begin : begin + size], text[other : other + room - size]
