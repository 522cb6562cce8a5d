"""Learning a WordPiece vocabulary (Schuster & Nakajima 2012; by frequency of pairs, as BERT's users do).

The trainer of the `tokenizers` library numbers pieces in the order of a hash table, so that each run gives
another vocabulary. This one gives the same for the same text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ptmkernels._corpus import learn_bpe

__all__ = ["CONTINUATION", "learn_pieces"]

CONTINUATION = "##"  # before a piece that goes on a word
_END = "</w>"  # by which learn_bpe marks the last symbol of a word


def learn_pieces(words: Mapping[str, int], size: int, min_frequency: int = 2) -> list[str]:
    """The pieces that words are best written with: letters first, then merges, the most frequent first.

    Args:
        words: how often each word occurs.
        size: pieces at most.
        min_frequency: how often a pair of pieces has to occur to be merged.

    Returns:
        At most `size` pieces; those that go on a word begin with "##".
    """
    letters: Counter[str] = Counter()
    for word, count in words.items():
        letters[word[0]] += count
        for letter in word[1:]:
            letters[CONTINUATION + letter] += count
    frequent = sorted(letters, key=lambda letter: (-letters[letter], letter))[:size]
    pieces = dict.fromkeys(sorted(frequent))
    # Byte-pair encoding marks the last symbol of a word, WordPiece all but the first: written backwards,
    # one is the other.
    backwards = [(word[::-1], count) for word, count in sorted(words.items())]
    for left, right in learn_bpe(backwards, size, min_frequency):
        if len(pieces) >= size:
            break
        pieces[_forwards(left + right)] = None
    return list(pieces)


def _forwards(symbol: str) -> str:
    if symbol.endswith(_END):
        return symbol.removesuffix(_END)[::-1]
    return CONTINUATION + symbol[::-1]
