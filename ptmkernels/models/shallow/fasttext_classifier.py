"""fastText's classifier: the mean of word and n-gram vectors, and one layer.

Joulin et al., "Bag of tricks for efficient text classification" (EACL 2017).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, embedding_bag

from ptmkernels._corpus import VocabularyCounter, subword_buckets, word_ngram_buckets
from ptmkernels.files import read_utf8
from ptmkernels.models.shallow.fasttext import check_ngrams
from ptmkernels.models.shallow.fasttext_file import FastTextFile, read_fasttext, write_fasttext
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

    def fit(
        self, path: str | os.PathLike, epochs: int = 5, batch_size: int = 16
    ) -> FastTextClassifier:
        """Train on a text file; gradients of a batch's lines are added up, the learning rate falls to 0.

        Raises:
            ValueError: the text has no label or no word often enough, or is not UTF-8 (file and byte are
                named).
        """
        lines = _lines(read_utf8(path).removesuffix("\n") + "\n")
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

    def predict(self, line: str, count: int = 1) -> list[tuple[str, float]]:
        """The likeliest labels of a line with their probabilities; none where it has no known word.

        Raises:
            RuntimeError: the model is not trained.
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        self._check_trained()
        check_type("line", line, str)
        check_whole("count", count, 1)
        ids = self._ids(_lines(line + "\n")[0])
        if not ids:
            return []
        with torch.no_grad():
            probability = self._probabilities(self._hidden([ids]))[0]
        best = probability.topk(min(count, len(self.labels)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.labels[i], p) for i, p in pairs]

    def save_fasttext(self, path: str | os.PathLike) -> None:
        """Write the .bin file of fastText 0.9.2 (version 12).

        Raises:
            RuntimeError: the model is not trained.
        """
        config = self.config
        self._check_trained()
        file = FastTextFile(
            loss=config.loss, architecture="classifier", window=5, min_count=config.min_count,
            negative=config.negative, word_ngrams=config.word_ngrams, bucket=config.hashed_rows,
            min_n=config.min_n, max_n=config.max_n, sample=1e-4, words=self.words + self.labels,
            counts=self.counts, labels=len(self.labels), input=self.input.detach().numpy(),
            output=self.output.detach().numpy(),
        )  # fmt: skip
        write_fasttext(path, file)

    @classmethod
    def load_fasttext(cls, path: str | os.PathLike) -> FastTextClassifier:
        """Read a .bin file of fastText's `supervised`, not quantised.

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
        model.input, model.output = (
            torch.from_numpy(m.copy()).requires_grad_() for m in (file.input, file.output)
        )
        return model

    def _check_trained(self) -> None:
        if not self.labels:
            raise RuntimeError("the model has no labels yet: call fit first")

    def _begin(self, lines: Iterable[list[str]]) -> None:
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
        config, size, ids, words = self.config, len(self.words), [], []
        for token in line:
            own = self._word_index.get(token)
            if own is None and (token in self._label_index or token.startswith(LABEL)):
                continue
            words.append(token)
            if own is not None:
                ids.append(own)
            if config.max_n:
                buckets = subword_buckets([token], config.min_n, config.max_n, config.bucket)[1]
                ids += (buckets.astype(np.int64) + size).tolist()
        if config.word_ngrams > 1:
            buckets = word_ngram_buckets(words, config.word_ngrams, config.bucket)
            ids += (buckets.astype(np.int64) + size).tolist()
        return ids

    def _targets(self, line: list[str]) -> list[int]:
        return [self._label_index[token] for token in line if token in self._label_index]

    def _hidden(self, ids: Iterable[list[int]]) -> Tensor:
        """The mean of the rows of each line, (B, D)."""
        ids = list(ids)
        ends = torch.tensor([0, *map(len, ids)]).cumsum(0)
        flat = torch.tensor([i for line in ids for i in line])
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
