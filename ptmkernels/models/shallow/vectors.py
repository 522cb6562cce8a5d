"""Word vectors by word: look-up, neighbours, and the text and binary files of word2vec."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ptmkernels.files import atomic_file
from ptmkernels.ops.word_vectors.checks import check_whole

__all__ = ["WordVectors"]

_SPACE = re.compile("[ \\t\\n\\v\\f\\r]")


class WordVectors:
    """Vectors (V, D) and their words.

    Args:
        words: V words, each once.
        vectors: float32 (V, D).

    Raises:
        ValueError: the numbers of words and vectors differ, or a word occurs twice.
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray):
        self.words = list(words)
        self.vectors = np.asarray(vectors, dtype=np.float32)
        if self.vectors.ndim != 2 or len(self.words) != len(self.vectors):
            raise ValueError(
                f"vectors has shape {self.vectors.shape}; expected ({len(self.words)}, D), a row a word"
            )
        self.index = {word: i for i, word in enumerate(self.words)}
        if len(self.index) != len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self.index[word] != i)
            raise ValueError(f"words holds {twice!r} twice")

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def __getitem__(self, word: str) -> np.ndarray:
        """The vector of a word, (D,). Raises KeyError where it is unknown."""
        if word not in self.index:
            raise KeyError(f"{word!r} is not in the vocabulary of {len(self)} words")
        return self.vectors[self.index[word]]

    def similarity(self, first: str, second: str) -> float:
        """The cosine of two words' vectors."""
        a, b = self[first], self[second]
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def most_similar(
        self, positive: str | Sequence[str], negative: Sequence[str] = (), count: int = 10
    ) -> list[tuple[str, float]]:
        """The words nearest to a sum of normalised vectors, with their cosines.

        ``most_similar(["king", "woman"], ["man"])`` is the analogy of Mikolov et al. 2013. The given words
        are left out.
        """
        positive, negative = as_words(positive), as_words(negative)
        query = sum_of_units([self[w] for w in positive], [self[w] for w in negative])
        return self.nearest(query, count, {*positive, *negative})

    def nearest(
        self, query: np.ndarray, count: int = 10, leave_out: Collection[str] = ()
    ) -> list[tuple[str, float]]:
        """The words whose vectors have the largest cosines with `query` (D,), some left out."""
        check_whole("count", count, 0)
        if np.shape(query) != self.vectors.shape[1:]:
            raise ValueError(
                f"query has shape {np.shape(query)}; expected {self.vectors.shape[1:]}"
            )
        norms = np.sqrt(np.einsum("vd,vd->v", self.vectors, self.vectors))
        score = (
            self.vectors @ (query / max(np.linalg.norm(query), 1e-12)) / np.maximum(norms, 1e-12)
        )
        order = np.argsort(-score)[: count + len(leave_out)]
        found = [(self.words[i], float(score[i])) for i in order if self.words[i] not in leave_out]
        return found[:count]

    def save_word2vec(self, path: str | os.PathLike, binary: bool = False) -> None:
        """Write the file that word2vec.c, gensim and fastText read: a line "V D", then word and numbers.

        Raises:
            ValueError: a word is empty or holds white space, which ends it in the file.
        """
        for i, word in enumerate(self.words):
            if not word or _SPACE.search(word):
                raise ValueError(f"words[{i}] is {word!r}; white space ends a word in {path}")
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            file.write(f"{len(self)} {self.vectors.shape[1]}\n".encode())
            for word, vector in zip(self.words, self.vectors, strict=True):
                if binary:
                    file.write(word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")
                else:
                    numbers = " ".join(repr(float(x)) for x in vector)
                    file.write(f"{word} {numbers}\n".encode())

    @staticmethod
    def load_word2vec(path: str | os.PathLike, binary: bool | None = None) -> WordVectors:
        """Read a word2vec file.

        Args:
            path: of the file.
            binary: None = found out from its second line.

        Raises:
            ValueError: the file is none, with the line or word where it breaks off, a word is not UTF-8
                (file and byte are named), or occurs twice.
        """
        data = Path(path).read_bytes()
        header, _, body = data.partition(b"\n")
        try:
            count, width = map(int, header.split())
        except ValueError:
            raise ValueError(
                f"{path}: the first line is {header[:40]!r}; expected 'words width'"
            ) from None
        # The least that so many words take: each number at least " 0" or four bytes.
        if count < 1 or width < 1 or count * (1 + 2 * width) > len(body):
            raise ValueError(
                f"{path}: the first line tells of {count} words of {width} numbers, but {len(body)} "
                "bytes follow"
            )
        if binary is None:
            binary = not _is_text(body)
        words, vectors = (_read_binary if binary else _read_text)(
            path, body, len(header) + 1, count, width
        )
        try:
            return WordVectors(words, vectors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def project(self, words: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Words and their places (n, 2) on the two main axes of their normalised vectors."""
        words = self.words[:300] if words is None else list(words)
        rows = np.stack([self[w] / max(np.linalg.norm(self[w]), 1e-12) for w in words])
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
            axes.annotate(name, (x, y), fontsize=7, xytext=(2, 2), textcoords="offset points")
        axes.set_xticks([])
        axes.set_yticks([])
        figure.savefig(path, dpi=150)


def as_words(words: str | Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def sum_of_units(positive: Sequence[np.ndarray], negative: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of normalised vectors, those of `negative` subtracted."""
    if not len(positive) + len(negative):
        raise ValueError("positive and negative are empty; expected at least one word")
    units = [v / max(np.linalg.norm(v), 1e-12) for v in (*positive, *negative)]
    return np.sum(units[: len(positive)], axis=0) - np.sum(units[len(positive) :], axis=0)


def _is_text(body: bytes) -> bool:
    """Whether what follows the first word in its line is ASCII and ends with a number in digits."""
    numbers = body.partition(b"\n")[0].split()[1:]
    if not numbers or not b"".join(numbers).isascii():
        return False
    try:
        float(numbers[-1])
    except ValueError:
        return False
    return True


def _word(path, data: bytes, at: int) -> str:
    """`data` in UTF-8; it begins at byte `at` of the file."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {at + error.start}") from None


def _read_text(path, body: bytes, start: int, count: int, width: int):
    words, vectors = [], np.empty((count, width), dtype=np.float32)
    lines = body.split(b"\n")
    at = start
    for i in range(count):
        line = lines[i] if i < len(lines) else b""
        word, *numbers = line.split(b" ")
        numbers = [x for x in numbers if x.strip()]
        if len(numbers) != width:
            raise ValueError(f"{path}: line {i + 2} has {len(numbers)} numbers; expected {width}")
        words.append(_word(path, word, at))
        try:
            vectors[i] = [float(x) for x in numbers]
        except ValueError as error:
            raise ValueError(f"{path}: line {i + 2}: {error}") from None
        at += len(line) + 1
    return words, vectors


def _read_binary(path, body: bytes, start: int, count: int, width: int):
    words, vectors, at = [], np.empty((count, width), dtype=np.float32), 0
    for i in range(count):
        end = body.find(b" ", at)
        numbers = end + 1
        if end < 0 or numbers + 4 * width > len(body):
            raise ValueError(f"{path}: breaks off at word {i} of {count}")
        word = body[at:end].lstrip(b"\n")
        words.append(_word(path, word, start + end - len(word)))
        vectors[i] = np.frombuffer(body, "<f4", width, numbers)
        at = numbers + 4 * width
    return words, vectors
