"""GloVe: vectors whose products are the logarithms of co-occurrence counts.

Pennington, Socher and Manning, "GloVe: global vectors for word representation" (EMNLP 2014).
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ptmkernels._corpus import CooccurrenceCounter
from ptmkernels.data.word_stream import Source, Vocabulary, WordStream
from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.ops.word_vectors import glove_step_
from ptmkernels.registry import Card, register

__all__ = ["GloVe"]

_PAIR = np.dtype([("row", np.int32), ("column", np.int32), ("value", np.float64)])
_PIECE = 1 << 20  # pairs between two reports


@dataclasses.dataclass
class GloVeConfig:
    """Options of :class:`GloVe`, with the published defaults."""

    vector_size: int = 50
    window: int = 15
    min_count: int = 5
    x_max: float = 100.0
    power: float = 0.75
    learning_rate: float = 0.05
    symmetric: bool = True
    memory: int = 1 << 30
    seed: int = 1


class GloVe:
    """Two sets of vectors and biases fitted to log counts by weighted least squares.

    Args:
        options: fields of :class:`GloVeConfig`: vector_size, window, min_count, x_max, power,
            learning_rate, symmetric (count both sides), memory (bytes for the counts; the rest goes to
            disk), seed.
    """

    def __init__(self, **options):
        self.config = GloVeConfig(**options)
        self.vocabulary: Vocabulary | None = None
        self.parameters: dict[str, Tensor] = {}

    @property
    def wv(self) -> WordVectors:
        """The sum of the word and context vectors, by word (section 4.2)."""
        if self.vocabulary is None:
            raise RuntimeError("the model has no vocabulary yet: call fit first")
        total = self.parameters["word"] + self.parameters["context"]
        return WordVectors(self.vocabulary.words, total.numpy())

    def most_similar(self, positive, negative=(), count: int = 10) -> list[tuple[str, float]]:
        """See :meth:`WordVectors.most_similar`."""
        return self.wv.most_similar(positive, negative, count)

    def fit(
        self,
        source: Source,
        *,
        epochs: int = 25,
        threads: int = 1,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> GloVe:
        """Count the pairs of a text file (or of sentences), then train on them in random order.

        Args:
            progress: called with pairs done, pairs in all, and the mean loss of the last piece.
        """
        config = self.config
        self.vocabulary = Vocabulary.count(source, config.min_count, 0, threads)
        stream = WordStream(source, self.vocabulary, threads)
        self._begin()
        with tempfile.TemporaryDirectory(prefix="ptmkernels-") as folder:
            counter = CooccurrenceCounter(
                config.window, config.symmetric, True, config.memory, folder
            )
            for _, ids in stream.pieces(_PIECE):
                counter.add(ids)
            path = os.path.join(folder, "pairs")
            count = counter.write_shuffled(path, config.seed)
            pairs = np.memmap(path, _PAIR, "r") if count else np.empty(0, _PAIR)
            for epoch in range(epochs):
                self._epoch(pairs, epoch, epochs, threads, progress)
        return self

    def _begin(self) -> None:
        """Vectors and biases uniform in +-1 / (2 D), sums of squares 1."""
        size, width = len(self.vocabulary), self.config.vector_size
        generator = torch.Generator().manual_seed(self.config.seed)
        shapes = {"word": (size, width), "context": (size, width)}
        shapes |= {"word_bias": (size,), "context_bias": (size,)}
        self.parameters = {
            name: (torch.rand(shape, generator=generator) - 0.5) / width
            for name, shape in shapes.items()
        } | {f"{name}_sums": torch.ones(shape) for name, shape in shapes.items()}

    def _epoch(self, pairs: np.ndarray, epoch: int, epochs: int, threads: int, progress) -> None:
        for start in range(0, len(pairs), _PIECE):
            piece = pairs[start : start + _PIECE]
            loss = glove_step_(
                self.parameters,
                *(torch.from_numpy(np.ascontiguousarray(piece[name])) for name in _PAIR.names),
                learning_rate=self.config.learning_rate,
                x_max=self.config.x_max,
                power=self.config.power,
                threads=threads,
            )
            if progress:
                done = epoch * len(pairs) + start + len(piece)
                progress(done, epochs * len(pairs), loss / len(piece))


register(
    Card(
        name="glove",
        family="shallow",
        title="GloVe",
        authors="Pennington et al.",
        paper="GloVe: Global Vectors for Word Representation",
        year=2014,
        link="https://aclanthology.org/D14-1162",
        encoder="one vector a word, the sum of two",
        objective="the logarithms of co-occurrence counts by weighted least squares",
        build=GloVe,
        presets={"50d": {"vector_size": 50}, "300d": {"vector_size": 300}},
    )
)
