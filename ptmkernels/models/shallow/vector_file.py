"""The text and binary files of word vectors: word2vec's, with a first line "V D", and GloVe's, without.

They are read as a stream, so that little more than the vectors themselves is in memory.
"""

from __future__ import annotations

import codecs
import os
import re
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ptmkernels.compressed import compression, open_bytes
from ptmkernels.files import atomic_file
from ptmkernels.ops.word_vectors.checks import check_whole
from ptmkernels.undecodable import check_errors

__all__ = ["read_vectors", "write_vectors"]

_SPACE = re.compile("[ \\t\\n\\v\\f\\r]")
_PIECE = (
    1 << 20
)  # bytes of a binary file, or rows of numbers, that are in memory besides the vectors
_ROWS = 1 << 10


def read_vectors(
    path: str | os.PathLike, binary: bool | None, limit: int | None, errors: str
) -> tuple[list[str], np.ndarray]:
    """Words, each once, and their vectors, float32 (V, D); see :meth:`WordVectors.load_word2vec`."""
    if limit is not None:
        check_whole("limit", limit, 1)
    check_errors(errors)
    with open_bytes(path) as file:
        reader = _Reader(path, file, errors)
        header = reader.line()
        shape = _shape(header)
        if shape is None:
            if binary:
                raise reader.error(f"the first line is {header[:40]!r}; expected 'words width'")
            rows = reader.text_without_header(header)
        else:
            _check_shape(reader, *shape)
            text = not binary if binary is not None else _is_text(reader.peek_line())
            rows = (reader.text if text else reader.binary)(*shape)
        return _collect(path, rows, limit)


def write_vectors(
    path: str | os.PathLike, words: Sequence[str], vectors: np.ndarray, binary: bool
) -> None:
    """See :meth:`WordVectors.save_word2vec`."""
    encoded = []
    for i, word in enumerate(words):
        if not word or _SPACE.search(word):
            raise ValueError(f"words[{i}] is {word!r}; white space ends a word in {path}")
        try:
            encoded.append(word.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"words[{i}] is {word!r}, no text: {error.reason}") from None
    with atomic_file(path) as temporary, open_bytes(temporary, "wb", name=path) as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n".encode())
        for start in range(0, len(words), _ROWS):
            rows = vectors[start : start + _ROWS]
            lines = (row.astype("<f4").tobytes() for row in rows) if binary else _numbers(rows)
            file.writelines(
                b"%b %b\n" % line
                for line in zip(encoded[start : start + _ROWS], lines, strict=True)
            )


def _numbers(rows: np.ndarray) -> Iterator[bytes]:
    """Each row in digits: the fewest that read back as the same float32."""
    for row in rows.astype(np.float32):
        yield " ".join(row.astype(str).tolist()).encode()


def _shape(header: bytes) -> tuple[int, int] | None:
    """What a first line "V D" says, or None."""
    try:
        count, width = map(int, header.split())
    except ValueError:
        return None
    return count, width


def _check_shape(reader: _Reader, count: int, width: int) -> None:
    # The least that so many words take: each number at least " 0" or four bytes.
    if (
        count < 1
        or width < 1
        or (reader.left is not None and count * (1 + 2 * width) > reader.left)
    ):
        follow = "" if reader.left is None else f", but {reader.left} bytes follow"
        raise reader.error(f"the first line tells of {count} words of {width} numbers{follow}")


def _is_text(line: bytes) -> bool:
    """Whether what follows the first word in a line is ASCII and ends with a number in digits."""
    numbers = line.split()[1:]
    return bool(numbers) and b"".join(numbers).isascii() and _is_number(numbers[-1])


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _collect(
    path, rows: Iterable[tuple[str, np.ndarray]], limit: int | None
) -> tuple[list[str], np.ndarray]:
    """The first `limit` different words, and their vectors in memory that grows where it lies."""
    seen: dict[str, None] = {}  # in order
    numbers, twice, example = array("f"), 0, ""
    for word, vector in rows:
        if word in seen:
            twice, example = twice + 1, example or word
            continue
        seen[word] = None
        numbers.frombytes(vector.tobytes())
        if len(seen) == limit:
            break
    if twice:
        warnings.warn(
            f"{path} holds {twice} words that came before, {example!r} first; the first of each is kept",
            stacklevel=4,
        )
    return list(seen), np.frombuffer(numbers, np.float32).reshape(len(seen), -1)


