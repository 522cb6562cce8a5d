"""Splits running text into sentences, by rule: quick, deterministic, without a model."""

from __future__ import annotations

import re

__all__ = ["split_sentences"]

# A sentence ends at . ! ? or …, with the quotes and brackets that close after it, before something that
# can open the next one.
_BOUNDARY = re.compile(r"""(?<=[.!?…])["'”’)\]]*\s+(?=["'“‘(\[]*[A-Z0-9À-ÖØ-Þ_])""")

# After these a full stop ends no sentence …
_ABBREVIATIONS = frozenset(
    "al approx art bros capt cf co col corp dept dr ed eds e.g eg esp est gen gov i.e ie inc jr lt ltd "  # noqa: SIM905
    "messrs mr mrs ms mt prof rev sen sgt sr st vs".split()
)
# … nor after these, before a number.
_BEFORE_NUMBERS = frozenset(
    ("ch", "eq", "fig", "figs", "no", "nos", "p", "pp", "sec", "vol", "vols")
)
_LAST_WORD = re.compile(r"([^\s(\[\"'“‘]+)\.$")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, white space squeezed to single blanks; empty for blank text."""
    text = " ".join(text.split())
    sentences, start = [], 0
    for match in _BOUNDARY.finditer(text):
        if _is_abbreviation(text[start : match.start()], text[match.end()]):
            continue
        sentences.append(text[start : match.end()].rstrip())
        start = match.end()
    if rest := text[start:]:
        sentences.append(rest)
    return sentences


def _is_abbreviation(sentence: str, following: str) -> bool:
    """Whether a full stop belongs to the last word, or to an initial."""
    found = _LAST_WORD.search(sentence)
    if found is None:
        return False
    word = found.group(1)
    known = _ABBREVIATIONS | _BEFORE_NUMBERS if following.isdigit() else _ABBREVIATIONS
    return word.lower() in known or (len(word) == 1 and word.isupper())
