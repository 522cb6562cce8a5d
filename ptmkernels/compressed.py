"""Files that are compressed where their name ends with .gz or .bz2, read and written as what they hold."""

from __future__ import annotations

import bz2
import gzip
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ptmkernels.undecodable import check_errors, readable

__all__ = ["compression", "open_bytes", "plain_path", "read_bytes"]

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open}


def compression(path: str | os.PathLike) -> str:
    """ ".gz", ".bz2" or "": how a file of this name is compressed."""
    suffix = Path(path).suffix
    return suffix if suffix in _OPENERS else ""


@contextmanager
def open_bytes(
    path: str | os.PathLike, mode: str = "rb", name: str | os.PathLike | None = None
) -> Iterator[BinaryIO]:
    """A file's bytes, without their compression.

    Args:
        path: of the file.
        mode: "rb" or "wb".
        name: that says how it is compressed and that errors give, where `path` is a temporary one.

    Raises:
        ValueError: it is not compressed as its name says, or breaks off; the message names it.
        OSError: it cannot be opened, read or written.
    """
    name = path if name is None else name
    kind = compression(name)
    with _OPENERS.get(kind, open)(path, mode) as file:
        try:
            yield file
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{name} is no whole {kind} file: {error}") from None
        except OSError as error:
            if kind == ".bz2" and error.errno is None:  # how bz2 says that the stream is none
                raise ValueError(f"{name} is no whole {kind} file: {error}") from None
            raise


def read_bytes(path: str | os.PathLike) -> bytes:
    """All of a file. Errors as :func:`open_bytes`."""
    with open_bytes(path) as file:
        return file.read()


@contextmanager
def plain_path(path: str, errors: str = "strict") -> Iterator[str]:
    """A path to read a text from once, from the start to the end, without its compression.

    That of a pipe, which a thread fills, where the file is compressed or its bytes change; ValueErrors
    still name the file.

    Args:
        path: of the text.
        errors: what becomes of bytes that are not UTF-8: "strict" (they stay), "ignore" or "replace".

    Raises:
        ValueError: as :func:`open_bytes`, or `errors` is something else.
        OSError: as :func:`open_bytes`.
    """
    check_errors(errors)
    if errors == "strict" and not compression(path):
        yield path
        return
    end, start = os.pipe()
    failures: list[Exception] = []

    def fill() -> None:
        try:
            with suppress(BrokenPipeError), open(start, "wb") as pipe, open_bytes(path) as file:
                for piece in readable(file, errors):
                    pipe.write(piece)
        except (OSError, ValueError) as error:
            failures.append(error)

    thread = threading.Thread(target=fill)
    thread.start()
    pipe = f"/dev/fd/{end}"
    try:
        yield pipe
    except ValueError as error:
        raise ValueError(str(error).replace(pipe, str(path))) from None
    finally:
        os.close(end)
        thread.join()
        if failures:
            raise failures[0]
