"""What the command line asked for, handed to every process of the run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("cuda", "triton")


@dataclass(frozen=True)
class Settings:
    """One run, and in a child its step.

    Args:
        output: folder of the results.
        start: when the run began, in seconds since the epoch.
        deadline: seconds that the whole run may take.
        only: names that checks under compute-sanitizer begin with; none = all.
        commit: of the checkout, which may have come without its history.
        backends: of ours, those that are checked and measured.
        tiles: tiles to use instead of the defaults, kernel -> (m, n, warps, stages).
        caps: for word vectors, how many stretches of text may be trained at a time; none = those of the plan.
        dry: tiny sizes, without a GPU.
        torch: folder of the torch libraries that symbols are looked up in; "" = those of this Python.
        step: name of the child's step.
        part, parts: which share of the step's work is the child's.
        until: after so many seconds of the run, the child begins nothing new.
    """

    output: str
    start: float
    deadline: float = 330.0
    only: tuple[str, ...] = ()
    commit: str = ""
    backends: tuple[str, ...] = BACKENDS
    tiles: dict[str, tuple[int, ...]] = field(default_factory=dict)
    caps: tuple[int, ...] = ()
    dry: bool = False
    torch: str = ""
    step: str = ""
    part: int = 0
    parts: int = 1
    until: float = float("inf")

    @property
    def cache(self) -> Path:
        """Folder of what is compiled, which a second run on the same machine finds again."""
        return Path(tempfile.gettempdir()) / "ptmkernels-short-run"

    @property
    def results(self) -> Path:
        return Path(self.output) / "results.jsonl"

    @property
    def log(self) -> Path:
        return Path(self.output) / "log.txt"

    @property
    def summary(self) -> Path:
        return Path(self.output) / "summary.txt"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        given = json.loads(text)
        for name in ("backends", "caps", "only"):
            given[name] = tuple(given[name])
        return Settings(**given)
