"""Word vectors judged by questions ("man is to king as woman to ..."), and by people's opinions of pairs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ptmkernels.files import read_utf8

if TYPE_CHECKING:
    from ptmkernels.models.shallow.vectors import WordVectors

__all__ = ["WordPairs", "word_analogies", "word_pairs"]

_LOOKED_AT = 5  # of the nearest words: the first that is none of the question's is the answer


class WordPairs(NamedTuple):
    """How the cosines of pairs go with people's judgements.

    Attributes:
        pearson, spearman: coefficients of correlation, of the numbers and of their ranks.
        unknown: the share of pairs with a word that has no vector, in per cent.
    """

    pearson: float
    spearman: float
    unknown: float


def word_analogies(
    vectors: WordVectors,
    path: str | os.PathLike,
    restrict_vocab: int = 300_000,
    case_insensitive: bool = True,
    dummy4unknown: bool = False,
) -> tuple[float, list[dict]]:
    """The share of questions "a is to b as c to d" whose d is nearest to b - a + c (Mikolov et al. 2013).

    Args:
        path: of a file of questions-words' form: lines of four words in sections that begin with ": name".
        restrict_vocab: of the first words, the most frequent ones, which alone are looked at.
        case_insensitive: compare words in capitals; of several that are alike the first counts.
        dummy4unknown: questions with unknown words count as not answered; else they are left out.

    Returns:
        the share, and for each section, and for all together at the end, a dict of "section", "correct" and
        "incorrect", lists of (a, b, c, d).

    Raises:
        ValueError: the file is not UTF-8, has a question before the first section, or none at all.
    """
    known = _known(vectors, restrict_vocab, case_insensitive)
    asked = list(_questions(path, case_insensitive))
    places = [i for i, (_, words) in enumerate(asked) if all(word in known for word in words)]
    questions = [asked[i][1] for i in places]
    answers = _answers(vectors, known, questions, restrict_vocab, case_insensitive)
    right = dict(zip(places, answers, strict=True))
    sections: dict[str, dict] = {}
    for i, (name, words) in enumerate(asked):
        section = sections.setdefault(name, {"section": name, "correct": [], "incorrect": []})
        if i in right or dummy4unknown:
            section["correct" if right.get(i) else "incorrect"].append(words)
    parts = list(sections.values())
    total = {
        kind: list(chain.from_iterable(part[kind] for part in parts))
        for kind in ("correct", "incorrect")
    }
    counted = len(total["correct"]) + len(total["incorrect"])
    share = len(total["correct"]) / counted if counted else 0.0
    return share, [*parts, {"section": "Total accuracy", **total}]


def _answers(
    vectors: WordVectors,
    known: dict[str, int],
    questions: list[tuple[str, ...]],
    restrict_vocab: int,
    case_insensitive: bool,
) -> list[bool]:
    """Whether each of the questions, whose words are all known, has the right answer."""
    if not questions:
        return []
    places = np.array([[known[word] for word in words] for words in questions])
    a, b, c = (vectors.vectors[rows] * vectors.inverse_norms[rows, None] for rows in places.T[:3])
    nearest, _ = vectors.best_of(b - a + c, _LOOKED_AT + 3, restrict_vocab)
    result = []
    for (*given, wanted), used, found in zip(questions, places[:, :3], nearest, strict=True):
        others = [place for place in found if place not in used][:_LOOKED_AT]
        answers = (_folded(vectors.words[place], case_insensitive) for place in others)
        result.append(next((word for word in answers if word not in given), None) == wanted)
    return result


def word_pairs(
    vectors: WordVectors,
    path: str | os.PathLike,
    delimiter: str = "\t",
    restrict_vocab: int = 300_000,
    case_insensitive: bool = True,
    dummy4unknown: bool = False,
) -> WordPairs:
    """The correlation of cosines with people's judgements.

    Args:
        path: of a file of WordSim-353's form: two words and a number a line.
        delimiter: between them. Lines that begin with # or are no such three are left out.
        restrict_vocab, case_insensitive: as :func:`word_analogies` has them.
        dummy4unknown: pairs with unknown words count with a cosine of 0; else they are left out.

    Raises:
        ValueError: the file is not UTF-8, or holds no pair of which both words are known.
    """
    known = _known(vectors, restrict_vocab, case_insensitive)
    judged, cosines, unknown = [], [], 0
    for first, second, judgement in _judgements(path, delimiter, case_insensitive):
        places = [known[word] for word in (first, second) if word in known]
        if len(places) == 2:
            a, b = vectors.vectors[places] * vectors.inverse_norms[places, None]
            cosines.append(float(a @ b))
        else:
            unknown += 1
            if not dummy4unknown:
                continue
            cosines.append(0.0)
        judged.append(judgement)
    if not judged:
        raise ValueError(
            f"{path} holds no pair of words of the vocabulary with a number behind them"
        )
    pairs = len(judged) + (0 if dummy4unknown else unknown)
    return WordPairs(
        _correlation(judged, cosines),
        _correlation(_ranks(judged), _ranks(cosines)),
        100 * unknown / pairs,
    )


def _folded(text: str, case_insensitive: bool) -> str:
    return text.upper() if case_insensitive else text


def _known(vectors: WordVectors, restrict_vocab: int, case_insensitive: bool) -> dict[str, int]:
    """The places of the words that are looked at; of several that are alike, of the first."""
    known: dict[str, int] = {}
    for place, word in enumerate(vectors.words[:restrict_vocab]):
        known.setdefault(_folded(word, case_insensitive), place)
    return known


def _lines(path: str | os.PathLike, case_insensitive: bool) -> Iterator[str]:
    for line in read_utf8(path).splitlines():
        yield line if line.startswith(": ") else _folded(line, case_insensitive)


def _questions(path, case_insensitive: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(section, four words) of each line that is a question."""
    section, empty = None, True
    for number, line in enumerate(_lines(path, case_insensitive), 1):
        if line.startswith(": "):
            section = line[2:].strip()
            continue
        words = tuple(line.split())
        if len(words) != 4:
            continue
        if section is None:
            raise ValueError(
                f"{path}: line {number} comes before any section; expected ': name' first"
            )
        empty = False
        yield section, words
    if empty:
        raise ValueError(f"{path} holds no question; expected lines of four words")


def _judgements(path, delimiter: str, case_insensitive: bool) -> Iterator[tuple[str, str, float]]:
    for line in _lines(path, case_insensitive):
        try:
            first, second, judgement = line.split(delimiter)
            number = float(judgement)
        except ValueError:
            continue
        if not line.startswith("#"):
            yield first, second, number


def _correlation(a, b) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):  # all alike: not a number
        return float(np.corrcoef(a, b)[0, 1])


def _ranks(values) -> np.ndarray:
    """From 1 on; those of equal values are their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
