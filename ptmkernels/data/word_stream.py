"""A text as a vocabulary and a stream of word ids on disk: memory does not grow with the corpus."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ptmkernels._corpus import Encoder, VocabularyCounter

__all__ = ["Vocabulary", "WordStream"]

Source = str | os.PathLike | Iterable[Iterable[str]]
Progress = Callable[[int], None] | None


class Vocabulary:
    """Words by falling count.

    Attributes:
        words: V words.
        counts: int64 (V,).
    """

    def __init__(self, words: list[str], counts: np.ndarray):
        self.words, self.counts = words, np.asarray(counts, dtype=np.int64)

    @staticmethod
    def count(
        source: Source,
        min_count: int = 5,
        max_words: int = 0,
        threads: int = 1,
        progress: Progress = None,
    ) -> Vocabulary:
        """Count the words of a text file, or of sentences given as lists of words.

        Args:
            source: a path to UTF-8 text, or sentences.
            min_count: rarer words are left out.
            max_words: a larger table drops its rarest words while counting; 0 = never.
            threads: for a file.
            progress: called with the bytes done.

        Raises:
            ValueError: not UTF-8 (file and byte are named), or no word is frequent enough.
            TypeError: a sentence is a string, or the sentences can be read only once.
        """
        counter = VocabularyCounter(max_words)
        if isinstance(source, (str, os.PathLike)):
            counter.add_file(os.fspath(source), threads=threads, progress=progress)
        else:
            for line in _lines(source):
                counter.add_line(line)
        pairs = counter.most_common(min_count)
        if not pairs:
            raise ValueError(
                f"the vocabulary is empty: none of the {counter.total} words occurs {min_count} times"
            )
        return Vocabulary([w for w, _ in pairs], np.array([c for _, c in pairs]))

    def __len__(self) -> int:
        return len(self.words)


def _lines(sentences: Iterable[Iterable[str]]) -> Iterator[str]:
    """Each sentence as a line.

    Raises:
        TypeError: a sentence is a string, whose characters would count as words, or the sentences can be
            read only once (they are counted, then encoded).
    """
    if iter(sentences) is sentences:
        raise TypeError("source can be read only once; expected a list of sentences or a path")
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            raise TypeError(f"sentence {number} of source is a string; expected a list of words")
        yield " ".join(sentence)


class WordStream:
    """The ids of a corpus, int32 with -1 at the end of each sentence, in a temporary file.

    Args:
        source: a path to UTF-8 text, or sentences.
        vocabulary: words that are not in it are left out.
        threads: for a file.
        progress: called with the bytes done.
    """

    def __init__(
        self, source: Source, vocabulary: Vocabulary, threads: int = 1, progress: Progress = None
    ):
        self._folder = tempfile.TemporaryDirectory(prefix="ptmkernels-")
        self._path = path = Path(self._folder.name) / "ids"
        encoder = Encoder(vocabulary.words)
        if isinstance(source, (str, os.PathLike)):
            self.length = encoder.encode_file(
                os.fspath(source), str(path), threads=threads, progress=progress
            )
        else:
            with path.open("wb") as file:
                for line in _lines(source):
                    file.write(encoder.encode(line + "\n").tobytes())
            self.length = path.stat().st_size // 4

    def __len__(self) -> int:
        return self.length

    def pieces(self, size: int, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(place, ids) of pieces of about `size` that end with a sentence, from `start` on."""
        while start < self.length:
            ids = self._read(start, size)
            if ids[-1] >= 0:
                rest = self._read(start + len(ids), size)
                ends = np.flatnonzero(rest < 0)
                ids = np.concatenate([ids, rest[: ends[0] + 1] if len(ends) else rest])
            yield start, ids
            start += len(ids)

    def _read(self, start: int, count: int) -> np.ndarray:
        """Up to `count` ids; not mapped into memory, where the pages read would stay."""
        return np.fromfile(self._path, np.int32, count, offset=4 * start)
