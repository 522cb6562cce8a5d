"""What becomes of bytes that are not UTF-8: refused, left out or replaced."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["ERRORS", "check_errors", "readable"]

ERRORS = ("strict", "ignore", "replace")
_PIECE = 1 << 20


def check_errors(errors: str) -> None:
    """Raise ValueError where `errors` is none of ERRORS."""
    if errors not in ERRORS:
        raise ValueError(f"errors is {errors!r}; expected one of {ERRORS}")


def readable(file: BinaryIO, errors: str) -> Iterator[bytes]:
    """The bytes of a file in pieces, made UTF-8 as bytes.decode does it with `errors`.

    With "strict" they are passed on as they are: whoever reads them names the byte that is wrong.
    """
    if errors == "strict":
        while piece := file.read(_PIECE):
            yield piece
        return
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    piece = b"more"
    while piece:
        piece = file.read(_PIECE)
        yield decoder.decode(piece, final=not piece).encode()
