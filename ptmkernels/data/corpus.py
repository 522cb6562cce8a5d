"""Text in, documents out: each a list of sentences, read as a stream.

Two layouts of plain UTF-8 text. "sentences" is BERT's own: one sentence a line, a blank line between
documents. "text" is free text: lines wrapped anywhere, a blank line between paragraphs, a new document
after two blank lines or a form feed; sentences are found by rule, by the marks of many scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from ptmkernels.compressed import open_bytes
from ptmkernels.data.python_topics import python_topics
from ptmkernels.data.sentences import CLOSERS, ENDS, split_sentences

__all__ = ["DEFAULT_CORPUS", "Corpus", "choose_held_out"]

DEFAULT_CORPUS = "python-topics"
LAYOUTS = {
    "auto": "by the first lines of each file",
    "sentences": "a sentence a line, a blank line between documents",
    "text": "sentences by their marks, blank lines between paragraphs, two of them between documents",
}

# A book without a break still has to give documents to hold out and to draw random sentences from.
LONGEST_FREE_DOCUMENT = 256  # sentences

_PROBE_LINES = 1000
_ENDINGS = (".txt", ".txt.gz", ".txt.bz2")


class Corpus:
    """A text corpus that can be gone through again and again without being held in memory.

    Args:
        source: "python-topics", the English of Python's manual, which every Python carries; or a file; or
            a folder, of which every `*.txt` is read in the order of the names; or several of these.
        layout: "sentences", "text", or "auto", which looks at the beginning of each file.

    Iterating gives documents, each a list of at least one sentence.

    Attributes:
        guessed: the layout that "auto" found for each file that was read.

    Raises:
        ValueError: the layout is unknown, a folder has no text, the corpus has none at all, or a file is
            not UTF-8 (the message names file and byte).
        OSError: a file cannot be read.
    """

    def __init__(
        self, source: str | Path | Sequence[str | Path] = DEFAULT_CORPUS, layout: str = "auto"
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
        self.sources = [source] if isinstance(source, str | Path) else list(source)
        self.layout = layout
        self.guessed: dict[Path, str] = {}

    def __iter__(self) -> Iterator[list[str]]:
        found = False
        for source in self.sources:
            for document in self._documents(source):
                found = True
                yield document
        if not found:
            raise ValueError(f"the corpus {self} holds no text")

    def __str__(self) -> str:
        return ", ".join(map(str, self.sources))

    def guesses(self) -> list[str]:
        """What "auto" made of the files that were read, in words."""
        files: dict[str, list[str]] = {}
        for path, layout in self.guessed.items():
            files.setdefault(layout, []).append(str(path))
        more = {
            n: f" and {len(names) - 3} more" if len(names) > 3 else "" for n, names in files.items()
        }
        return [
            f"{', '.join(names[:3])}{more[layout]} read in the layout {layout!r}: {LAYOUTS[layout]}"
            for layout, names in files.items()
        ]

    def _documents(self, source: str | Path) -> Iterator[list[str]]:
        if source == DEFAULT_CORPUS:
            yield from python_topics()
            return
        for path in text_files(Path(source)):
            layout = self.layout
            if layout == "auto":
                layout = self.guessed[path] = guess_layout(path)
            read = sentence_documents if layout == "sentences" else free_documents
            yield from read(read_lines(path))


def text_files(path: Path) -> list[Path]:
    """The file itself, or the `*.txt` of a folder, compressed or not, in the order of their names."""
    if not path.is_dir():
        return [path]
    files = sorted(file for ending in _ENDINGS for file in path.glob(f"*{ending}"))
    if not files:
        raise ValueError(f"the folder {path} has no *.txt")
    return files


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, stripped of white space but for form feeds.

    Raises:
        ValueError: the file is not UTF-8; names the file and the offset of the byte.
        OSError: the file cannot be read.
    """
    offset = 0
    with open_bytes(path) as file:
        for line in file:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path} is not UTF-8 text: byte {offset + error.start} "
                    f"is 0x{line[error.start]:02x} ({error.reason})"
                ) from None
            text = text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(line)
            yield text.strip(" \t\r\n\v")


