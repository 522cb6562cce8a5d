"""The .bin and .ftz files of fastText 0.9.2 (version 12), of vectors and of classifiers, as plain data."""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import struct
from typing import BinaryIO

import numpy as np

from ptmkernels.files import atomic_file
from ptmkernels.models.shallow.product_quantiser import (
    CENTROIDS,
    ProductQuantiser,
    QuantisedMatrix,
)

__all__ = ["FastTextFile", "is_fasttext", "read_fasttext", "write_fasttext"]

_MAGIC, _VERSION = 793712314, 12
_HEADER, _ARGUMENTS, _SIZES, _SHAPE = "<2i", "<12id", "<3i2q", "<2q"
_CODES, _QUANTISER = "<?2qi", "<4i"
_OLD_START = (
    struct.calcsize(_ARGUMENTS) + 12
)  # bytes of an old file: arguments and numbers of words
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
        words: with the labels, the last `labels` of them, behind; each group by falling count. Bytes that
            are not UTF-8 are lone surrogates (errors="surrogateescape").
        counts: int64, of each of `words`.
        input: (words without labels + bucket, D), float32 or quantised; where `kept` is given, so many rows
            in place of `bucket`.
        output: (O, D): a row a label for classifiers, else a row a word. With the hierarchical softmax they
            belong to the inner nodes, and the last one is not used.
        kept: the rows of n-grams that `quantize` has kept, by bucket; None = all.
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
    input: np.ndarray | QuantisedMatrix
    output: np.ndarray | QuantisedMatrix
    kept: dict[int, int] | None = None

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
        kept = -1 if file.kept is None else len(file.kept)
        sizes = (size, size - file.labels, file.labels, int(file.counts.sum()), kept)
        out.write(struct.pack(_SIZES, *sizes))
        for i, (word, count) in enumerate(zip(file.words, file.counts, strict=True)):
            if "\0" in word:
                raise ValueError(f"words[{i}] is {word!r}: a zero byte ends a word in {path}")
            label = i >= size - file.labels
            encoded = word.encode("utf-8", "surrogateescape")
            out.write(encoded + b"\0" + struct.pack(_ENTRY, int(count), label))
        for pair in (file.kept or {}).items():
            out.write(struct.pack("<2i", *pair))
        for matrix in (file.input, file.output):
            _write_matrix(out, matrix)


def _write_matrix(out: BinaryIO, matrix: np.ndarray | QuantisedMatrix) -> None:
    out.write(struct.pack("<?", isinstance(matrix, QuantisedMatrix)))
    if isinstance(matrix, QuantisedMatrix):
        out.write(struct.pack(_CODES, matrix.norms is not None, *matrix.shape, matrix.codes.size))
        out.write(matrix.codes.tobytes())
        _write_quantiser(out, matrix.quantiser)
        if matrix.norms is not None:
            quantiser, codes = matrix.norms
            out.write(codes.tobytes())
            _write_quantiser(out, quantiser)
        return
    out.write(struct.pack(_SHAPE, *matrix.shape))
    piece = 1 << 16  # rows: no second copy of a large matrix
    for start in range(0, len(matrix), piece):
        out.write(np.ascontiguousarray(matrix[start : start + piece], "<f4").tobytes())


def _write_quantiser(out: BinaryIO, quantiser: ProductQuantiser) -> None:
    last = quantiser.width - (quantiser.parts - 1) * quantiser.part
    out.write(struct.pack(_QUANTISER, quantiser.width, quantiser.parts, quantiser.part, last))
    out.write(quantiser.centroids.astype("<f4").tobytes())


def is_fasttext(path: str | os.PathLike) -> bool:
    """Whether a file begins as fastText's do, those before its version 0.1.0 among them."""
    with open(path, "rb") as file:
        start = file.read(_OLD_START)
    return start[:4] == struct.pack("<i", _MAGIC) or _is_old(start)


def _is_old(start: bytes) -> bool:
    """Whether a file begins as fastText's did before they told a version: with the arguments at once."""
    if len(start) < _OLD_START:
        return False
    width, _, _, _, _, _, loss, architecture, *_ = struct.unpack_from(_ARGUMENTS, start)
    size, words, labels = struct.unpack_from("<3i", start, struct.calcsize(_ARGUMENTS))
    return (
        0 < width < 1 << 16
        and 1 <= loss <= len(_LOSSES)
        and 1 <= architecture <= len(_ARCHITECTURES)
        and min(words, labels) >= 0
        and words + labels == size
    )


