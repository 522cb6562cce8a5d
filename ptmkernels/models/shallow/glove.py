"""GloVe: vectors whose products are the logarithms of co-occurrence counts.

Pennington, Socher and Manning, "GloVe: global vectors for word representation" (EMNLP 2014).
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ptmkernels._corpus import CooccurrenceCounter
from ptmkernels.data.word_stream import Source, Vocabulary, WordStream
from ptmkernels.interrupts import deferred_interrupt
from ptmkernels.models.shallow.fitting import FitProgress, Material, check_goes_on
from ptmkernels.models.shallow.state_file import State, damage_named, read_state, write_state
from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.ops.word_vectors import glove_step_
from ptmkernels.ops.word_vectors.checks import check_number, check_type, check_whole
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

    def __post_init__(self) -> None:
        for name in ("vector_size", "window", "min_count"):
            check_whole(name, getattr(self, name), 1)
        check_whole("memory", self.memory, 1 << 20)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        check_number("x_max", self.x_max, 0, above=True)
        for name in ("power", "learning_rate"):
            check_number(name, getattr(self, name), 0)
        check_type("symmetric", self.symmetric, bool)


class GloVe:
    """Two sets of vectors and biases fitted to log counts by weighted least squares.

    Args:
        options: fields of :class:`GloVeConfig`: vector_size, window, min_count, x_max, power,
            learning_rate, symmetric (count both sides), memory (bytes for the counts, at least 1 MiB; the
            rest goes to disk), seed.

    Raises:
        ValueError, TypeError: an option does not fit; the message names it.
    """

    def __init__(self, **options):
        self.config = GloVeConfig(**options)
        self.vocabulary: Vocabulary | None = None
        self.parameters: dict[str, Tensor] = {}
        self.done = 0  # pairs
        self.material = Material()  # known once training has begun

    @property
    def wv(self) -> WordVectors:
        """The sum of the word and context vectors, by word (section 4.2)."""
        if self.vocabulary is None:
            raise RuntimeError("the model has no vocabulary yet: call fit first")
        total = self.parameters["word"] + self.parameters["context"]
        return WordVectors(self.vocabulary.words, total.numpy(), self.vocabulary.counts)

    def most_similar(self, positive, negative=(), count: int = 10) -> list[tuple[str, float]]:
        """See :meth:`WordVectors.most_similar`."""
        return self.wv.most_similar(positive, negative, count)

    def fit(
        self,
        source: Source,
        *,
        epochs: int = 25,
        threads: int = 1,
        progress: Callable[[FitProgress], None] | None = None,
        errors: str = "strict",
    ) -> GloVe:
        """Count the pairs of a text file (or of sentences), then train on them in random order.

        Training that was interrupted, or loaded from a file that was saved meanwhile, counts again and goes
        on where it stopped when it is given the same text.

        Args:
            source: a path to UTF-8 text, a sentence a line, or sentences (lists of words, read twice).
            epochs: passes over the pairs, those of interrupted training included.
            threads: for counting and training.
            progress: called after each piece of about a million pairs, which its numbers count.
            errors: of a file; what becomes of bytes that are not UTF-8: "strict" (refused), "ignore" or
                "replace".

        Raises:
            ValueError: the text holds no word often enough, is not UTF-8 (file and byte are named), is not
                the one on which training began, or an argument does not fit.
        """
        config = self.config
        check_whole("epochs", epochs, 1)
        check_whole("threads", threads, 1)
        if self.vocabulary is None:
            self.vocabulary = Vocabulary.count(source, config.min_count, 0, threads, errors=errors)
            self._begin()
        with (
            WordStream(source, self.vocabulary, threads, errors=errors) as stream,
            tempfile.TemporaryDirectory(prefix="ptmkernels-") as folder,
        ):
            counter = CooccurrenceCounter(
                config.window, config.symmetric, True, config.memory, folder
            )
            for _, ids in stream.pieces(_PIECE):
                counter.add(ids)
            path = os.path.join(folder, "pairs")
            count = counter.write_shuffled(path, config.seed)
            material = Material(count, stream.checksum())
            check_goes_on(self.done, self.material, material, epochs, "pairs")
            self.material = material
            pairs = np.memmap(path, _PAIR, "r") if count else np.empty(0, _PAIR)
            while self.done < epochs * count:
                self._epoch(pairs, epochs, threads, progress)
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Write everything, the state of the training too, to a safetensors file, atomically."""
        if self.vocabulary is None:
            raise RuntimeError("the model has no vocabulary yet: call fit first")
        progress = {"done": self.done, **dataclasses.asdict(self.material)}
        config = dataclasses.asdict(self.config)
        write_state(path, State("GloVe", config, progress, self.vocabulary, self.parameters))

    @classmethod
    def load(cls, path: str | os.PathLike) -> GloVe:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file holds something else, or is damaged.
        """
        state = read_state(path, "GloVe")
        with damage_named(path):
            model = cls(**state.config)
            model.vocabulary = state.vocabulary
            model._begin()
            for name, start in model.parameters.items():
                model.parameters[name] = state.tensor(name, tuple(start.shape))
            model.done = state.progress.pop("done")
            model.material = Material(**state.progress)
        return model

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

    def _epoch(self, pairs: np.ndarray, epochs: int, threads: int, progress) -> None:
        """What is left of an epoch."""
        for start in range(self.done % len(pairs), len(pairs), _PIECE):
            started = time.perf_counter()
            piece = pairs[start : start + _PIECE]
            columns = [torch.from_numpy(np.ascontiguousarray(piece[name])) for name in _PAIR.names]
            with deferred_interrupt():
                loss = glove_step_(
                    self.parameters,
                    *columns,
                    learning_rate=self.config.learning_rate,
                    x_max=self.config.x_max,
                    power=self.config.power,
                    threads=threads,
                )
                self.done += len(piece)
            if progress:
                rate = len(piece) / (time.perf_counter() - started)
                total = epochs * len(pairs)
                progress(FitProgress(self.done, total, loss / len(piece), rate, "pairs"))


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
