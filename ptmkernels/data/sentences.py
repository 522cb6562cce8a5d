"""Splits running text into sentences, by rule: quick, deterministic, without a model."""

from __future__ import annotations

import re

__all__ = ["CLOSERS", "ENDS", "split_sentences"]

# What ends a sentence, in the scripts that have such a mark: Latin and those that share its marks, Chinese,
# Japanese, Devanagari, Arabic and Urdu, Armenian, Ethiopic, Myanmar, Khmer, Tibetan. Thai has none.
_UNSPACED = "。！？｡।॥۔።"  # after which the next sentence may follow without white space
ENDS = ".!?…．؟։။។།" + _UNSPACED
CLOSERS = "\"'”’)]»›」』】）》〉］｣"
_OPENERS = "\"'“‘([«‹「『【（《〈［｢¿¡"
_SET = {
    name: re.escape(marks)
    for name, marks in (("end", ENDS), ("close", CLOSERS), ("open", _OPENERS), ("tight", _UNSPACED))
}

# A sentence ends at such a mark, with the quotes and brackets that close after it, before something that can
# open the next one: a letter that is not a small one, or a digit. Without white space, what follows a closing
# quote goes on with the sentence around it.
_BOUNDARY = re.compile(
    r"(?:(?<=[{end}])[{close}]*\s+|(?<=[{tight}])(?![{close}{end}\s]))"
    r"(?=[{open}]*(\w))".format(**_SET)
)

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
        following = match.group(1)
        if following.islower() or _is_abbreviation(text[start : match.start()], following):
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
