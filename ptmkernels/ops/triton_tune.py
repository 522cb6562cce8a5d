"""Choosing tile sizes by timing them on the device at hand, remembered in a file.

Off unless the environment variable PTMKERNELS_TRITON_AUTOTUNE is 1: the tables of defaults serve then. The
file is `triton_tiles.json` in PTMKERNELS_CACHE_DIR (~/.cache/ptmkernels), a mapping from the key of a call
to the tile that was fastest.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

ENABLE = "PTMKERNELS_TRITON_AUTOTUNE"
CACHE_DIR = "PTMKERNELS_CACHE_DIR"


@dataclass(frozen=True)
class Tile:
    """How a kernel cuts its work: `m` queries by `n` keys, warps of a program, pipeline stages."""

    m: int
    n: int
    warps: int = 4
    stages: int = 2


def enabled() -> bool:
    """Whether calls may be timed now: asked for, and not while a CUDA graph is recorded."""
    if os.environ.get(ENABLE) != "1":
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


@cache
def tuner() -> Tuner:
    """The tuner of this process."""
    return Tuner(cache_path())


def cache_path() -> Path:
    folder = os.environ.get(CACHE_DIR) or Path.home() / ".cache" / "ptmkernels"
    return Path(folder) / "triton_tiles.json"


class Tuner:
    """The fastest tile of each kind of call.

    Args:
        path: the file that remembers; other processes may write it too, and the last one wins.
        timer: from a function to the time it takes.
    """

    def __init__(self, path: Path, timer: Callable[[Callable[[], None]], float] = do_bench) -> None:
        self.path = path
        self.timer = timer
        self.known = self._read()

    def _read(self) -> dict[str, list[int]]:
        try:
            return json.loads(self.path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def best(self, key: str, candidates: Iterable[Tile], run: Callable[[Tile], None]) -> Tile:
        """The fastest of `candidates` for `key`, timed at the first call; `run` runs the kernel.

        Raises:
            RuntimeError: none of them runs on this device.
        """
        if key not in self.known:
            times = {tile: self._time(tile, run) for tile in candidates}
            tile = min(times, key=times.get)
            if times[tile] == float("inf"):
                raise RuntimeError(f"{key}: none of {len(times)} tiles runs on this device")
            self._remember(key, tile)
        return Tile(*self.known[key])

    def _time(self, tile: Tile, run: Callable[[Tile], None]) -> float:
        try:
            return self.timer(lambda: run(tile))
        except (OutOfResources, PTXASError, CompilationError):
            return float("inf")

    def _remember(self, key: str, tile: Tile) -> None:
        self.known = {**self._read(), **self.known, key: list(astuple(tile))}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
            json.dump(self.known, file, indent=1, sort_keys=True)
        os.replace(file.name, self.path)
