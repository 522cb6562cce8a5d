"""Word vectors by word: look-up, neighbours, and the text and binary files of word2vec."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["WordVectors"]


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
            raise ValueError("words holds a word twice")

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
        positive = [positive] if isinstance(positive, str) else list(positive)
        unit = self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)
        query = np.zeros(self.vectors.shape[1], dtype=np.float32)
        for sign, group in ((1, positive), (-1, negative)):
            for word in group:
                vector = self[word]
                query += sign * vector / max(np.linalg.norm(vector), 1e-12)
        score = unit @ (query / max(np.linalg.norm(query), 1e-12))
        given = {*positive, *negative}
        order = np.argsort(-score)[: count + len(given)]
        found = [(self.words[i], float(score[i])) for i in order if self.words[i] not in given]
        return found[:count]

    def save_word2vec(self, path: str | os.PathLike, binary: bool = False) -> None:
        """Write the file that word2vec.c, gensim and fastText read: a line "V D", then word and numbers."""
        temporary = Path(f"{path}.part")
        with temporary.open("wb") as file:
            file.write(f"{len(self)} {self.vectors.shape[1]}\n".encode())
            for word, vector in zip(self.words, self.vectors, strict=True):
                if binary:
                    file.write(word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")
                else:
                    numbers = " ".join(repr(float(x)) for x in vector)
                    file.write(f"{word} {numbers}\n".encode())
        os.replace(temporary, path)

    @staticmethod
    def load_word2vec(path: str | os.PathLike, binary: bool | None = None) -> WordVectors:
        """Read a word2vec file.

        Args:
            path: of the file.
            binary: None = found out from its second line.

        Raises:
            ValueError: the file is none, with the line or word where it breaks off.
        """
        data = Path(path).read_bytes()
        header, _, body = data.partition(b"\n")
        try:
            count, width = map(int, header.split())
        except ValueError:
            raise ValueError(
                f"{path}: the first line is {header[:40]!r}; expected 'words width'"
            ) from None
        if binary is None:
            binary = not _is_text(body, width)
        words, vectors = (_read_binary if binary else _read_text)(path, body, count, width)
        return WordVectors(words, vectors)

    def project(self, words: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Words and their places (n, 2) on the two main axes of their normalised vectors."""
        words = self.words[:300] if words is None else list(words)
        rows = np.stack([self[w] / max(np.linalg.norm(self[w]), 1e-12) for w in words])
        centred = rows - rows.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        return words, centred @ axes[:2].T

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


def _is_text(body: bytes, width: int) -> bool:
    line = body.partition(b"\n")[0].split()
    try:
        return len(line) == width + 1 and all(float(x) == float(x) for x in line[1:])
    except ValueError:
        return False


def _read_text(path, body: bytes, count: int, width: int) -> tuple[list[str], np.ndarray]:
    words, vectors = [], np.empty((count, width), dtype=np.float32)
    lines = body.decode("utf-8").split("\n")
    for i in range(count):
        parts = lines[i].rstrip().split(" ") if i < len(lines) else []
        if len(parts) != width + 1:
            raise ValueError(f"{path}: line {i + 2} has {len(parts) - 1} numbers; expected {width}")
        words.append(parts[0])
        vectors[i] = [float(x) for x in parts[1:]]
    return words, vectors


def _read_binary(path, body: bytes, count: int, width: int) -> tuple[list[str], np.ndarray]:
    words, vectors, at = [], np.empty((count, width), dtype=np.float32), 0
    for i in range(count):
        end = body.find(b" ", at)
        start = end + 1
        if end < 0 or start + 4 * width > len(body):
            raise ValueError(f"{path}: breaks off at word {i} of {count}")
        words.append(body[at:end].lstrip(b"\n").decode("utf-8"))
        vectors[i] = np.frombuffer(body, "<f4", width, start)
        at = start + 4 * width
    return words, vectors
