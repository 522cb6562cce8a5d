"""Other tiles of the Triton attention kernels, the most valuable ones first, beside the default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from ptmkernels.benchmarks import load
from ptmkernels.benchmarks.harness import ANSWER_BOUND, BACKWARD, FORWARD, Call, Case, relative_rms
from ptmkernels.benchmarks.replay import Replay, recording_stream
from ptmkernels.benchmarks.timing import time_in_turns
from ptmkernels.ops.attention import triton_config
from ptmkernels.ops.triton_tune import Tile
from short_run.results import SKIPPED, WRONG, Recorder
from short_run.settings import Settings
from short_run.timings import Problem, options
from tests import interpreter

BUDGET = 0.03  # seconds of timing for a tile
DEFAULT = "default"
SWEPT, SPILLED = "swept.txt", "spilled.txt"  # names of variants, beside the compiled kernels
# (m, n, warps, stages); `FORCED` of triton_config says how kernels are called.
TILES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "forward": (
        *((128, 128, 8, 2), (128, 64, 4, 3), (64, 64, 4, 3)),
        *((128, 128, 8, 3), (64, 128, 4, 2)),
    ),
    "backward": (
        *((64, 64, 4, 2), (128, 64, 8, 2), (64, 64, 8, 2)),
        *((32, 128, 8, 3), (64, 128, 8, 1)),
    ),
    "relative_forward": ((64, 32, 4, 2), (64, 64, 8, 2), (64, 32, 4, 3), (128, 64, 8, 2)),
    "relative_backward_query": ((64, 32, 4, 2), (64, 64, 4, 2), (128, 32, 8, 2)),
    "relative": ((64, 32, 4, 2), (32, 32, 4, 1), (64, 64, 4, 2)),
    "backward_query": ((64, 64, 4, 3), (64, 64, 4, 2)),
    "backward_key": ((64, 64, 4, 2), (64, 64, 4, 3)),
}
# The pair serves in the place of the fused kernel where the same bits are asked for.
DETERMINISTIC = ("backward_query", "backward_key")
LENGTHS = {False: (1024, 4096), True: (1024,)}  # by whether relative


@dataclass(frozen=True)
class Variant:
    """A kernel with another tile than its default; `tile` None = with that."""

    kernel: str
    length: int
    tile: tuple[int, int, int, int] | None

    @property
    def relative(self) -> bool:
        return self.kernel.startswith("relative")

    @property
    def mode(self) -> str:
        return FORWARD if self.kernel.endswith("forward") else BACKWARD

    @property
    def problem(self) -> Problem:
        op, series = ("relative", "xlnet") if self.relative else ("masked", "full")
        return Problem(f"{op}_attention", series, self.length, (self.mode,), ())

    def __str__(self) -> str:
        tile = ",".join(map(str, self.tile)) if self.tile else DEFAULT
        return f"{self.kernel} L {self.length} {tile}"


def variants() -> list[Variant]:
    """Round by round: the first choice of every kernel, then the second."""
    found = []
    for place in range(-1, max(map(len, TILES.values()))):
        for kernel, tiles in TILES.items():
            for length in LENGTHS[kernel.startswith("relative")]:
                if place < len(tiles):
                    tile = tiles[place] if place >= 0 else None
                    found.append(Variant(kernel, length, tile))
    return found


def sweep(recorder: Recorder) -> None:
    """Those that do not spill and were not measured yet on this machine, as far as the time goes."""
    settings = recorder.settings
    if settings.dry and (refusal := interpreter._refusal()):
        recorder.add("all of them", SKIPPED, refusal)
        return
    left = variants()[:1]
    if not settings.dry:
        passed_over = names_in(settings.cache / SWEPT) | names_in(settings.cache / SPILLED)
        left = [v for v in variants() if str(v) not in passed_over]
    bench = Bench(recorder)
    for variant in left:
        if not recorder.in_time(str(variant), 2.0):
            continue
        with recorder.guarded(str(variant)):
            bench.measure(variant)
        if not settings.dry:
            add_name(settings.cache / SWEPT, str(variant))


def note_spilled(settings: Settings, name: str) -> None:
    """The variant of this name is not worth its time."""
    add_name(settings.cache / SPILLED, name)


def names_in(path: Path) -> set[str]:
    return set(path.read_text().splitlines()) if path.is_file() else set()


def add_name(path: Path, name: str) -> None:
    with path.open("a") as file:
        file.write(f"{name}\n")


class Bench:
    """Keeps the inputs of the last problem, which several tiles share."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.problem: Problem | None = None

    def measure(self, variant: Variant) -> None:
        """Check against the default tile's answer, then time."""
        with recording_stream(self._device()):
            if variant.problem != self.problem:
                self._prepare(variant)
            with forced(variant):
                call = Call(self.function, self.inputs, self.grad, variant.mode)
                answers = call.answers()
                timed = Replay(call) if self.case.device.type == "cuda" else call
                (samples,) = time_in_turns([timed], self.case.device, BUDGET)
        error = max(relative_rms(t, self.expected[n]) for n, t in answers.items())
        right = error <= ANSWER_BOUND[self.case.dtype]
        self.recorder.add(
            str(variant),
            "ok" if right else WRONG,
            "" if right else f"off by {error:.2g} from the default tile's answer",
            kernel=variant.kernel,
            length=variant.length,
            tile=str(variant).split()[-1],
            ms=sorted(samples)[len(samples) // 2] * 1e3,
        )

    def _device(self) -> torch.device:
        return torch.device("cpu" if self.recorder.settings.dry else "cuda")

    def _prepare(self, variant: Variant) -> None:
        self.case = case_of(variant.problem, self.recorder)
        self.function = ours(self.case, variant.problem)
        self.inputs = {
            n: t.requires_grad_(t.is_floating_point()) for n, t in self.case.inputs().items()
        }
        with torch.no_grad():
            self.grad = torch.randn_like(self.function(**self.inputs))
        self.expected: dict[str, Tensor] = Call(
            self.function, self.inputs, self.grad, variant.mode
        ).answers()
        self.problem = variant.problem


def case_of(problem: Problem, recorder: Recorder) -> Case:
    """The one case of a problem; in a dry run one that the interpreter takes seconds for."""
    wanted = options(problem, recorder.settings)
    return next(iter(load(problem.op).cases(wanted)))


def ours(case: Case, problem: Problem) -> Callable[..., Tensor]:
    """Our function in the Triton backend."""
    module = import_module(f"ptmkernels.benchmarks.{problem.op}")
    return module.ours(case.setup, backend="triton")


@contextmanager
def forced(variant: Variant) -> Iterator[None]:
    """The tile of a variant instead of the default, and the backward pass that its kernel belongs to."""
    before, deterministic = dict(triton_config.FORCED), torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would take time of its own
    torch.use_deterministic_algorithms(variant.kernel in DETERMINISTIC)
    if variant.tile is not None:
        triton_config.FORCED[variant.kernel] = Tile(*variant.tile)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        triton_config.FORCED.clear()
        triton_config.FORCED.update(before)
