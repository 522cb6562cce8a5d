"""The corpus that needs no download: the English of Python's own reference manual.

Every Python carries it for its `help()`, as `pydoc_data.topics`: some seventy topics of plain text, laid
out from reStructuredText. Only the running English is kept; program text, grammar and tables go. Topics
quote one another at length, so a paragraph is kept once: without that, a held-out text would be known
from training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ptmkernels.data.sentences import split_sentences

__all__ = ["python_topics"]

_UNDERLINE = re.compile(r"([*=\-~^\"])\1{2,}$")
_BULLET = re.compile(r"^(?:[*•]|\d+\.|\[\d+\])\s+")
_LABEL = re.compile(r"(?:Note|See also|Warning|Caution|Important|Tip):$")
_GRAMMAR = re.compile(r"::=|^>>>|^\.\.\.", re.MULTILINE)
_STRONG = re.compile(r"\*\*(\S(?:[^*]*\S)?)\*\*")
_EMPHASIS = re.compile(r"(?<![\w*])\*(\w(?:[^*]*\w)?)\*(?![\w*])")
_LITERAL_MARKS = re.compile(r"[\"`“”]")

_WRAPPED_HYPHEN = re.compile(r"(?<=\w)-\n(?=\w)")

_LITERAL_INDENT = 3  # blanks by which program text stands to the right of what announces it
_LEAST_WORDS = 4
_LEAST_LETTERS = 0.7  # share of letters and blanks in a paragraph of English


def python_topics(topics: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """The documents of the manual, one for each section, each a list of sentences.

    Args:
        topics: name -> text, laid out as `pydoc_data.topics.topics`, which is the default.
    """
    if topics is None:
        from pydoc_data.topics import topics
    seen: set[str] = set()
    for name in sorted(topics):
        for section in _sections(topics[name]):
            sentences: list[str] = []
            for paragraph in section:
                if paragraph not in seen:
                    seen.add(paragraph)
                    sentences += split_sentences(paragraph)
            if sentences:
                yield sentences


def _sections(text: str) -> Iterator[list[str]]:
    """The paragraphs of English of each section."""
    paragraphs: list[str] = []
    literal_indent: int | None = None  # that of the program text being skipped
    announced: int | None = None  # indent of a paragraph that ends in a colon, just before
    for block in re.split(r"\n[ \t]*\n", text.expandtabs()):
        lines = block.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        block = " ".join(line.strip() for line in lines)
        if not block:
            continue
        if _is_heading(lines):
            yield paragraphs
            paragraphs, literal_indent, announced = [], None, None
            continue
        if announced is not None and indent >= announced + _LITERAL_INDENT:
            literal_indent = None if _BULLET.match(block) else indent
        announced = None
        if literal_indent is not None and indent >= literal_indent:
            continue
        literal_indent = None
        if block.endswith(":") and not _LABEL.match(block):
            announced = indent
        if english := _english("\n".join(line.strip() for line in lines)):
            paragraphs.append(english)
    yield paragraphs


def _is_heading(lines: list[str]) -> bool:
    return len(lines) == 2 and bool(_UNDERLINE.match(lines[1].strip()))


def _english(block: str) -> str:
    """The paragraph without its marks, or "" where it is no English."""
    if _GRAMMAR.search(block) or block.startswith(("+-", "|", "==", "-[")):
        return ""
    text = " ".join(_WRAPPED_HYPHEN.sub("-", block).split())
    text = _BULLET.sub("", text)
    text = _EMPHASIS.sub(r"\1", _STRONG.sub(r"\1", text))
    text = _LITERAL_MARKS.sub("", text)
    letters = sum(c.isalpha() or c.isspace() for c in text)
    if len(text.split()) < _LEAST_WORDS or letters < _LEAST_LETTERS * len(text):
        return ""
    return text if text[-1] in ".:;,?!)" else ""
