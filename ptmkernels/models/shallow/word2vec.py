"""word2vec: CBOW and skip-gram with negative sampling or hierarchical softmax.

Mikolov et al., "Efficient estimation of word representations in vector space" (2013), and "Distributed
representations of words and phrases and their compositionality" (NeurIPS 2013).
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ptmkernels.data.word_stream import Source, Vocabulary, WordStream
from ptmkernels.interrupts import deferred_interrupt
from ptmkernels.models.shallow.fitting import FitProgress, Material, check_goes_on
from ptmkernels.models.shallow.state_file import State, damage_named, read_state, write_state
from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.ops.hierarchical_softmax import HuffmanTree
from ptmkernels.ops.negative_sampling import AliasTable
from ptmkernels.ops.word_vectors import cbow_step_, in_flight, keep_thresholds, skipgram_step_
from ptmkernels.ops.word_vectors.checks import (
    MAX_NEGATIVES,
    MAX_WINDOW,
    check_number,
    check_whole,
)
from ptmkernels.registry import Card, register

__all__ = ["Word2Vec"]

ARCHITECTURES = ("skip-gram", "cbow")
LOSSES = ("negative-sampling", "hierarchical-softmax")
HUFFMAN_TIES = ("queue", "heap")
_PIECE = 1 << 20  # tokens between two reports
_PADDING = 16  # columns: rows are whole vectors of the widest instruction set


@dataclasses.dataclass
class Word2VecConfig:
    """Options of :class:`Word2Vec`, as word2vec.c has them."""

    architecture: str = "skip-gram"
    loss: str = "negative-sampling"
    vector_size: int = 100
    window: int = 5
    negative: int = 5
    min_count: int = 5
    sample: float = 1e-3
    learning_rate: float | None = None
    noise_power: float = 0.75
    max_vocabulary: int = 0
    huffman_ties: str = "queue"
    initial_range: float = 1.5
    seed: int = 1

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture is {self.architecture!r}; expected one of {ARCHITECTURES}"
            )
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; expected one of {LOSSES}")
        if self.huffman_ties not in HUFFMAN_TIES:
            raise ValueError(
                f"huffman_ties is {self.huffman_ties!r}; expected one of {HUFFMAN_TIES}"
            )
        for name in ("vector_size", "min_count"):
            check_whole(name, getattr(self, name), 1)
        check_whole("window", self.window, 1, MAX_WINDOW)
        check_whole("negative", self.negative, 0, MAX_NEGATIVES)
        check_whole("max_vocabulary", self.max_vocabulary, 0)
        check_whole("seed", self.seed, -(2**63), 2**63 - 1)
        if self.learning_rate is None:
            self.learning_rate = 0.05 if self.architecture == "cbow" else 0.025
        for name in ("sample", "noise_power", "learning_rate"):
            check_number(name, getattr(self, name), 0)
        check_number("initial_range", self.initial_range, 0, above=True)


class Word2Vec:
    """Word vectors trained on windows of text.

    Args:
        options: fields of :class:`Word2VecConfig`: architecture "skip-gram" or "cbow", loss
            "negative-sampling" or "hierarchical-softmax", vector_size, window, negative, min_count, sample
            (0 = keep every word), learning_rate (default 0.025, CBOW 0.05; falls linearly to a floor of
            1e-4 of itself), noise_power, seed, initial_range (rows start uniform in +-initial_range / D: 1.5,
            gensim's 1, word2vec.c's 0.5; docs/word_vectors.md compares them), and huffman_ties ("queue" as
            word2vec.c, "heap" as gensim).

    Raises:
        ValueError: an option does not fit; the message names it.
    """

    config_class = Word2VecConfig

    def __init__(self, **options):
        self.config = self.config_class(**options)
        self.vocabulary: Vocabulary | None = None
        self.input: Tensor | None = None  # (rows, padded D)
        self.output: Tensor | None = None
        self.done = 0  # tokens of the training stream
        self.material = Material()  # known once training has begun
        self.subwords: tuple[Tensor, Tensor] | None = None
        self._vectors: WordVectors | None = None  # of the weights as they are

    @property
    def wv(self) -> WordVectors:
        """The trained vectors by word: a copy, made when it is first asked for after training."""
        words = self._trained().words
        if self._vectors is None:
            self._vectors = WordVectors(words, self.word_matrix(), self.vocabulary.counts)
        return self._vectors

    def word_matrix(self) -> np.ndarray:
        """float32 (V, D): one row a word."""
        return self.input[: len(self._trained()), : self.config.vector_size].numpy().copy()

    def most_similar(self, positive, negative=(), count: int = 10) -> list[tuple[str, float]]:
        """See :meth:`WordVectors.most_similar`."""
        return self.wv.most_similar(positive, negative, count)

    def build_vocabulary(
        self, source: Source | Vocabulary, threads: int = 1, errors: str = "strict"
    ) -> None:
        """Count the words (or take counted ones) and make the starting weights.

        `fit` counts its text where this has not been called.

        Raises:
            ValueError: the text holds no word often enough, or is not UTF-8 (file and byte are named).
        """
        config = self.config
        if not isinstance(source, Vocabulary):
            source = Vocabulary.count(
                source, config.min_count, config.max_vocabulary, threads, errors=errors
            )
        self._begin(source)

    def fit(
        self,
        source: Source,
        *,
        epochs: int = 5,
        threads: int = 1,
        device: str = "cpu",
        max_in_flight: int | None = None,
        progress: Callable[[FitProgress], None] | None = None,
        errors: str = "strict",
    ) -> Word2Vec:
        """Train on a text file (UTF-8, a sentence a line) or on sentences (lists of words, read twice).

        Training that was interrupted, or loaded from a file that was saved meanwhile, goes on where it
        stopped when it is given the same text and number of epochs.

        Args:
            source: the text. Words of sentences that are given as lists stay as they are, white space in them
                included.
            epochs: passes over it, those of interrupted training included.
            threads: of the CPU; on a GPU they only read the text.
            device: "cpu", or "cuda" ("cuda:1", ...): the matrices are there until `fit` returns.
            max_in_flight: on a GPU at most so many stretches of text are trained at the same time; None =
                what keeps the quality of the vectors (docs/word_vectors.md).
            progress: called after each piece of about a million tokens.
            errors: of a file; what becomes of bytes that are not UTF-8: "strict" (refused), "ignore" or
                "replace".

        Raises:
            ValueError: the text holds no word often enough, is not UTF-8 (file and byte are named), is not
                the one on which training began, is a pipe, the device is not there, or an argument does
                not fit.
            TypeError: a sentence is no list of words, or the sentences can be read only once.
        """
        place = _usable_device(device)
        check_whole("epochs", epochs, 1)
        check_whole("threads", threads, 1)
        if max_in_flight is not None:
            check_whole("max_in_flight", max_in_flight, 1)
            if place.type == "cpu":
                raise ValueError(
                    f"max_in_flight is {max_in_flight}; expected None with device {device!r}, where "
                    "`threads` says how much is trained at the same time"
                )
        if self.vocabulary is None:
            self.build_vocabulary(source, threads, errors)
        with WordStream(source, self.vocabulary, threads, errors=errors) as stream:
            if len(stream) == 0:
                raise ValueError("source holds no word of the vocabulary")
            material = Material(len(stream), stream.checksum())
            check_goes_on(self.done, self.material, material, epochs, "tokens")
            self.material = material
            self.input, self.output = self.input.to(place), self.output.to(place)
            try:
                self._train(stream, epochs, threads, max_in_flight, progress)
            finally:
                self.input, self.output = self.input.cpu(), self.output.cpu()
        return self

    def _trained(self) -> Vocabulary:
        if self.vocabulary is None:
            raise RuntimeError("the model has no vocabulary yet: call fit or load first")
        return self.vocabulary

    def _begin(self, vocabulary: Vocabulary) -> None:
        """Starting weights: input rows uniform in +-initial_range / D, output rows 0."""
        self.vocabulary, self._vectors = vocabulary, None
        width = self.config.vector_size
        generator = torch.Generator().manual_seed(self.config.seed)
        rows = self._prepare_rows()
        self.input = torch.zeros(rows, -(-width // _PADDING) * _PADDING)
        drawn = torch.rand(rows, width, generator=generator) - 0.5
        self.input[:, :width] = drawn * (2 * self.config.initial_range / width)
        tree = self.config.loss == "hierarchical-softmax"
        self.output = torch.zeros(len(vocabulary) - tree, self.input.shape[1])
        self.done, self.material = 0, Material()

    def _prepare_rows(self) -> int:
        """The number of input rows; sets `subwords` where words have several."""
        return len(self.vocabulary)

    def _keep_probability(self) -> np.ndarray:
        """(sqrt(f / t) + 1) t / f with f the share of a word and t = sample."""
        share = self.vocabulary.counts / self.vocabulary.counts.sum()
        return (np.sqrt(share / self.config.sample) + 1) * self.config.sample / share

    def _kept_share(self) -> np.ndarray:
        """(V,): the counts of the words as sub-sampling leaves them on average."""
        if not self.config.sample:
            return self.vocabulary.counts
        return self.vocabulary.counts * np.minimum(self._keep_probability(), 1)

    def _most_in_flight(self, sampler: AliasTable | None, tree: HuffmanTree | None) -> int:
        """How many stretches of text a GPU trains at the same time without worse vectors."""
        return in_flight.max_in_flight(
            self._kept_share(),
            sampler=sampler,
            tree=tree,
            window=self.config.window,
            num_negatives=self.config.negative,
            learning_rate=self.config.learning_rate,
            subwords=self.subwords,
        )

    def _train(
        self, stream: WordStream, epochs: int, threads: int, max_in_flight: int | None, progress
    ) -> None:
        config, counts, device = self.config, self.vocabulary.counts, self.input.device
        sampler = tree = None
        if config.loss == "negative-sampling":
            sampler = AliasTable.from_counts(counts, config.noise_power).to(device)
        else:
            tree = HuffmanTree.from_counts(counts, config.huffman_ties).to(device)
        keep = keep_thresholds(self._keep_probability()).to(device) if config.sample else None
        subwords = tuple(t.to(device) for t in self.subwords) if self.subwords else None
        if max_in_flight is None and device.type != "cpu":
            max_in_flight = self._most_in_flight(sampler, tree)
        options = {
            "window": config.window,
            "learning_rate": config.learning_rate,
            "min_learning_rate": config.learning_rate * 1e-4,
            "total": epochs * len(stream),
            "sampler": sampler,
            "tree": tree,
            "num_negatives": config.negative,
            "keep": keep,
            "subwords": subwords,
            "seed": torch.tensor([config.seed], device=device),
            "threads": threads,
            "max_in_flight": max_in_flight,
        }
        step = cbow_step_ if config.architecture == "cbow" else skipgram_step_
        loss = math.nan
        while self.done < options["total"]:
            epoch_start = self.done - self.done % len(stream)
            for place, ids in stream.pieces(_PIECE, self.done - epoch_start):
                started = time.perf_counter()
                tokens = torch.from_numpy(ids).to(device)
                position = epoch_start + place
                with deferred_interrupt():
                    seen = step(self.input, self.output, tokens, position=position, **options)
                    self.done, self._vectors = position + len(ids), None
                loss = loss if math.isnan(seen.loss) else seen.loss
                if progress and not math.isnan(loss):
                    rate = len(ids) / (time.perf_counter() - started)
                    progress(FitProgress(self.done, options["total"], loss, rate))

    def save(self, path: str | os.PathLike) -> None:
        """Write everything, the state of the training too, to a safetensors file, atomically."""
        vocabulary, width = self._trained(), self.config.vector_size
        state = State(
            model=type(self).__name__,
            config=dataclasses.asdict(self.config),
            progress={"done": self.done, **dataclasses.asdict(self.material)},
            vocabulary=vocabulary,
            tensors={
                "input": self.input[:, :width].contiguous(),
                "output": self.output[:, :width].contiguous(),
            },
        )
        write_state(path, state)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Word2Vec:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file holds another model, or is damaged.
        """
        state = read_state(path, cls.__name__)
        with damage_named(path):
            model = cls(**state.config)
            model._begin(state.vocabulary)
            width = model.config.vector_size
            for name, matrix in (("input", model.input), ("output", model.output)):
                matrix[:, :width] = state.tensor(name, (len(matrix), width))
            model.done = state.progress.pop("done")
            model.material = Material(**state.progress)
        return model


def _usable_device(name: str) -> torch.device:
    kind = str(name).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; expected 'cpu' or 'cuda'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch sees no GPU; 'cpu' runs everywhere")
    return torch.device(name)


register(
    Card(
        name="word2vec",
        family="shallow",
        title="word2vec",
        authors="Mikolov et al.",
        paper="Distributed Representations of Words and Phrases and their Compositionality",
        year=2013,
        link="https://arxiv.org/abs/1310.4546",
        encoder="one vector a word",
        objective="a word from its neighbours (CBOW), or from each of them (skip-gram)",
        build=Word2Vec,
        presets={
            f"{architecture}-{loss}": {"architecture": architecture, "loss": loss}
            for architecture in ARCHITECTURES
            for loss in LOSSES
        },
    )
)
