"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_files", "flush", "flush_tree"]


@contextmanager
def atomic_files(folder: str | Path) -> Iterator[Callable[[str], Path]]:
    """Write several files of a folder; they take their names together, when all are safe on the disk.

    Yields a function from the name of a file to the path to write it at. Where anything fails (a full disk,
    Ctrl-C), what was there before stays and nothing half-written is left.

    Args:
        folder: is made where it does not exist.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[Path, Path] = {}

    def at(name: str) -> Path:
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        written[folder / name] = temporary
        return temporary

    try:
        yield at
        for temporary in written.values():
            flush(temporary)
        for path, temporary in written.items():
            os.replace(temporary, path)
        flush(folder)
    finally:
        for temporary in written.values():
            with suppress(FileNotFoundError):
                temporary.unlink()


def flush(path: Path) -> None:
    """Have the system put what was written on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """:func:`flush` everything in a folder, and the folder itself."""
    for path in folder.iterdir():
        flush_tree(path) if path.is_dir() else flush(path)
    flush(folder)
