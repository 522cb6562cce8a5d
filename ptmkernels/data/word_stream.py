"""A text as a vocabulary and a stream of word ids on disk: memory does not grow with the corpus."""

from __future__ import annotations

import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ptmkernels._corpus import Encoder, VocabularyCounter
from ptmkernels.compressed import plain_path

__all__ = ["Vocabulary", "WordStream"]

Source = str | os.PathLike | Iterable[Iterable[str]]
Progress = Callable[[int], None] | None
_PIECE = 1 << 22  # ids read at a time


class Vocabulary:
    """Words by falling count.

    Attributes:
        words: V words.
        counts: int64 (V,).

    Raises:
        ValueError: there are more or fewer counts than words.
    """

    def __init__(self, words: list[str], counts: np.ndarray):
        self.words, self.counts = words, np.asarray(counts, dtype=np.int64)
        if self.counts.shape != (len(words),):
            raise ValueError(f"counts has shape {self.counts.shape}; expected ({len(words)},)")

    @staticmethod
    def count(
        source: Source,
        min_count: int = 5,
        max_words: int = 0,
        threads: int = 1,
        progress: Progress = None,
        errors: str = "strict",
    ) -> Vocabulary:
        """Count the words of a text file, or of sentences given as lists of words.

        Args:
            source: a path to UTF-8 text (.gz and .bz2: compressed), or sentences.
            min_count: rarer words are left out.
            max_words: a larger table drops its rarest words while counting; 0 = never.
            threads: for a file.
            progress: called with the bytes done.
            errors: of a file; what becomes of bytes that are not UTF-8: "strict" (refused), "ignore" or
                "replace".

        Raises:
            ValueError: not UTF-8 (file and byte, or sentence and word, are named), a pipe, or no word is
                frequent enough.
            TypeError: a sentence is no list of words, or the sentences can be read only once.
        """
        counter = VocabularyCounter(max_words)
        if (path := _path(source)) is not None:
            with plain_path(path, errors) as plain:
                counter.add_file(plain, threads=threads, progress=progress)
        else:
            for words in _sentences(source):
                counter.add_words(words)
        pairs = counter.most_common(min_count)
        if not pairs:
            raise ValueError(
                f"the vocabulary is empty: none of the {counter.total} words occurs {min_count} times"
            )
        return Vocabulary([w for w, _ in pairs], np.array([c for _, c in pairs]))

    def __len__(self) -> int:
        return len(self.words)


def _path(source: Source) -> str | None:
    """The path that a source is, or None.

    Raises:
        ValueError: what is there can be read only once (it is counted, then encoded).
    """
    if not isinstance(source, (str, os.PathLike)):
        return None
    mode = os.stat(source).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode):
        raise ValueError(f"{source} can be read only once; expected a file, which is read twice")
    return os.fspath(source)


def _sentences(sentences: Iterable[Iterable[str]]) -> Iterator[list[bytes]]:
    """The words of each sentence in UTF-8, as they are: one with white space in it is one word.

    Raises:
        ValueError: a word is no text.
        TypeError: a sentence is no list of words (the characters of a string would count as words), or the
            sentences can be read only once (they are counted, then encoded).
    """
    if iter(sentences) is sentences:
        raise TypeError("source can be read only once; expected a list of sentences or a path")
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            raise TypeError(f"sentence {number} of source is a string; expected a list of words")
        words = list(sentence)
        try:
            yield [word.encode() for word in words]
        except AttributeError:
            raise TypeError(f"sentence {number} of source is no list of words: {words!r}") from None
        except UnicodeEncodeError:
            raise ValueError(_no_text(number, words)) from None


def _no_text(number: int, words: list[str]) -> str:
    """Which word of a sentence UTF-8 does not know."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            reason = error.reason
            break
    return (
        f"sentence {number} of source holds {word!r}, no text ({reason}); lines that are not clean are read "
        'with open(path, errors="replace") or "ignore"'
    )


class WordStream:
    """The ids of a corpus, int32 with -1 at the end of each sentence, in a temporary file.

    The file goes when the stream is closed: a context manager.

    Args:
        source: a path to UTF-8 text (.gz and .bz2: compressed), or sentences.
        vocabulary: words that are not in it are left out.
        threads: for a file.
        progress: called with the bytes done.
        errors: as :meth:`Vocabulary.count` has it.
    """

    def __init__(
        self,
        source: Source,
        vocabulary: Vocabulary,
        threads: int = 1,
        progress: Progress = None,
        errors: str = "strict",
    ):
        self._folder = tempfile.TemporaryDirectory(prefix="ptmkernels-")
        self._path = Path(self._folder.name) / "ids"
        try:
            words = [word.encode("utf-8", "surrogateescape") for word in vocabulary.words]
            self._encode(source, Encoder(words), threads, progress, errors)
        except BaseException:
            self.close()
            raise
        self.length = self._path.stat().st_size // 4

    def _encode(
        self, source: Source, encoder: Encoder, threads: int, progress: Progress, errors: str
    ) -> None:
        if (path := _path(source)) is not None:
            with plain_path(path, errors) as plain:
                encoder.encode_file(plain, str(self._path), threads=threads, progress=progress)
            return
        with self._path.open("wb") as file:
            for words in _sentences(source):
                file.write(encoder.encode_words(words).tobytes())

    def close(self) -> None:
        """Remove the file."""
        self._folder.cleanup()

    def __enter__(self) -> WordStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

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

    def checksum(self) -> int:
        """The CRC-32 of the ids: two texts that are trained alike have the same."""
        checksum = 0
        for start in range(0, self.length, _PIECE):
            checksum = zlib.crc32(self._read(start, _PIECE), checksum)
        return checksum

    def _read(self, start: int, count: int) -> np.ndarray:
        """Up to `count` ids; not mapped into memory, where the pages read would stay."""
        return np.fromfile(self._path, np.int32, count, offset=4 * start)
