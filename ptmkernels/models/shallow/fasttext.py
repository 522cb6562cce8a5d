"""fastText: a word is the mean of its own row and those of its character n-grams.

Bojanowski et al., "Enriching word vectors with subword information" (TACL 2017).
"""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

import numpy as np
import torch

from ptmkernels._corpus import subword_buckets
from ptmkernels.data.word_stream import Vocabulary
from ptmkernels.models.shallow.word2vec import Word2Vec, Word2VecConfig

__all__ = ["FastText"]

_MAGIC, _VERSION = 793712314, 12
_ARGUMENTS = "<12id"
_LOSSES = {"hierarchical-softmax": 1, "negative-sampling": 2}
_ARCHITECTURES = {"cbow": 1, "skip-gram": 2}


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
        if not 0 <= self.min_n <= self.max_n:
            raise ValueError(
                f"min_n is {self.min_n} and max_n {self.max_n}; expected 0 <= min_n <= max_n"
            )


class FastText(Word2Vec):
    """word2vec with sub-words: words that were never seen have vectors, too.

    Args:
        options: those of :class:`Word2Vec` with other defaults (sample 1e-4, noise_power 0.5,
            learning_rate 0.05), and min_n, max_n (characters of an n-gram), bucket (rows for n-grams).
    """

    config_class = FastTextConfig

    def _prepare_rows(self) -> int:
        words = self.vocabulary.words
        offsets, buckets = self._buckets(words)
        own = np.arange(len(words))
        # Each word's own row goes before its n-grams'.
        rows = np.insert(buckets.astype(np.int64) + len(words), offsets[:-1], own)
        self.subwords = (
            torch.from_numpy(offsets + np.arange(len(offsets))),
            torch.from_numpy(rows.astype(np.int32)),
        )
        return len(words) + self.config.bucket

    def _buckets(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self.config.max_n == 0:
            return np.zeros(len(words) + 1, np.int64), np.empty(0, np.int32)
        return subword_buckets(words, self.config.min_n, self.config.max_n, self.config.bucket)

    def subword_ids(self, word: str) -> np.ndarray:
        """The input rows whose mean is the vector of a word, known or not, int64."""
        size = len(self._trained())
        ids = self._buckets([word])[1].astype(np.int64) + size
        if not hasattr(self, "_index"):
            self._index = {w: i for i, w in enumerate(self.vocabulary.words)}
        own = self._index.get(word)
        return ids if own is None else np.insert(ids, 0, own)

    def vector(self, word: str) -> np.ndarray:
        """The vector of any word, (D,); zeros where it has no n-gram."""
        ids = self.subword_ids(word)
        if not len(ids):
            return np.zeros(self.config.vector_size, np.float32)
        return self.input[ids, : self.config.vector_size].mean(0).numpy()

    def word_matrix(self) -> np.ndarray:
        return np.stack([self.vector(word) for word in self._trained().words])

    def save_fasttext(self, path: str | os.PathLike) -> None:
        """Write the .bin file of fastText 0.9.2 (version 12)."""
        config, vocabulary = self.config, self._trained()
        size, width = len(vocabulary), config.vector_size
        output = self.output[:, :width].numpy()
        if config.loss == "hierarchical-softmax":
            output = np.concatenate([output, np.zeros((1, width), np.float32)])
        temporary = Path(f"{path}.part")
        with temporary.open("wb") as file:
            file.write(struct.pack("<2i", _MAGIC, _VERSION))
            file.write(
                struct.pack(
                    _ARGUMENTS, width, config.window, 5, config.min_count, config.negative, 1,
                    _LOSSES[config.loss], _ARCHITECTURES[config.architecture], config.bucket,
                    config.min_n, config.max_n, 100, config.sample,
                )
            )  # fmt: skip
            file.write(struct.pack("<3i2q", size, size, 0, int(vocabulary.counts.sum()), -1))
            for word, count in zip(vocabulary.words, vocabulary.counts, strict=True):
                file.write(word.encode() + b"\0" + struct.pack("<qb", int(count), 0))
            for matrix in (self.input[:, :width].numpy(), output):
                file.write(struct.pack("<?2q", False, *matrix.shape))
                file.write(np.ascontiguousarray(matrix, "<f4").tobytes())
        os.replace(temporary, path)

    @classmethod
    def load_fasttext(cls, path: str | os.PathLike) -> FastText:
        """Read a .bin file of fastText: unsupervised, not quantised.

        Raises:
            ValueError: the file is no such one; the message says what it is.
        """
        data = Path(path).read_bytes()
        if len(data) < 8 or struct.unpack_from("<2i", data) != (_MAGIC, _VERSION):
            raise ValueError(f"{path} is not a fastText file of version {_VERSION}")
        values = struct.unpack_from(_ARGUMENTS, data, 8)
        at = 8 + struct.calcsize(_ARGUMENTS)
        losses = {v: k for k, v in _LOSSES.items()}
        architectures = {v: k for k, v in _ARCHITECTURES.items()}
        if values[6] not in losses or values[7] not in architectures:
            raise ValueError(f"{path} holds a classifier; expected word vectors (cbow or skipgram)")
        size, _, labels, _, pruned = struct.unpack_from("<3i2q", data, at)
        at += struct.calcsize("<3i2q")
        if labels or pruned >= 0:
            raise ValueError(f"{path} is quantised or has labels; expected plain word vectors")
        words, counts = [], []
        for _ in range(size):
            end = data.index(b"\0", at)
            words.append(data[at:end].decode("utf-8"))
            counts.append(struct.unpack_from("<q", data, end + 1)[0])
            at = end + 10
        model = cls(
            vector_size=values[0], window=values[1], min_count=values[3], negative=values[4],
            loss=losses[values[6]], architecture=architectures[values[7]], bucket=values[8],
            min_n=values[9], max_n=values[10], sample=values[12],
        )  # fmt: skip
        model._begin(Vocabulary(words, np.array(counts)))
        for target in (model.input, model.output):
            quantised, rows, columns = struct.unpack_from("<?2q", data, at)
            at += struct.calcsize("<?2q")
            if quantised or columns != values[0]:
                raise ValueError(f"{path} is quantised; expected plain word vectors")
            matrix = np.frombuffer(data, "<f4", rows * columns, at).reshape(rows, columns)
            target[:, :columns] = torch.from_numpy(matrix[: len(target)].copy())
            at += 4 * rows * columns
        return model
