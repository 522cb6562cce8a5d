"""Word vectors by word: look-up, neighbours and other comparisons, a map."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch

from ptmkernels.models.shallow import evaluation
from ptmkernels.models.shallow.vector_file import read_vectors, write_vectors
from ptmkernels.ops.word_vectors.checks import check_whole

__all__ = ["WordVectors"]

_QUERIES = 128  # that are compared with all words at once
_ALMOST_ZERO = 1e-6  # of most_similar_cosmul: Levy and Goldberg 2014, equation 4


class WordVectors:
    """Vectors (V, D) and their words.

    Args:
        words: V words, each once.
        vectors: float32 (V, D). Their norms are kept from when they are first needed: give changed vectors
            to a new object, or set the attribute anew.
        counts: int64 (V,), how often each word occurs; None = not known.

    A vector of zeros has the cosine 0 with any other.

    Raises:
        ValueError: the numbers of words, vectors and counts differ, or a word occurs twice.
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray, counts: np.ndarray | None = None):
        self.words = list(words)
        self.vectors = vectors
        if self.vectors.ndim != 2 or len(self.words) != len(self.vectors):
            raise ValueError(
                f"vectors has shape {self.vectors.shape}; expected ({len(self.words)}, D), a row a word"
            )
        self.counts = None if counts is None else np.asarray(counts, np.int64)
        if counts is not None and self.counts.shape != (len(self.words),):
            raise ValueError(f"counts has shape {self.counts.shape}; expected ({len(self.words)},)")
        self.index = {word: i for i, word in enumerate(self.words)}
        if len(self.index) != len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self.index[word] != i)
            raise ValueError(f"words holds {twice!r} twice")

    @property
    def vectors(self) -> np.ndarray:
        """float32 (V, D)."""
        return self._vectors

    @vectors.setter
    def vectors(self, vectors: np.ndarray) -> None:
        self._vectors = np.asarray(vectors, dtype=np.float32)
        self._inverse_norms: np.ndarray | None = None

    @property
    def inverse_norms(self) -> np.ndarray:
        """float32 (V,): 1 / the norm of each vector, 0 for a vector of zeros."""
        if self._inverse_norms is None:
            self._inverse_norms = _inverse_norms(self.vectors)
        return self._inverse_norms

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def __getitem__(self, word: str) -> np.ndarray:
        """The vector of a word, (D,). Raises KeyError where it is unknown."""
        return self.vectors[self._place(word)]

    def _place(self, word: str) -> int:
        if word not in self.index:
            raise KeyError(f"{word!r} is not in the vocabulary of {len(self)} words")
        return self.index[word]

    def _places(self, words: Iterable[str]) -> list[int]:
        return [self._place(word) for word in words]

    def units(self, words: Sequence[str]) -> np.ndarray:
        """The vectors of words at length 1, (n, D); zeros stay zeros."""
        places = self._places(words)
        return self.vectors[places] * self.inverse_norms[places, None]

    def count(self, word: str) -> int:
        """How often a word occurs in the text. Raises KeyError where it is unknown."""
        place = self._place(word)
        if self.counts is None:
            raise ValueError("the counts of these words are not known: their file has none")
        return int(self.counts[place])

    def similarity(self, first: str, second: str) -> float:
        """The cosine of two words' vectors."""
        a, b = self.units([first, second])
        return float(a @ b)

    def n_similarity(self, first: Sequence[str], second: Sequence[str]) -> float:
        """The cosine of the means of two sets of words' vectors."""
        means = []
        for name, words in (("first", as_words(first)), ("second", as_words(second))):
            if not words:
                raise ValueError(f"{name} is empty; expected at least one word")
            means.append(self.vectors[self._places(words)].mean(0))
        return float(np.prod(_inverse_norms(np.stack(means))) * (means[0] @ means[1]))

    def distances(self, word: str | np.ndarray, others: Sequence[str] | None = None) -> np.ndarray:
        """1 - cosine of a word (or a vector, (D,)) and each of others, (n,); None = all words."""
        query = self[word] if isinstance(word, str) else np.asarray(word, np.float32)
        if others is None:
            return 1 - self._cosines(_unit(self._checked(query)))
        return 1 - self.units(others) @ _unit(self._checked(query))

    def rank(self, word: str, other: str) -> int:
        """The place of `other` among the neighbours of `word`: 1 = nobody is nearer."""
        distances = self.distances(word)
        nearer = distances < distances[self._place(other)]
        nearer[self._place(word)] = False
        return int(nearer.sum()) + 1

    def doesnt_match(self, words: Sequence[str]) -> str:
        """The word that is farthest from the mean of all. Unknown ones are left out, with a warning."""
        known = [word for word in words if word in self]
        if len(known) < len(words):
            unknown = sorted({*words} - {*known})
            warnings.warn(f"not in the vocabulary, left out: {', '.join(unknown)}", stacklevel=2)
        if not known:
            raise ValueError("words holds no word of the vocabulary; expected at least one")
        units = self.units(known)
        return min(zip((units @ _unit(units.mean(0))).tolist(), known, strict=True))[1]

    def most_similar(
        self,
        positive: str | Sequence[str],
        negative: str | Sequence[str] = (),
        count: int = 10,
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]]:
        """The words nearest to a sum of normalised vectors, with their cosines.

        ``most_similar(["king", "woman"], ["man"])`` is the analogy of Mikolov et al. 2013. The given words
        are left out.

        Args:
            count: of the words found.
            restrict_vocab: of the first words, the most frequent ones, which alone are looked at; None = all.
        """
        positive, negative = as_words(positive), as_words(negative)
        query = sum_of_units([self[w] for w in positive], [self[w] for w in negative])
        return self.nearest(query, count, {*positive, *negative}, restrict_vocab)

    def most_similar_cosmul(
        self, positive: str | Sequence[str], negative: str | Sequence[str] = (), count: int = 10
    ) -> list[tuple[str, float]]:
        """The words with the largest product of cosines to `positive` divided by that to `negative`.

        Levy and Goldberg, "Linguistic Regularities in Sparse and Explicit Word Representations" (CoNLL
        2014), equation 4, cosines moved to 0 ... 1. The given words are left out.
        """
        check_whole("count", count, 0)
        positive, negative = as_words(positive), as_words(negative)
        if not positive:
            raise ValueError("positive is empty; expected at least one word")

        def product(words: list[str]) -> np.ndarray:
            factors = ((1 + self._cosines(unit)) / 2 for unit in self.units(words))
            return np.prod(list(factors), axis=0) if words else np.float32(1)

        score = product(positive) / (product(negative) + _ALMOST_ZERO)
        return self._best(score, count, self._places([*positive, *negative]))

    def nearest(
        self,
        query: np.ndarray,
        count: int = 10,
        leave_out: Collection[str] = (),
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]]:
        """The words whose vectors have the largest cosines with `query` (D,), some left out."""
        check_whole("count", count, 0)
        score = self._cosines(_unit(self._checked(query)), restrict_vocab)
        return self._best(score, count, [self.index[w] for w in leave_out if w in self.index])

    def neighbors(self, words: Sequence[str], count: int = 10) -> list[list[tuple[str, float]]]:
        """:meth:`most_similar` of each of many words, all at once."""
        check_whole("count", count, 0)
        found = []
        for word, places, scores in zip(
            words, *self.best_of(self.units(words), count + 1), strict=True
        ):
            pairs = ((self.words[i], score) for i, score in zip(places, scores, strict=True))
            found.append([pair for pair in pairs if pair[0] != word][:count])
        return found

    def best_of(
        self, units: np.ndarray, count: int, restrict_vocab: int | None = None
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Places and cosines of the `count` words nearest to each row of `units` (n, D), best first."""
        vectors, norms = self.vectors[:restrict_vocab], self.inverse_norms[:restrict_vocab]
        places: list[list[int]] = []
        scores: list[list[float]] = []
        for start in range(0, len(units), _QUERIES):
            cosines = units[start : start + _QUERIES] @ vectors.T
            cosines *= norms
            best = torch.from_numpy(cosines).topk(min(count, len(vectors)))
            places += best.indices.tolist()
            scores += best.values.tolist()
        return places, scores

    def evaluate_word_analogies(
        self,
        path: str | os.PathLike,
        restrict_vocab: int = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> tuple[float, list[dict]]:
        """See :func:`ptmkernels.models.shallow.evaluation.word_analogies`."""
        return evaluation.word_analogies(
            self, path, restrict_vocab, case_insensitive, dummy4unknown
        )

    def evaluate_word_pairs(
        self,
        path: str | os.PathLike,
        delimiter: str = "\t",
        restrict_vocab: int = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> evaluation.WordPairs:
        """See :func:`ptmkernels.models.shallow.evaluation.word_pairs`."""
        return evaluation.word_pairs(
            self, path, delimiter, restrict_vocab, case_insensitive, dummy4unknown
        )

    def _checked(self, query: np.ndarray) -> np.ndarray:
        if np.shape(query) != self.vectors.shape[1:]:
            raise ValueError(
                f"query has shape {np.shape(query)}; expected {self.vectors.shape[1:]}"
            )
        return query

    def _cosines(self, unit: np.ndarray, restrict_vocab: int | None = None) -> np.ndarray:
        cosines = self.vectors[:restrict_vocab] @ unit
        cosines *= self.inverse_norms[:restrict_vocab]
        return cosines

    def _best(
        self, score: np.ndarray, count: int, leave_out: Collection[int]
    ) -> list[tuple[str, float]]:
        best = torch.from_numpy(score).topk(min(count + len(leave_out), len(score)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.words[i], value) for i, value in pairs if i not in leave_out][:count]

    def save_word2vec(self, path: str | os.PathLike, binary: bool = False) -> None:
        """Write the file that word2vec.c, gensim and fastText read: a line "V D", then word and numbers.

        Numbers have the fewest digits that read back the same. A name that ends with .gz or .bz2 makes a
        compressed file.

        Raises:
            ValueError: a word is empty, is no text (it holds a lone surrogate), or holds white space, which
                ends it in the file.
        """
        write_vectors(path, self.words, self.vectors, binary)

    @staticmethod
    def load_word2vec(
        path: str | os.PathLike,
        binary: bool | None = None,
        *,
        limit: int | None = None,
        errors: str = "strict",
    ) -> WordVectors:
        """Read a word2vec file, or one of GloVe's, which is text without a first line "V D".

        A word that comes again is left out, with a warning that tells how many are. A byte-order mark at the
        start is none of the first word. Names that end with .gz or .bz2 are those of compressed files.

        Args:
            path: of the file.
            binary: None = found out from its second line.
            limit: of the words, the first ones; None = all.
            errors: what becomes of words that are not UTF-8: "strict" (refused), "ignore" or "replace", as
                bytes.decode has them.

        Raises:
            ValueError: the file is none, with the line or word where it breaks off, or a word is not UTF-8
                (file and byte are named).
        """
        return WordVectors(*read_vectors(path, binary, limit, errors))

    def first(self, count: int) -> WordVectors:
        """The vectors of the first `count` words, or of all; the numbers are shared."""
        counts = None if self.counts is None else self.counts[:count]
        return WordVectors(self.words[:count], self.vectors[:count], counts)

    def project(self, words: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Words and their places (n, 2) on the two main axes of their normalised vectors."""
        words = self.words[:300] if words is None else list(words)
        rows = self.units(words)
        centred = rows - rows.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        places = np.zeros((len(words), 2), np.float32)
        places[:, : len(axes[:2])] = centred @ axes[:2].T  # one word or one dimension has one axis
        return words, places

    def plot(self, path: str | os.PathLike, words: Sequence[str] | None = None) -> None:
        """Draw a map of the words (default: the 300 most frequent) as a picture file."""
        from matplotlib.figure import Figure

        names, places = self.project(words)
        figure = Figure(figsize=(12, 9), layout="constrained")
        axes = figure.subplots()
        axes.scatter(*places.T, s=6, color="tab:blue")
        for name, (x, y) in zip(names, places, strict=True):
            text = axes.annotate(
                name, (x, y), fontsize=7, xytext=(2, 2), textcoords="offset points"
            )
            text.set_parse_math(False)  # a dollar sign is one
        axes.set_xticks([])
        axes.set_yticks([])
        figure.savefig(path, dpi=150)


def as_words(words: str | Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def sum_of_units(positive: Sequence[np.ndarray], negative: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of normalised vectors, those of `negative` subtracted."""
    if not len(positive) + len(negative):
        raise ValueError("positive and negative are empty; expected at least one word")
    units = [_unit(vector) for vector in (*positive, *negative)]
    return np.sum(units[: len(positive)], axis=0) - np.sum(units[len(positive) :], axis=0)


def _inverse_norms(vectors: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.einsum("vd,vd->v", vectors, vectors))
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)


def _unit(vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, np.float32)
    return vector * _inverse_norms(vector[None])[0]
