"""fastText's classifier: the mean of word and n-gram vectors, and one layer.

Joulin et al., "Bag of tricks for efficient text classification" (EACL 2017).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, embedding_bag

from ptmkernels._corpus import VocabularyCounter, subword_buckets, word_ngram_buckets
from ptmkernels.files import read_utf8
from ptmkernels.models.shallow.fasttext import as_bytes, check_ngrams
from ptmkernels.models.shallow.fasttext_file import FastTextFile, read_fasttext, write_fasttext
from ptmkernels.models.shallow.product_quantiser import CENTROIDS, QuantisedMatrix, quantised
from ptmkernels.ops.hierarchical_softmax import (
    HuffmanTree,
    hierarchical_softmax_log_prob,
    hierarchical_softmax_loss,
)
from ptmkernels.ops.negative_sampling import AliasTable, negative_sampling_loss
from ptmkernels.ops.word_vectors.checks import check_number, check_type, check_whole
from ptmkernels.registry import Card, register

__all__ = ["FastTextClassifier"]

LABEL, LINE_END = "__label__", "</s>"
LOSSES = ("softmax", "hierarchical-softmax", "negative-sampling", "one-vs-all")
_NOISE_POWER = 0.5  # of the labels' counts
_BATCH = 256  # lines that are predicted together
Matrix = np.ndarray | QuantisedMatrix
_SPACES = re.compile("[ \t\n\v\f\r\0]+")  # no other: fastText knows no white space beyond ASCII


@dataclasses.dataclass
class FastTextClassifierConfig:
    """Options of :class:`FastTextClassifier`, with fastText's defaults for a classifier."""

    loss: str = "softmax"
    vector_size: int = 100
    min_count: int = 1
    word_ngrams: int = 1
    min_n: int = 0
    max_n: int = 0
    bucket: int = 2_000_000
    negative: int = 5
    learning_rate: float = 0.1
    seed: int = 1

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; expected one of {LOSSES}")
        for name in ("vector_size", "min_count", "word_ngrams", "negative"):
            check_whole(name, getattr(self, name), 1)
        check_ngrams(self.min_n, self.max_n, self.bucket)
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_whole("seed", self.seed, -(2**63), 2**63 - 1)

    @property
    def hashed_rows(self) -> int:
        """Input rows of n-grams, of words and of characters."""
        return self.bucket if self.word_ngrams > 1 or self.max_n else 0


