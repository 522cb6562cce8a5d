"""Byte-pair encoding: words as sequences of frequent pieces.

Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units" (ACL 2016); merges
and files as subword-nmt's (format 0.2).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ptmkernels._corpus import BytePairEncoder, VocabularyCounter, learn_bpe
from ptmkernels.compressed import plain_path
from ptmkernels.files import read_utf8
from ptmkernels.registry import Card, register

__all__ = ["BPE"]

_HEADER = "#version: 0.2"
_SPACES = re.compile("[ \t\n\v\f\r]+")  # no other: a no-break space is a letter here and in `learn`


class BPE:
    """Learnt merges, in the order in which they apply.

    Args:
        merges: pairs of pieces; the last piece of a word ends with "</w>".
    """

    def __init__(self, merges: list[tuple[str, str]]):
        self.merges = [tuple(pair) for pair in merges]
        self._encoder = BytePairEncoder(self.merges)

    @staticmethod
    def learn(
        path: str | os.PathLike, merges: int = 10_000, min_frequency: int = 2, threads: int = 1
    ) -> BPE:
        """Learn from a text file, which may be compressed (.gz, .bz2).

        Stops where no pair occurs `min_frequency` times.
        """
        counter = VocabularyCounter()
        with plain_path(os.fspath(path)) as plain:
            counter.add_file(plain, threads=threads)
        return BPE(learn_bpe(counter.most_common(), merges, min_frequency))

    def split(self, word: str) -> list[str]:
        """The pieces of a word."""
        return self._encoder.split(word)

    def encode(self, line: str, separator: str = "@@") -> str:
        """A line with each word in pieces, all but a word's last marked with `separator`."""
        pieces = []
        for word in filter(None, _SPACES.split(line)):
            *inner, last = self.split(word)
            pieces += [piece + separator for piece in inner] + [last]
        return " ".join(pieces)

    def save(self, path: str | os.PathLike) -> None:
        """Write the merges as subword-nmt reads them."""
        lines = [_HEADER, *(" ".join(pair) for pair in self.merges)]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | os.PathLike) -> BPE:
        """Read merges.

        Raises:
            ValueError: another version, a line that is no pair, or not UTF-8 (file and byte are named).
        """
        header, *lines = read_utf8(path).rstrip("\n").split("\n")
        if header != _HEADER:
            raise ValueError(f"{path}: the first line is {header!r}; expected {_HEADER!r}")
        pairs = [tuple(line.split(" ")) for line in lines]
        for number, pair in enumerate(pairs, 2):
            if len(pair) != 2:
                raise ValueError(f"{path}: line {number} has {len(pair)} pieces; expected 2")
        return BPE(pairs)


register(
    Card(
        name="bpe",
        family="shallow",
        title="Byte-pair encoding",
        authors="Sennrich et al.",
        paper="Neural Machine Translation of Rare Words with Subword Units",
        year=2016,
        link="https://arxiv.org/abs/1508.07909",
        encoder="none: it splits words",
        objective="the most frequent pair of symbols is merged, again and again",
        build=BPE.learn,
        presets={"10k": {"merges": 10_000}},
    )
)
