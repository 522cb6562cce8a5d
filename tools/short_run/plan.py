"""The steps of a run, in their order, as data.

The seconds are those of a run of 330; a longer deadline gives every step more of them in proportion.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from short_run.settings import Settings

DEADLINE = 330.0
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
BENCHMARKS = (
    "masked_attention",
    "relative_attention",
    "two_stream_attention",
    "negative_sampling",
    "hierarchical_softmax",
    "bert",
    "xlnet",
    "t5",
)
# Works that, without a GPU, run where Triton interprets its kernels.
INTERPRETED = ("check triton", "sweep")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Step:
    """One child process.

    Args:
        work: names of the functions that `child` runs, separated by ";".
        group: what `--only` chooses it by.
        seconds: after so many, the step begins nothing new.
        need: it does not start with fewer left.
        part, parts: its share of the work.
        background: it runs beside the stages that follow, up to the first one that times.
        before: a command put before the child's own, compute-sanitizer's for example.
        command: what runs instead of a child.
    """

    name: str
    work: str
    group: str
    seconds: float
    need: float = 5.0
    part: int = 0
    parts: int = 1
    background: bool = False
    before: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """Steps that run side by side. One that times waits until nothing else runs."""

    steps: list[Step] = field(default_factory=list)
    times: bool = False


def side_by_side(name: str, group: str, seconds: float, parts: int, **more) -> list[Step]:
    """A step in several processes."""
    return [
        Step(f"{name} {part + 1}/{parts}", name, group, seconds, part=part, parts=parts, **more)
        for part in range(parts)
    ]


def alone(name: str, seconds: float, need: float = 8.0) -> Stage:
    return Stage([Step(name, name, name, seconds, need)], times=True)


def short(settings: Settings, cores: int) -> list[Stage]:
    """Correctness first, then times, the most valuable ones first."""
    compilers = max(1, min(12, cores - 4))
    compiling = side_by_side("compile", "compile", 70, compilers, background=True)
    checking = {"cuda": 4, "triton": 2}
    if settings.dry:
        checking = {"reference": 1, "triton": 1}
    checks = [
        Stage(side_by_side(f"check {backend}", "correctness", 40, checking[backend]))
        for backend in checking
        if settings.dry or backend in settings.backends
    ]
    peers = Step("compile peers", "peers", "compile", 60, background=True)
    return [
        Stage([Step("environment", "environment", "environment", 20, 0)]),
        Stage(compiling + [peers] + (checks[0].steps if checks else [])),
        *checks[1:],
        alone("ceilings", 10),
        alone("masked", 70),
        alone("relative", 60),
        alone("streams", 15),
        alone("words", 40),
        alone("losses", 10),
        alone("sweep", 60),
    ]


def memcheck(settings: Settings) -> list[Stage]:
    """Our kernels alone, under compute-sanitizer, which makes them some hundred times slower."""
    before = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    return [
        Stage([Step(f"memcheck {b}", f"kernels {b}", "memcheck", 60, before=before)])
        for b in settings.backends
    ]


def dry(stages: list[Stage]) -> list[Stage]:
    """The works of a plan in two processes, since most of a tiny one's time goes into its start."""
    works = list(dict.fromkeys(step.work for stage in stages for step in stage.steps))
    interpreted = [work for work in works if work in INTERPRETED]
    # What compiles makes the backends of its process believe in a GPU, so it comes last.
    works.sort(key=lambda work: work == "compile")
    others = [work for work in works if work not in INTERPRETED]
    processes = {"dry": others, "dry, interpreted": interpreted}
    steps = [Step(name, ";".join(some), "dry", 600) for name, some in processes.items() if some]
    return [Stage(steps)]


def gate(settings: Settings, cores: int) -> list[Stage]:
    """What can be known without a GPU: symbols, every kernel of the short run compiled, a dry run."""
    compiling = side_by_side("compile everything", "compile", 60, cores)
    symbols = Step("symbols", "symbols", "symbols", 30)
    return [Stage([symbols]), Stage(compiling), *dry(short(settings, cores))]


def everything(settings: Settings, cores: int) -> list[Stage]:
    """The short run and what takes long: models, all tests, every sanitizer, all benchmarks."""
    tests = (*PYTEST, "tests/ops", "tests/test_selector.py")
    stages = [*short(settings, cores), alone("models", 60)]
    stages.append(Stage([Step("tests", "", "tests", 150, command=tests)]))
    for tool in SANITIZERS:
        tool_of = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9")
        stages += [
            Stage([Step(f"{tool} {b}", f"kernels {b}", "sanitizers", 15, before=tool_of)])
            for b in settings.backends
        ]
    for op in BENCHMARKS:
        bench = (sys.executable, "-m", "ptmkernels", "bench", op, "--device", "cuda")
        command = (*bench, "--output", settings.output)
        stages.append(Stage([Step(f"bench {op}", "", "benchmarks", 90, command=command)], True))
    return stages


def chosen(stages: list[Stage], only: tuple[str, ...]) -> list[Stage]:
    """The stages of some groups; the environment and the compilation are always there."""
    if not only:
        return stages
    wanted = {"environment", "compile", *only}
    kept = [Stage([s for s in stage.steps if s.group in wanted], stage.times) for stage in stages]
    return [stage for stage in kept if stage.steps]


def groups(stages: list[Stage]) -> list[str]:
    """The names that `--only` takes."""
    return list(dict.fromkeys(step.group for stage in stages for step in stage.steps))
