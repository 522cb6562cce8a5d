"""Results: one JSON object a line, on the disk before anything else happens."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from short_run.settings import Settings

OK, WRONG, FAILED, SKIPPED = "ok", "wrong", "failed", "skipped"
MAX_REASON = 400  # characters


def append(path: Path, record: dict) -> None:
    """One line, written at once, since several processes write, and flushed to the disk."""
    line = (json.dumps(record) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


def read(path: Path) -> list[dict]:
    """The records of a file; a line that a killed process left half-written is passed over."""
    records = []
    if not path.is_file():
        return records
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


class Recorder:
    """Writes the results of one step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return time.time() - self.settings.start

    def add(self, name: str, status: str = OK, reason: str = "", **values) -> None:
        """One result; `values` are what was found."""
        record = {
            "step": self.settings.step,
            "name": name,
            "status": status,
            "reason": reason[:MAX_REASON],
            "at": round(self.now, 2),
            **values,
        }
        append(self.settings.results, record)

    def in_time(self, name: str, seconds: float = 0.0) -> bool:
        """Whether something that takes `seconds` may still begin; else it is recorded as skipped."""
        if self.now + seconds <= self.settings.until:
            return True
        self.add(name, SKIPPED, "its latest start has passed")
        return False

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """An error in the block becomes a result, and the next one has its turn."""
        try:
            yield
        except AssertionError as error:
            self._failed(name, WRONG, error)
        except Exception as error:  # whatever fails must not take the others with it
            self._failed(name, FAILED, error)

    def _failed(self, name: str, status: str, error: Exception) -> None:
        print(f"{self.settings.step}: {name}", file=sys.stderr)
        traceback.print_exception(error)
        lines = [line for line in str(error).splitlines() if line.strip()]
        self.add(name, status, f"{type(error).__name__}: {' '.join(lines[:3])}")
