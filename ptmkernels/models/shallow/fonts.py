"""Fonts for words of any script: those that are installed and have the characters."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

__all__ = ["fonts_for"]

LAST_RESORT = "Last Resort"  # matplotlib brings it; it has a box for every character


def fonts_for(words: Iterable[str]) -> list[str]:
    """Families of fonts, matplotlib's own first, that together have the characters of the words.

    Warns with the characters that no installed font has; they are drawn as boxes.
    """
    from matplotlib import rcParams

    families = list(rcParams["font.family"])
    missing = {character for word in words for character in word if not character.isspace()}
    for family, font in _installed():
        had = {character for character in missing if font.get_char_index(ord(character))}
        if had and family is not None:
            families.append(family)
        missing -= had
        if not missing:
            return families
    some = " ".join(sorted(missing)[:20])
    warnings.warn(
        f"no installed font has {len(missing)} characters of the words, drawn as boxes: {some} "
        "(a font such as Noto Sans has them)",
        stacklevel=3,
    )
    return families


def _installed() -> Iterator[tuple[str | None, FT2Font]]:
    """Matplotlib's own font without a name, then each other family that can be drawn."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    paths = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in (400, "normal", "regular")
    }
    own = font_manager.findfont(font_manager.FontProperties())
    for family, path in {None: own, **paths}.items():
        if family is not None and family.startswith(LAST_RESORT):
            continue
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):  # the list of fonts outlives their files
            continue
        if font.scalable:  # pictures of characters, as emoji have, cannot be drawn
            yield family, font
