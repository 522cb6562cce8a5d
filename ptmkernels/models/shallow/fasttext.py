"""fastText: a word is the mean of its own row and those of its character n-grams.

Bojanowski et al., "Enriching word vectors with subword information" (TACL 2017).
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from ptmkernels._corpus import subword_buckets
from ptmkernels.data.word_stream import Vocabulary
from ptmkernels.models.shallow.fasttext_file import FastTextFile, read_fasttext, write_fasttext
from ptmkernels.models.shallow.product_quantiser import QuantisedMatrix
from ptmkernels.models.shallow.vectors import as_words, sum_of_units
from ptmkernels.models.shallow.word2vec import LOSSES, Word2Vec, Word2VecConfig
from ptmkernels.ops.word_vectors.checks import check_whole
from ptmkernels.registry import Card, register

__all__ = ["FastText"]

_WORDS = 1 << 16  # whose vectors are made at once


@dataclasses.dataclass
class FastTextConfig(Word2VecConfig):
    """Options of :class:`FastText`, with its published defaults."""

    sample: float = 1e-4
    noise_power: float = 0.5
    min_n: int = 3
    max_n: int = 6
    bucket: int = 2_000_000

    def __post_init__(self) -> None:
        self.learning_rate = 0.05 if self.learning_rate is None else self.learning_rate
        super().__post_init__()
        check_ngrams(self.min_n, self.max_n, self.bucket)


def check_ngrams(min_n: int, max_n: int, bucket: int) -> None:
    """Lengths of character n-grams, of which max_n 0 means none, and the rows that they are hashed to."""
    for name, value in (("min_n", min_n), ("max_n", max_n)):
        check_whole(name, value, 0)
    check_whole("bucket", bucket, 1, 2**31 - 1)
    if max_n and min_n > max_n:
        raise ValueError(
            f"min_n is {min_n} and max_n {max_n}; expected 0 <= min_n <= max_n, or max_n 0 for none"
        )


def as_bytes(word: str) -> bytes:
    """A word of a file of fastText as it stands there: bytes that are not UTF-8 are lone surrogates."""
    return word.encode("utf-8", "surrogateescape")


class FastText(Word2Vec):
    """word2vec with sub-words: words that were never seen have vectors, too.

    Args:
        options: those of :class:`Word2Vec` with other defaults (sample 1e-4, noise_power 0.5,
            learning_rate 0.05), and min_n, max_n (characters of an n-gram; max_n 0 = none), bucket (rows
            for n-grams).
    """

    config_class = FastTextConfig
    _foreign_loss: str | None = None  # of the file that it was read from, if that is none of ours

    def _prepare_rows(self) -> int:
        words = self.vocabulary.words
        self._index = {word: i for i, word in enumerate(words)}
        offsets, buckets = self._buckets(words)
        own = np.arange(len(words))
        # Each word's own row goes before its n-grams'.
        rows = np.insert(buckets.astype(np.int64) + len(words), offsets[:-1], own)
        self.subwords = (
            torch.from_numpy(offsets + np.arange(len(offsets))),
            torch.from_numpy(rows.astype(np.int32)),
        )
        return len(words) + self._hashed_rows()

    def _hashed_rows(self) -> int:
        return self.config.bucket if self.config.max_n else 0

    def _buckets(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self.config.max_n == 0:
            return np.zeros(len(words) + 1, np.int64), np.empty(0, np.int32)
        encoded = [as_bytes(word) for word in words]
        return subword_buckets(encoded, self.config.min_n, self.config.max_n, self.config.bucket)

    def subword_ids(self, word: str) -> np.ndarray:
        """The input rows whose mean is the vector of a word, known or not, int64."""
        size = len(self._trained())
        ids = self._buckets([word])[1].astype(np.int64) + size
        own = self._index.get(word)
        return ids if own is None else np.insert(ids, 0, own)

    def vector(self, word: str) -> np.ndarray:
        """The vector of any word, (D,); zeros where it has no n-gram."""
        ids = self.subword_ids(word)
        if not len(ids):
            return np.zeros(self.config.vector_size, np.float32)
        return self.input[ids, : self.config.vector_size].mean(0).numpy()

    def most_similar(self, positive, negative=(), count: int = 10) -> list[tuple[str, float]]:
        """See :meth:`WordVectors.most_similar`; the words need not be known.

        Raises:
            KeyError: a word is not known and has no n-gram.
        """
        positive, negative = as_words(positive), as_words(negative)
        for word in (*positive, *negative):
            if not len(self.subword_ids(word)):
                raise KeyError(f"{word!r} is not in the vocabulary and has no n-gram")
        vectors = ([self.vector(word) for word in words] for words in (positive, negative))
        return self.wv.nearest(sum_of_units(*vectors), count, {*positive, *negative})

    def word_matrix(self) -> np.ndarray:
        size = len(self._trained())
        offsets, rows = self.subwords
        vectors = np.empty((size, self.config.vector_size), np.float32)
        for start in range(0, size, _WORDS):
            ends = offsets[start : start + _WORDS + 1]
            ids = rows[ends[0] : ends[-1]].long()
            means = embedding_bag(
                ids, self.input, ends - ends[0], mode="mean", include_last_offset=True
            )
            vectors[start : start + _WORDS] = means[:, : self.config.vector_size]
        return vectors

    def save_fasttext(self, path: str | os.PathLike) -> None:
        """Write the .bin file of fastText 0.9.2 (version 12)."""
        self._check_own_loss("saved")
        config, vocabulary = self.config, self._trained()
        width = config.vector_size
        output = self.output[:, :width].numpy()
        if config.loss == "hierarchical-softmax":
            output = np.concatenate([output, np.zeros((1, width), np.float32)])
        file = FastTextFile(
            loss=config.loss, architecture=config.architecture, window=config.window,
            min_count=config.min_count, negative=config.negative, word_ngrams=1,
            bucket=self._hashed_rows(), min_n=config.min_n, max_n=config.max_n, sample=config.sample,
            words=vocabulary.words, counts=vocabulary.counts, labels=0,
            input=self.input[:, :width].numpy(), output=output,
        )  # fmt: skip
        write_fasttext(path, file)

    @classmethod
    def load_fasttext(cls, path: str | os.PathLike) -> FastText:
        """Read a .bin file of fastText's word vectors (skip-gram or cbow).

        What was trained with a loss that is none of ours ("softmax", "one-vs-all") has vectors, but cannot
        be trained on or saved. Words that are not UTF-8 keep their bytes as lone surrogates.

        Raises:
            ValueError: the file is no such one; the message says what it is.
        """
        file = read_fasttext(path)
        if file.architecture == "classifier" or isinstance(file.input, QuantisedMatrix):
            raise ValueError(
                f"{path} holds a {file.architecture} with {file.loss}; expected word vectors (cbow or "
                "skip-gram) that are not quantised: classifiers are read by FastTextClassifier"
            )
        known = file.loss in LOSSES
        model = cls(
            vector_size=file.width, window=file.window, min_count=max(file.min_count, 1),
            negative=file.negative, loss=file.loss if known else LOSSES[0], architecture=file.architecture,
            bucket=max(file.bucket, 1), min_n=file.min_n, max_n=file.max_n, sample=file.sample,
        )  # fmt: skip
        # A text with words that look like labels: they have rows in no matrix.
        words = len(file.words) - file.labels
        model._begin(Vocabulary(file.words[:words], file.counts[:words]))
        for target, matrix in ((model.input, file.input), (model.output, file.output)):
            target[:, : file.width] = torch.from_numpy(matrix[: len(target)].copy())
        model._foreign_loss = None if known else file.loss
        return model

    def fit(self, *args, **options) -> FastText:
        """See :meth:`Word2Vec.fit`.

        Raises:
            ValueError: as there; or the model was read from a file with a loss that is none of ours.
        """
        self._check_own_loss("trained on")
        return super().fit(*args, **options)

    def save(self, path: str | os.PathLike) -> None:
        self._check_own_loss("saved")
        super().save(path)

    def _check_own_loss(self, what: str) -> None:
        if self._foreign_loss:
            raise ValueError(
                f"the model was trained with {self._foreign_loss} by fastText: its vectors can be used "
                f"(wv, vector, most_similar), but it cannot be {what}; expected one of {LOSSES}"
            )


register(
    Card(
        name="fasttext",
        family="shallow",
        title="fastText",
        authors="Bojanowski et al.",
        paper="Enriching Word Vectors with Subword Information",
        year=2017,
        link="https://arxiv.org/abs/1607.04606",
        encoder="the mean of a word's vector and those of its character n-grams",
        objective="as word2vec",
        build=FastText,
        presets={"skip-gram": {"architecture": "skip-gram"}, "cbow": {"architecture": "cbow"}},
    )
)
