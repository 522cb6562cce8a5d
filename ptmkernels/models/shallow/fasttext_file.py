"""The .bin files of fastText 0.9.2 (version 12), as plain data."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

import numpy as np

MAGIC, VERSION = 793712314, 12
ARGUMENTS, SIZES, MATRIX = "<12id", "<3i2q", "<?2q"


@dataclasses.dataclass(frozen=True)
class FastTextFile:
    """What a file holds, numbers as fastText writes them.

    Attributes:
        loss: 1 hierarchical softmax, 2 negative sampling, 3 softmax, 4 one-vs-all.
        architecture: 1 CBOW, 2 skip-gram, 3 classifier.
        words: with the labels, the last `labels` of them, behind; counts: int64 of each.
        input, output: float32 (rows, D).
    """

    width: int
    window: int
    min_count: int
    negative: int
    word_ngrams: int
    loss: int
    architecture: int
    bucket: int
    min_n: int
    max_n: int
    sample: float
    words: list[str]
    counts: np.ndarray
    labels: int
    input: np.ndarray
    output: np.ndarray


def read_fasttext(path: str | os.PathLike) -> FastTextFile:
    """Read a file that is not quantised.

    Raises:
        ValueError: the file is no such one; the message says what it is.
    """
    data = Path(path).read_bytes()
    if len(data) < 8 or struct.unpack_from("<2i", data) != (MAGIC, VERSION):
        raise ValueError(f"{path} is not a fastText file of version {VERSION}")
    values = struct.unpack_from(ARGUMENTS, data, 8)
    at = 8 + struct.calcsize(ARGUMENTS)
    size, _, labels, _, pruned = struct.unpack_from(SIZES, data, at)
    if pruned >= 0:
        raise ValueError(f"{path} is quantised; expected a file as it was trained")
    at += struct.calcsize(SIZES)
    words, counts, matrices = [], [], []
    for _ in range(size):
        end = data.index(b"\0", at)
        words.append(data[at:end].decode("utf-8"))
        counts.append(struct.unpack_from("<q", data, end + 1)[0])
        at = end + 10
    for _ in range(2):
        quantised, rows, columns = struct.unpack_from(MATRIX, data, at)
        at += struct.calcsize(MATRIX)
        if quantised or columns != values[0]:
            raise ValueError(f"{path} is quantised; expected a file as it was trained")
        matrices.append(np.frombuffer(data, "<f4", rows * columns, at).reshape(rows, columns))
        at += 4 * rows * columns
    width, window, _, min_count, negative, ngrams, loss, architecture, *rest = values
    bucket, min_n, max_n, _, sample = rest
    return FastTextFile(
        width, window, min_count, negative, ngrams, loss, architecture, bucket, min_n, max_n, sample,
        words, np.array(counts), labels, *matrices,
    )  # fmt: skip
