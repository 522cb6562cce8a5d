"""Splits running text into sentences, by rule: quick, deterministic, without a model."""

from __future__ import annotations

import re

__all__ = ["split_sentences"]

# A sentence ends at . ! ? or …, with the quotes and brackets that close after it, before something that
# can open the next one.
_BOUNDARY = re.compile(r"""(?<=[.!?…])["'”’)\]]*\s+(?=["'“‘(\[]*[A-Z0-9À-ÖØ-Þ_])""")

# After these a full stop ends no sentence.
_ABBREVIATIONS = frozenset(
    ["al", "approx", "art", "bros", "capt", "cf", "ch", "co", "col", "corp", "dept", "dr", "ed", "eds", "e.g", "eg", "eq", "esp", "est", "fig", "figs", "gen", "gov", "i.e", "ie", "inc", "jr", "lt", "ltd", "m.a", "messrs", "mr", "mrs", "ms", "mt", "no", "nos", "p", "pp", "prof", "rev", "sec", "sen", "sgt", "sr", "st", "vol", "vols", "vs"]
)
_LAST_WORD = re.compile(r"([^\s(\[\"'“‘]+)\.$")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, white space squeezed to single blanks; empty for blank text."""
    text = " ".join(text.split())
    sentences, start = [], 0
    for match in _BOUNDARY.finditer(text):
        if _is_abbreviation(text[start : match.start()]):
            continue
        sentences.append(text[start : match.end()].rstrip())
        start = match.end()
    if rest := text[start:]:
        sentences.append(rest)
    return sentences


def _is_abbreviation(sentence: str) -> bool:
    found = _LAST_WORD.search(sentence)
    if found is None:
        return False
    word = found.group(1)
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I")
