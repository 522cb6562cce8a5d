"""The .bin files of fastText 0.9.2 (version 12), of word vectors and of classifiers, as plain data."""

from __future__ import annotations

import dataclasses
import mmap
import os
import struct
from typing import BinaryIO

import numpy as np

from ptmkernels.files import atomic_file

__all__ = ["FastTextFile", "read_fasttext", "write_fasttext"]

_MAGIC, _VERSION = 793712314, 12
_HEADER, _ARGUMENTS, _SIZES, _MATRIX = "<2i", "<12id", "<3i2q", "<?2q"
_ENTRY = "<qb"  # behind each word and a zero byte: count, and 0 for a word or 1 for a label
_LOSSES = ("hierarchical-softmax", "negative-sampling", "softmax", "one-vs-all")  # from 1 on
_ARCHITECTURES = ("cbow", "skip-gram", "classifier")  # from 1 on
# What fastText writes of the training alone: its default number of epochs, and of words between two
# updates of the learning rate.
_EPOCHS, _UPDATE_RATE = 5, 100


@dataclasses.dataclass(frozen=True)
class FastTextFile:
    """What a file holds.

    Attributes:
        loss: "hierarchical-softmax", "negative-sampling", "softmax" or "one-vs-all".
        architecture: "cbow", "skip-gram" or "classifier".
        word_ngrams, min_n, max_n: longest n-gram of words; shortest and longest of characters.
        bucket: rows of `input` for n-grams, behind those of the words; 0 where there are none.
        words: with the labels, the last `labels` of them, behind; each group by falling count.
        counts: int64, of each of `words`.
        input: float32 (words without labels + bucket, D).
        output: float32 (O, D): a row a label for classifiers, else a row a word. With the hierarchical
            softmax they belong to the inner nodes, and the last one is not used.
    """

    loss: str
    architecture: str
    window: int
    min_count: int
    negative: int
    word_ngrams: int
    bucket: int
    min_n: int
    max_n: int
    sample: float
    words: list[str]
    counts: np.ndarray
    labels: int
    input: np.ndarray
    output: np.ndarray

    @property
    def width(self) -> int:
        """D."""
        return self.input.shape[1]


def write_fasttext(path: str | os.PathLike, file: FastTextFile) -> None:
    """Write a file, whole or not at all.

    Raises:
        ValueError: a word holds a zero byte, which would end it.
    """
    size = len(file.words)
    with atomic_file(path) as temporary, temporary.open("wb") as out:
        out.write(struct.pack(_HEADER, _MAGIC, _VERSION))
        out.write(
            struct.pack(
                _ARGUMENTS, file.width, file.window, _EPOCHS, file.min_count, file.negative,
                file.word_ngrams, _LOSSES.index(file.loss) + 1,
                _ARCHITECTURES.index(file.architecture) + 1, file.bucket, file.min_n, file.max_n,
                _UPDATE_RATE, file.sample,
            )
        )  # fmt: skip
        sizes = (size, size - file.labels, file.labels, int(file.counts.sum()), -1)
        out.write(struct.pack(_SIZES, *sizes))
        for i, (word, count) in enumerate(zip(file.words, file.counts, strict=True)):
            if "\0" in word:
                raise ValueError(f"words[{i}] is {word!r}: a zero byte ends a word in {path}")
            label = i >= size - file.labels
            out.write(word.encode() + b"\0" + struct.pack(_ENTRY, int(count), label))
        for matrix in (file.input, file.output):
            _write_matrix(out, matrix)


def _write_matrix(out: BinaryIO, matrix: np.ndarray) -> None:
    out.write(struct.pack(_MATRIX, False, *matrix.shape))
    piece = 1 << 16  # rows: no second copy of a large matrix
    for start in range(0, len(matrix), piece):
        out.write(np.ascontiguousarray(matrix[start : start + piece], "<f4").tobytes())


def read_fasttext(path: str | os.PathLike) -> FastTextFile:
    """Read a file of version 11 or 12 that is not quantised; its matrices stay on disk until touched.

    Nothing is allocated by a size that the file claims: each is held against the file's length first.

    Raises:
        ValueError: the file is no such one, breaks off or contradicts itself; the message says at which
            byte and why.
        OSError: it cannot be read.
    """
    reader = _Reader(path)
    arguments = _read_arguments(reader)
    words, counts, labels = _read_dictionary(reader)
    rows = len(words) - labels
    outputs = labels if arguments["architecture"] == "classifier" else rows
    width = arguments.pop("width")
    matrices = {
        "input": _read_matrix(reader, "input", rows + arguments["bucket"], width),
        "output": _read_matrix(reader, "output", outputs, width),
    }
    if reader.left:
        raise reader.error(f"{reader.left} bytes follow the output matrix; expected none")
    return FastTextFile(**arguments, words=words, counts=counts, labels=labels, **matrices)