class FastTextClassifier:
    """Labels for lines of text, whose words are "__label__..." or not.

    Args:
        options: loss ("softmax", "hierarchical-softmax", "negative-sampling", "one-vs-all"), vector_size,
            min_count (of words; every label counts), word_ngrams (n-grams of up to so many words have
            vectors of their own), min_n, max_n (characters of sub-words; 0 = none), bucket (rows that
            n-grams are hashed to), negative (draws for each line), learning_rate, seed.

    Raises:
        ValueError: an option does not fit; the message names it.
    """

    def __init__(self, **options):
        self.config = FastTextClassifierConfig(**options)
        self.words: list[str] = []
        self.labels: list[str] = []
        self.counts = np.empty(0, np.int64)  # of the words, then of the labels
        self._forget_quantised()

    def _forget_quantised(self) -> None:
        self._kept: dict[int, int] | None = None  # see FastTextFile
        self._stored: tuple[Matrix, Matrix] | None = None  # input and output, once one is quantised

    def fit(
        self,
        path: str | os.PathLike,
        epochs: int = 5,
        batch_size: int = 16,
        errors: str = "strict",
    ) -> FastTextClassifier:
        """Train on a text file; gradients of a batch's lines are added up, the learning rate falls to 0.

        Args:
            path: of a text with labels, a line each (.gz and .bz2: compressed).
            epochs: passes over it.
            batch_size: lines.
            errors: what becomes of bytes that are not UTF-8: "strict" (refused), "ignore" or "replace".

        Raises:
            ValueError: the text has no label or no word often enough, or is not UTF-8 (file and byte are
                named).
        """
        lines = _lines(read_utf8(path, errors).removesuffix("\n") + "\n")
        check_whole("epochs", epochs, 1)
        check_whole("batch_size", batch_size, 1)
        self._begin(lines)
        examples = [(self._ids(line), self._targets(line)) for line in lines]
        examples = [(ids, targets) for ids, targets in examples if ids and targets]
        generator = torch.Generator().manual_seed(self.config.seed)
        optimizer = torch.optim.SGD([self.input, self.output], lr=self.config.learning_rate)
        total = epochs * -(-len(examples) // batch_size)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (total + 1))
        for _ in range(epochs):
            for picked in torch.randperm(len(examples), generator=generator).split(batch_size):
                ids, targets = zip(*(examples[i] for i in picked), strict=True)
                optimizer.zero_grad()
                self._loss(self._hidden(ids), targets, generator).backward()
                optimizer.step()
                falling.step()
        return self

    def predict(self, line: str, count: int = 1, threshold: float = 0.0) -> list[tuple[str, float]]:
        """The likeliest labels of a line with their probabilities; none where it has no known word.

        Args:
            count: of the labels, at most.
            threshold: less likely ones are left out.

        Raises:
            RuntimeError: the model is not trained.
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        check_type("line", line, str)
        (found,) = self.predict_lines([line], count, threshold)
        return found

    def predict_lines(
        self, lines: Iterable[str], count: int = 1, threshold: float = 0.0
    ) -> Iterator[list[tuple[str, float]]]:
        """:meth:`predict` of each of many lines; a text may be larger than memory."""
        self._check_trained()
        check_whole("count", count, 1)
        check_number("threshold", threshold, 0)
        lines = iter(lines)
        while batch := list(islice(lines, _BATCH)):
            ids = [self._ids(_lines(line.removesuffix("\n") + "\n")[0]) for line in batch]
            with torch.no_grad():
                probability = self._probabilities(self._hidden(ids))
            best = probability.topk(min(count, len(self.labels)))
            rows = zip(ids, best.indices.tolist(), best.values.tolist(), strict=True)
            for known, places, values in rows:
                pairs = zip(places, values, strict=True) if known else ()
                yield [(self.labels[i], p) for i, p in pairs if p >= threshold]

    def test(
        self,
        path: str | os.PathLike,
        count: int = 1,
        threshold: float = 0.0,
        errors: str = "strict",
    ) -> tuple[int, float, float]:
        """How the labels of a text are found: lines that have a label and a word, precision and recall.

        Args:
            path, errors: of a text with labels, as `fit` reads it.
            count, threshold: of the labels that are predicted for each line, as :meth:`predict` has them.
        """
        text = read_utf8(path, errors).removesuffix("\n").split("\n")
        examples, predicted, wanted, right = 0, 0, 0, 0
        for line, found in zip(text, self.predict_lines(text, count, threshold), strict=True):
            tokens = _lines(line + "\n")[0]
            labels = {self.labels[i] for i in self._targets(tokens)}
            if not labels or not self._ids(tokens):
                continue
            examples += 1
            predicted += len(found)
            wanted += len(labels)
            right += sum(label in labels for label, _ in found)
        return examples, right / predicted if predicted else 0.0, right / wanted if wanted else 0.0

    def quantize(
        self, cutoff: int = 0, dsub: int = 2, qnorm: bool = False, qout: bool = False
    ) -> FastTextClassifier:
        """Make the model small, as `fasttext quantize` does: rows become codes (Joulin et al. 2016).

        Its file is what fastText calls .ftz.

        Args:
            cutoff: keep so many rows of words and n-grams, those with the largest norms; 0 = all.
            dsub: numbers of a row that share a code.
            qnorm: quantise the norms of the rows apart.
            qout: quantise the output, too.

        Raises:
            RuntimeError: the model is not trained.
            ValueError: a matrix has fewer than 256 rows, it is quantised already, or an argument does not
                fit.
        """
        self._check_trained()
        check_whole("cutoff", cutoff, 0)
        check_whole("dsub", dsub, 1)
        if self._stored is not None:
            raise ValueError("the model is quantised already")
        rows = min(cutoff or len(self.input), len(self.input))
        for name, size in (("input", rows), *([("output", len(self.output))] if qout else [])):
            if size < CENTROIDS:
                raise ValueError(
                    f"the {name} matrix has {size} rows; expected at least {CENTROIDS} to quantise it"
                )
        if rows < len(self.input):
            self._cut(rows)
        stored = quantised(self.input.detach().numpy(), dsub, qnorm)
        output = self.output.detach().numpy()
        self._stored = stored, quantised(output, 2, qnorm) if qout else output
        self.input, self.output = (torch.from_numpy(_dense(matrix)) for matrix in self._stored)
        return self

    def _cut(self, rows: int) -> None:
        """Leave the rows with the largest norms, the end of a line among them."""
        norms = self.input.detach().norm(dim=1)
        if LINE_END in self._word_index:
            norms[self._word_index[LINE_END]] = torch.inf
        best = norms.argsort(descending=True, stable=True)[:rows].tolist()
        size = len(self.words)
        words = sorted(row for row in best if row < size)
        ngrams = [row for row in best if row >= size]
        self.input = self.input.detach()[words + ngrams]
        counts = np.concatenate([self.counts[words], self.counts[size:]])
        self._kept = {row - size: place for place, row in enumerate(ngrams)}
        self._set_words([self.words[row] for row in words], self.labels, counts)

    def save_fasttext(self, path: str | os.PathLike) -> None:
        """Write the file of fastText 0.9.2 (version 12): .bin, or .ftz of a model that is quantised.

        Raises:
            RuntimeError: the model is not trained.
        """
        config = self.config
        self._check_trained()
        stored = self._stored or (self.input.detach().numpy(), self.output.detach().numpy())
        file = FastTextFile(
            loss=config.loss, architecture="classifier", window=5, min_count=config.min_count,
            negative=config.negative, word_ngrams=config.word_ngrams, bucket=config.hashed_rows,
            min_n=config.min_n, max_n=config.max_n, sample=1e-4, words=self.words + self.labels,
            counts=self.counts, labels=len(self.labels), input=stored[0], output=stored[1],
            kept=self._kept,
        )  # fmt: skip
        write_fasttext(path, file)

    @classmethod
    def load_fasttext(cls, path: str | os.PathLike) -> FastTextClassifier:
        """Read a .bin or .ftz file of fastText's `supervised`.

        Raises:
            ValueError: the file is no such one; the message says what it is.
        """
        file = read_fasttext(path)
        if file.architecture != "classifier":
            raise ValueError(
                f"{path} holds word vectors ({file.architecture}); expected a classifier: word vectors are "
                "read by FastText"
            )
        if file.labels == 0:
            raise ValueError(f"{path} holds a classifier without labels")
        model = cls(
            loss=file.loss, vector_size=file.width, min_count=max(file.min_count, 1),
            word_ngrams=max(file.word_ngrams, 1), min_n=file.min_n, max_n=file.max_n,
            bucket=max(file.bucket, 1), negative=max(file.negative, 1),
        )  # fmt: skip
        split = len(file.words) - file.labels
        try:
            model._set_words(file.words[:split], file.words[split:], file.counts)
        except ValueError as error:
            raise ValueError(f"{path}: the labels have no tree: {error}") from None
        model._kept = file.kept
        matrices = (file.input, file.output)
        if any(isinstance(matrix, QuantisedMatrix) for matrix in matrices):
            model._stored = matrices
        model.input, model.output = (torch.from_numpy(_dense(m)) for m in matrices)
        return model

    def _check_trained(self) -> None:
        if not self.labels:
            raise RuntimeError("the model has no labels yet: call fit first")

    def _begin(self, lines: Iterable[list[str]]) -> None:
        self._forget_quantised()
        counter = VocabularyCounter()
        for line in lines:
            counter.add_words(line)
        found = counter.most_common()
        labels = {word: count for word, count in found if word.startswith(LABEL)}
        words = {
            word: count
            for word, count in found
            if count >= self.config.min_count and word not in labels
        }
        if not labels or not words.keys() - {LINE_END}:
            raise ValueError(
                f"the text has {len(labels)} labels ({LABEL}...) and {len(words)} words that occur "
                f"{self.config.min_count} times"
            )
        counts = np.array([*words.values(), *labels.values()], np.int64)
        self._set_words(list(words), list(labels), counts)
        width, generator = self.config.vector_size, torch.Generator().manual_seed(self.config.seed)
        rows = len(words) + self.config.hashed_rows
        self.input = (
            (torch.rand(rows, width, generator=generator) * 2 - 1) / width
        ).requires_grad_()
        self.output = torch.zeros(len(labels), width, requires_grad=True)

    def _set_words(self, words: list[str], labels: list[str], counts: np.ndarray) -> None:
        self.words, self.labels, self.counts = words, labels, counts
        self._word_index = {word: i for i, word in enumerate(words)}
        self._label_index = {label: i for i, label in enumerate(labels)}
        label_counts = counts[len(words) :]
        if self.config.loss == "hierarchical-softmax":
            self._tree = HuffmanTree.from_counts(label_counts)
        elif self.config.loss == "negative-sampling":
            self._noise = AliasTable.from_counts(label_counts, _NOISE_POWER)

    def _ids(self, line: list[str]) -> list[int]:
        """The input rows of a line: words, their sub-words, word n-grams; its end is a word."""
        config, ids, words = self.config, [], []
        for token in line:
            own = self._word_index.get(token)
            if own is None and (token in self._label_index or token.startswith(LABEL)):
                continue
            words.append(token)
            if own is not None:
                ids.append(own)
            if config.max_n:
                ngrams = subword_buckets(
                    [as_bytes(token)], config.min_n, config.max_n, config.bucket
                )
                ids += self._hashed(ngrams[1])
        if config.word_ngrams > 1:
            encoded = [as_bytes(word) for word in words]
            ids += self._hashed(word_ngram_buckets(encoded, config.word_ngrams, config.bucket))
        return ids

    def _hashed(self, buckets: np.ndarray) -> list[int]:
        """The input rows of n-grams; those that a quantised model has dropped have none."""
        size, kept = len(self.words), self._kept
        if kept is None:
            return (buckets.astype(np.int64) + size).tolist()
        return [size + kept[bucket] for bucket in buckets.tolist() if bucket in kept]

    def _targets(self, line: list[str]) -> list[int]:
        return [self._label_index[token] for token in line if token in self._label_index]

    def _hidden(self, ids: Iterable[list[int]]) -> Tensor:
        """The mean of the rows of each line, (B, D)."""
        ids = list(ids)
        ends = torch.tensor([0, *map(len, ids)]).cumsum(0)
        flat = torch.tensor([i for line in ids for i in line], dtype=torch.int64)
        return embedding_bag(flat, self.input, ends[:-1], mode="mean", sparse=True)

    def _loss(
        self, hidden: Tensor, targets: Iterable[list[int]], generator: torch.Generator
    ) -> Tensor:
        """Summed over the lines; of several labels one is drawn, one-vs-all takes them all."""
        if self.config.loss == "one-vs-all":
            wanted = torch.zeros(len(hidden), len(self.labels))
            for row, labels in zip(wanted, targets, strict=True):
                row[labels] = 1
            logits = hidden @ self.output.T
            return binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        drawn = torch.tensor(
            [labels[torch.randint(len(labels), (), generator=generator)] for labels in targets]
        )
        if self.config.loss == "softmax":
            return cross_entropy(hidden @ self.output.T, drawn, reduction="sum")
        if self.config.loss == "negative-sampling":
            seed = torch.randint(2**62, (1,), generator=generator)
            return negative_sampling_loss(
                hidden, drawn, self.output, sampler=self._noise, num_negatives=self.config.negative,
                seed=seed, reduction="sum",
            )  # fmt: skip
        return hierarchical_softmax_loss(hidden, drawn, self._nodes(), self._tree, reduction="sum")

    def _nodes(self) -> Tensor:
        """The rows of inner nodes; a code bit of 1 is fastText's likely side and our unlikely one."""
        return -self.output[: len(self.labels) - 1]

    def _probabilities(self, hidden: Tensor) -> Tensor:
        if self.config.loss == "hierarchical-softmax":
            return hierarchical_softmax_log_prob(hidden, self._nodes(), self._tree).exp()
        logits = hidden @ self.output.T
        return logits.softmax(-1) if self.config.loss == "softmax" else logits.sigmoid()


def _dense(matrix: Matrix) -> np.ndarray:
    """A copy in float32."""
    return matrix.dense() if isinstance(matrix, QuantisedMatrix) else matrix.copy()


def _lines(text: str) -> list[list[str]]:
    """The words of each line as fastText reads them, their end among them; a written one counts, too."""
    lines: list[list[str]] = [[]]
    for token in _SPACES.split(text.replace("\n", f" {LINE_END} ")):
        if token:
            lines[-1].append(token)
        if token == LINE_END:
            lines.append([])
    return lines if lines[-1] else lines[:-1]


register(
    Card(
        name="fasttext-classifier",
        family="shallow",
        title="fastText classifier",
        authors="Joulin et al.",
        paper="Bag of Tricks for Efficient Text Classification",
        year=2017,
        link="https://arxiv.org/abs/1607.01759",
        encoder="the mean of the vectors of words and of word n-grams",
        objective="the label of a line: softmax, hierarchical softmax, negative sampling or one against all",
        build=FastTextClassifier,
        presets={loss: {"loss": loss} for loss in LOSSES},
    )
)