def guess_layout(path: Path) -> str:
    """The layout of a file, from its first lines.

    "sentences" where nearly every line is one whole sentence; and where nothing marks the end of a sentence,
    as in Thai, for then only the lines can say where one ends, unless they were broken at a width.
    Else "text".
    """
    lines = list(islice(read_lines(path), _PROBE_LINES))
    full = [line for line in lines if line.strip("\f")]
    ends = sum(line.rstrip(CLOSERS)[-1:] in ENDS or line[-1] in CLOSERS for line in full)
    inner = sum(len(split_sentences(line)) - 1 for line in full)
    if ends + inner < 0.1 * len(full):
        return "text" if _broken_at_a_width(lines) else "sentences"
    whole = ends >= 0.7 * len(full) and inner <= 0.3 * len(full)
    return "sentences" if full and whole else "text"


def _broken_at_a_width(lines: Iterable[str]) -> bool:
    """Whether lines are as long as they can be, but for the last of each paragraph."""
    within, last = [], []
    for line, following in pairwise([*lines, ""]):
        if line:
            (within if following else last).append(len(line))
    if not within:
        return False
    width = max(within)
    full = sum(length >= 0.8 * width for length in within)
    return full >= 0.9 * len(within) and 2 * sum(length < 0.8 * width for length in last) >= len(
        last
    )


def sentence_documents(lines: Iterable[str]) -> Iterator[list[str]]:
    """Documents of the layout "sentences"."""
    document: list[str] = []
    for line in lines:
        if line := " ".join(line.split()):
            document.append(line)
        elif document:
            yield document
            document = []
    if document:
        yield document


def free_documents(lines: Iterable[str]) -> Iterator[list[str]]:
    """Documents of the layout "text"."""
    document: list[str] = []
    for paragraph in _paragraphs(lines):
        if paragraph is not None:
            document += split_sentences(paragraph)
        if document and (paragraph is None or len(document) >= LONGEST_FREE_DOCUMENT):
            yield document
            document = []
    if document:
        yield document


def _paragraphs(lines: Iterable[str]) -> Iterator[str | None]:
    """Paragraphs; None where a document ends."""
    wrapped: list[str] = []
    blanks = 0
    for line in lines:
        new_document = line.startswith("\f")
        line = line.strip("\f \t")
        blanks = 0 if line else blanks + 1
        if wrapped and (blanks or new_document):
            yield _joined(wrapped)
            wrapped = []
        if new_document or blanks == 2:
            yield None
        if line:
            wrapped.append(line)
    if wrapped:
        yield _joined(wrapped)


# Scripts that write no space between words: Thai, Lao, Myanmar, Khmer, kana, Han, and the marks beside them.
_NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]"
)


def _joined(lines: list[str]) -> str:
    """The lines of a paragraph, with a space between two unless their script has none."""
    text = lines[0]
    for line in lines[1:]:
        tight = _NO_SPACES.match(text[-1]) and _NO_SPACES.match(line)
        text += line if tight else f" {line}"
    return text


def choose_held_out(num_documents: int, share: float, seed: int, least: int = 1) -> np.ndarray:
    """Which documents to keep for evaluation.

    Args:
        num_documents: of the corpus.
        share: of the documents, 0 <= share < 1; 0 = none.
        seed: of the choice.
        least: documents that both sides get, whatever the share.

    Returns:
        (num_documents,) booleans.

    Raises:
        ValueError: the share is out of range, or there are too few documents to part.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the held-out share is {share}; expected 0 <= share < 1")
    chosen = np.zeros(num_documents, dtype=bool)
    if share == 0.0:
        return chosen
    if num_documents < 2 * least:
        raise ValueError(
            f"the corpus has too few documents to hold some out, {num_documents}; expected at least "
            f"{2 * least}. Put a blank line between documents, give a held-out text, or set the held-out "
            "share to 0"
        )
    count = min(max(least, round(share * num_documents)), num_documents - least)
    chosen[np.random.default_rng(seed).permutation(num_documents)[:count]] = True
    return chosen