class _Reader:
    """Takes one thing after the other from a file."""

    def __init__(self, path: str | os.PathLike):
        self.path, self.at = path, 0
        with open(path, "rb") as file:
            # An empty file cannot be mapped.
            empty = os.fstat(file.fileno()).st_size == 0
            self.data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def error(self, problem: str, at: int | None = None) -> ValueError:
        return ValueError(f"{self.path}, byte {self.at if at is None else at}: {problem}")

    def numbers(self, layout: str, what: str) -> tuple:
        return struct.unpack_from(layout, self.data, self._take(struct.calcsize(layout), what))

    def word(self, what: str) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.error(f"{what} has no end")
        start = self._take(end + 1 - self.at, what)
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", start + error.start) from None

    def matrix(self, rows: int, columns: int, what: str) -> np.ndarray:
        start = self._take(4 * rows * columns, what)
        return np.frombuffer(self.data, "<f4", rows * columns, start).reshape(rows, columns)

    def _take(self, length: int, what: str) -> int:
        if length > self.left:
            raise self.error(f"{what} needs {length} bytes, but the file has {self.left} more")
        start = self.at
        self.at += length
        return start


def _read_arguments(reader: _Reader) -> dict:
    if reader.data[:4] != struct.pack("<i", _MAGIC):
        raise ValueError(
            f"{reader.path} is not a fastText file: it starts with {reader.data[:4]!r}"
        )
    _, version = reader.numbers(_HEADER, "the header")
    if version not in (11, _VERSION):
        raise reader.error(f"the version is {version}; expected 11 or {_VERSION}", 4)
    start = reader.at
    width, window, _, min_count, negative, word_ngrams, loss, architecture, *rest = reader.numbers(
        _ARGUMENTS, "the arguments"
    )
    bucket, min_n, max_n, _, sample = rest
    for name, value, low, high in (
        ("the dimension", width, 1, None),
        ("the loss", loss, 1, len(_LOSSES)),
        ("the architecture", architecture, 1, len(_ARCHITECTURES)),
        ("the number of buckets", bucket, 0, None),
        ("the shortest n-gram", min_n, 0, None),
        ("the longest n-gram", max_n, 0, None),
    ):
        if value < low or (high is not None and value > high):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            raise reader.error(f"{name} is {value}; expected {expected}", start)
    if bucket == 0 and (max_n > 0 or word_ngrams > 1):
        raise reader.error(
            f"no bucket for n-grams of {word_ngrams} words, {max_n} characters", start
        )
    names = {"loss": _LOSSES[loss - 1], "architecture": _ARCHITECTURES[architecture - 1]}
    if version == 11 and names["architecture"] == "classifier":
        max_n = 0  # these files name n-grams of characters, but were trained without
    return names | {
        "width": width, "window": window, "min_count": min_count, "negative": negative,
        "word_ngrams": word_ngrams, "bucket": bucket, "min_n": min_n, "max_n": max_n, "sample": sample,
    }  # fmt: skip


def _read_dictionary(reader: _Reader) -> tuple[list[str], np.ndarray, int]:
    """Words with the labels behind, the count of each, and the number of labels."""
    start = reader.at
    size, words, labels, _, pruned = reader.numbers(_SIZES, "the dictionary's sizes")
    if pruned >= 0:
        raise reader.error(
            f"the dictionary is pruned to {pruned} n-grams, as `quantize` does; expected a file as it "
            "was trained",
            start,
        )
    if min(words, labels) < 0 or words + labels != size:
        raise reader.error(f"{size} entries are not {words} words and {labels} labels", start)
    least = 1 + struct.calcsize(_ENTRY)
    if size * least > reader.left:
        raise reader.error(f"{size} entries need more than the {reader.left} bytes that follow")
    names, counts = [], np.empty(size, np.int64)
    for i in range(size):
        what = f"word {i} of the dictionary"
        names.append(reader.word(what))
        counts[i], kind = reader.numbers(_ENTRY, what)
        if kind != (i >= words):
            raise reader.error(f"{what} has type {kind}; expected {int(i >= words)}", reader.at - 1)
    if len(set(names)) != size:
        raise reader.error("the dictionary holds a word twice", start)
    return names, counts, labels


def _read_matrix(reader: _Reader, name: str, rows: int, columns: int) -> np.ndarray:
    start, what = reader.at, f"the {name} matrix"
    quantised, *shape = reader.numbers(_MATRIX, what)
    if quantised:
        raise reader.error(f"{what} is quantised; expected a file as it was trained", start)
    if shape != [rows, columns]:
        raise reader.error(
            f"{what} is {shape[0]} by {shape[1]}; expected {rows} by {columns}", start
        )
    return reader.matrix(rows, columns, what)