def read_fasttext(path: str | os.PathLike) -> FastTextFile:
    """Read a file of version 11 or 12; its matrices stay on disk until touched.

    Nothing is allocated by a size that the file claims: each is held against the file's length first.

    Raises:
        ValueError: the file is no such one, breaks off or contradicts itself; the message says at which
            byte and why.
        OSError: it cannot be read.
    """
    reader = _Reader(path)
    arguments = _read_arguments(reader)
    words, counts, labels, kept = _read_dictionary(reader, arguments["bucket"])
    rows = len(words) - labels
    outputs = labels if arguments["architecture"] == "classifier" else rows
    width = arguments.pop("width")
    hashed = arguments["bucket"] if kept is None else len(kept)
    matrices = {
        "input": _read_matrix(reader, "input", rows + hashed, width),
        "output": _read_matrix(reader, "output", outputs, width),
    }
    if reader.left:
        raise reader.error(f"{reader.left} bytes follow the output matrix; expected none")
    return FastTextFile(
        **arguments, words=words, counts=counts, labels=labels, kept=kept, **matrices
    )


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
        return self.data[start:end].decode("utf-8", "surrogateescape")

    def array(self, dtype: str, shape: tuple[int, ...], what: str) -> np.ndarray:
        count = math.prod(shape)
        start = self._take(np.dtype(dtype).itemsize * count, what)
        return np.frombuffer(self.data, dtype, count, start).reshape(shape)

    def _take(self, length: int, what: str) -> int:
        if length > self.left:
            raise self.error(f"{what} needs {length} bytes, but the file has {self.left} more")
        start = self.at
        self.at += length
        return start


def _read_arguments(reader: _Reader) -> dict:
    if _is_old(reader.data[:_OLD_START]):
        raise ValueError(
            f"{reader.path} is of fastText before 0.1.0, whose files name no version; expected version 11 or "
            f"{_VERSION}, which fastText 0.1.0 to 0.9.2 write: train anew with one of these"
        )
    if reader.data[:4] != struct.pack("<i", _MAGIC):
        raise ValueError(
            f"{reader.path} is not a fastText file: it starts with {reader.data[:4]!r}"
        )
    _, version = reader.numbers(_HEADER, "the header")
    if version not in (11, _VERSION):
        raise reader.error(
            f"the version is {version}; expected 11 or {_VERSION}, which fastText 0.1.0 to 0.9.2 write: "
            "train or save the model anew with one of these",
            4,
        )
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


def _read_dictionary(
    reader: _Reader, bucket: int
) -> tuple[list[str], np.ndarray, int, dict[int, int] | None]:
    """Words with the labels behind, the count of each, the number of labels, the n-grams that are kept."""
    start = reader.at
    size, words, labels, _, pruned = reader.numbers(_SIZES, "the dictionary's sizes")
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
    return names, counts, labels, None if pruned < 0 else _read_kept(reader, pruned, bucket)


def _read_kept(reader: _Reader, count: int, bucket: int) -> dict[int, int]:
    start = reader.at
    pairs = reader.array("<i4", (count, 2), f"the list of {count} n-grams that are kept").tolist()
    if any(not 0 <= key < bucket or not 0 <= row < count for key, row in pairs):
        raise reader.error(f"an n-gram that is kept is none of {bucket}, or has no row", start)
    return dict(pairs)


def _read_matrix(
    reader: _Reader, name: str, rows: int, columns: int
) -> np.ndarray | QuantisedMatrix:
    start, what = reader.at, f"the {name} matrix"

    def check_shape(shape: list[int]) -> None:
        if shape != [rows, columns]:
            raise reader.error(
                f"{what} is {shape[0]} by {shape[1]}; expected {rows} by {columns}", start
            )

    (is_quantised,) = reader.numbers("<?", what)
    if not is_quantised:
        check_shape(list(reader.numbers(_SHAPE, what)))
        return reader.array("<f4", (rows, columns), what)
    has_norms, *shape, size = reader.numbers(_CODES, what)
    check_shape(shape)
    if rows == 0 or size % rows:
        raise reader.error(f"{what} has {size} codes for {rows} rows", start)
    codes = reader.array("u1", (rows, size // rows), f"the codes of {what}")
    quantiser = _read_quantiser(reader, what, columns, size // rows)
    norms = None
    if has_norms:
        of_norms = reader.array("u1", (rows, 1), f"the norms of {what}")
        norms = _read_quantiser(reader, f"{what}'s norms", 1, 1), of_norms
    return QuantisedMatrix(quantiser, codes, norms)


def _read_quantiser(reader: _Reader, what: str, width: int, parts: int) -> ProductQuantiser:
    start = reader.at
    found = reader.numbers(_QUANTISER, f"the quantiser of {what}")
    part = found[2]
    if part < 1 or found != (width, parts, part, width - (parts - 1) * part) or found[3] < 1:
        raise reader.error(
            f"the quantiser of {what} has width {found[0]}, {found[1]} parts of {part}, the last of "
            f"{found[3]}; expected width {width} in {parts} parts",
            start,
        )
    centroids = reader.array("<f4", (CENTROIDS * width,), f"the centroids of {what}")
    return ProductQuantiser(width, part, centroids)