class _Reader:
    """A file that is gone through once; `at` is the byte that comes next."""

    def __init__(self, path, file: BinaryIO, errors: str):
        self.path, self.errors, self.at = path, errors, 0
        self._file, self._ahead = file, b""
        plain = Path(path).is_file() and not compression(path)
        self._size = os.path.getsize(path) if plain else None
        self._ahead = file.read(len(codecs.BOM_UTF8))
        if self._ahead == codecs.BOM_UTF8:
            self._ahead, self.at = b"", len(codecs.BOM_UTF8)

    @property
    def left(self) -> int | None:
        """Bytes that follow; None where nobody knows."""
        return None if self._size is None else self._size - self.at

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}: {message}")

    def line(self) -> bytes:
        """The next line, its end included; empty at the end of the file."""
        line = self.peek_line()
        self._ahead = self._ahead[len(line) :]
        self.at += len(line)
        return line

    def peek_line(self) -> bytes:
        if b"\n" not in self._ahead:
            self._ahead += self._file.readline()
        end = self._ahead.find(b"\n") + 1
        return self._ahead[:end] if end else self._ahead

    def word(self, data: bytes, at: int) -> str:
        """`data` as text; it begins at byte `at` of the file."""
        try:
            return data.decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            raise self.error(
                f"not UTF-8 at byte {at + error.start}, in the word {data!r}; errors='ignore' or 'replace' "
                "reads it all the same"
            ) from None

    def text(self, count: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
        """`count` lines of a word and numbers."""
        for i in range(count):
            at, line = self.at, self.line()
            word, *numbers = line.split(b" ")
            numbers = [x for x in numbers if x.strip()]
            yield self.word(word, at), self._vector(i + 2, numbers, width)

    def text_without_header(self, line: bytes) -> Iterator[tuple[str, np.ndarray]]:
        """All lines, `line` the first. A word may hold spaces here, as some of GloVe's do."""
        width = len(line.split()) - 1
        if width < 1 or not _is_text(line):
            raise self.error(
                f"the first line is {line[:40]!r}; expected 'words width', or a word and its numbers"
            )
        number, at = 1, self.at - len(line)
        while line:
            word, *numbers = line.rstrip().rsplit(b" ", width)
            extra = [x for x in word.split(b" ")[1:] if _is_number(x)]
            yield self.word(word, at), self._vector(number, extra + numbers, width)
            number, at = number + 1, self.at
            line = self.line()

    def _vector(self, line: int, numbers: list[bytes], width: int) -> np.ndarray:
        if len(numbers) != width:
            raise self.error(f"line {line} has {len(numbers)} numbers; expected {width}")
        try:
            return np.array(numbers, dtype=np.float32)
        except ValueError as error:
            raise self.error(f"line {line}: {error}") from None

    def binary(self, count: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
        """`count` words, each with its numbers behind a space."""
        data, start = self._ahead, 0
        for i in range(count):
            while (end := data.find(b" ", start)) < 0 or end + 1 + 4 * width > len(data):
                more = self._file.read(_PIECE)
                if not more:
                    raise self.error(f"breaks off at word {i} of {count}")
                data, start = data[start:] + more, 0
            word = data[start:end].lstrip(b"\n")
            yield (
                self.word(word, self.at + end - start - len(word)),
                np.frombuffer(data, "<f4", width, end + 1),
            )
            self.at += end + 1 + 4 * width - start
            start = end + 1 + 4 * width
