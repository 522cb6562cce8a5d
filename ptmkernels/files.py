"""Files that appear whole or not at all.

Several files of a folder cannot be replaced in one step. So, when all new ones are safe on the disk under
temporary names, a journal is put beside them that says what is to be renamed and removed. From then on the
change counts as made: whoever comes by after a kill (:func:`settle`) carries out what is left of it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptmkernels.compressed import read_bytes
from ptmkernels.undecodable import check_errors

__all__ = [
    "BYTE_ORDER_MARK",
    "atomic_file",
    "atomic_files",
    "check_writable",
    "flush",
    "flush_tree",
    "read_utf8",
    "refuse_lfs_pointer",
    "settle",
    "share_as",
]

BYTE_ORDER_MARK = "\ufeff"  # which some editors put before a text; no part of it
_JOURNAL = ".pending."  # and the number of the process


@contextmanager
def atomic_files(
    folder: str | Path, remove: tuple[str, ...] = ()
) -> Iterator[Callable[[str], Path]]:
    """Write several files of a folder; they take their names together, when all are safe on the disk.

    Yields a function from the name of a file to the path to write it at. Where anything fails (a full disk,
    Ctrl-C), what was there before stays and nothing half-written is left. A kill leaves the old files, or,
    once :func:`settle` has been there, the new ones.

    Args:
        folder: is made where it does not exist.
        remove: names of files that the new ones take the place of, where they are there.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder)
    written: dict[str, Path] = {}
    journal = folder / f"{_JOURNAL}{os.getpid()}"
    draft = journal.with_name(f"{journal.name}.tmp")

    def at(name: str) -> Path:
        written[name] = folder / f".{name}.{os.getpid()}.tmp"
        return written[name]

    try:
        yield at
        renames = {temporary.name: name for name, temporary in written.items()}
        draft.write_text(json.dumps({"rename": renames, "remove": remove}), encoding="utf-8")
        share_as(draft, *written.values())
        for path in (*written.values(), draft):
            flush(path)
        os.replace(draft, journal)
    except BaseException as error:
        for temporary in (*written.values(), draft):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = os.fspath(folder)  # what a full disk says has no name
        raise
    flush(folder)
    _carry_out(journal)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Write one file: :func:`atomic_files` for it alone. Yields the path to write it at.

    A device or a pipe (/dev/stdout) is written itself: renaming would put a file in its place. A link stays,
    what it points to is replaced.

    Raises:
        OSError: the file is a folder, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))
    with atomic_files(path.parent) as at:
        yield at(path.name)


def check_writable(path: str | Path) -> None:
    """Find out now whether :func:`atomic_file` could write a file later; its folder is made.

    Raises:
        OSError: it could not; names the file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    real = Path(os.path.realpath(path))
    probe = real.with_name(f".{real.name}.{os.getpid()}.tmp")
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def read_utf8(path: str | os.PathLike, errors: str = "strict") -> str:
    """The text of a file (.gz and .bz2: compressed), without a byte-order mark.

    Args:
        path: of the file.
        errors: what becomes of bytes that are not UTF-8: "strict" (refused), "ignore" or "replace".

    Raises:
        ValueError: it is not UTF-8 (the message names file and byte) or a pointer of git-lfs, or `errors`
            is something else.
        OSError: it cannot be read.
    """
    check_errors(errors)
    refuse_lfs_pointer(path)
    try:
        return read_bytes(path).decode("utf-8", errors).removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None


def refuse_lfs_pointer(path: str | os.PathLike) -> None:
    """Raises ValueError where git-lfs has left a note on a file in its place."""
    note = b"version https://git-lfs.github.com/spec/"
    with Path(path).open("rb") as file:
        if file.read(len(note)) == note:
            raise ValueError(
                f"{path} is a pointer of git-lfs in place of the file; `git lfs pull` fetches it"
            )


def settle(folder: Path) -> None:
    """Finish what a process that was killed while it replaced files of the folder has left to do.

    Raises:
        OSError: the folder cannot be written.
        ValueError: a journal is damaged; names it.
    """
    for journal in folder.glob(f"{_JOURNAL}*"):
        if journal.suffix != ".tmp":
            _carry_out(journal)


def _carry_out(journal: Path) -> None:
    """Rename and remove what the journal says; what is done already, perhaps by another, is passed over."""
    folder = journal.parent
    try:
        content = json.loads(journal.read_text(encoding="utf-8"))
        renames, removed = dict(content["rename"]), list(content["remove"])
        names = [*renames, *renames.values(), *removed]
        plain = all(Path(name).name == name for name in names)
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        plain = False
    if not plain:
        raise ValueError(f"{journal} is no list of renames in its folder; remove it") from None
    for temporary, name in renames.items():
        with suppress(FileNotFoundError):
            os.replace(folder / temporary, folder / name)
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    flush(folder)
    journal.unlink(missing_ok=True)


def share_as(example: Path, *paths: Path) -> None:
    """Give files the permissions of another new one: what safetensors writes, its owner alone may read."""
    for path in paths:
        path.chmod(stat.S_IMODE(example.stat().st_mode))


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
