"""How fast: the benchmarks' own cases and peers by their harness, the most valuable ones first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch
from torch.profiler import ProfilerActivity, profile

from ptmkernels.benchmarks import harness, load
from ptmkernels.benchmarks.harness import BACKWARD, BOTH, FORWARD, Options
from ptmkernels.benchmarks.machine import copy_rate, matmul_rate
from ptmkernels.benchmarks.masked_attention import DETERMINISTIC
from ptmkernels.benchmarks.relative_attention import PLAIN
from ptmkernels.benchmarks.two_stream_attention import CONTENT
from short_run.results import Recorder
from short_run.settings import Settings

BUDGET = 0.15  # seconds of timing for a problem, besides checks and recordings
TINY = 32  # L of a dry run
KERNELS = 8  # the longest ones, of a profile
EACH_PASS = (FORWARD, BACKWARD)


@dataclass(frozen=True)
class Problem:
    """Some cases of a benchmark.

    Args:
        peers: names of providers; ours always runs.
        seconds: what it takes at most, so that none begins that cannot end.
        compiled: a peer is compiled, which takes long the first time.
    """

    op: str
    series: str
    size: int
    modes: tuple[str, ...]
    peers: tuple[str, ...]
    dtype: torch.dtype = torch.bfloat16
    seconds: float = 5.0
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.op} {self.series} {self.size} {' and '.join(self.modes)}"


def _masked(series: str, size: int) -> Problem:
    peers = ("sdpa, cudnn", "sdpa, flash", DETERMINISTIC)
    return Problem("masked_attention", series, size, EACH_PASS, peers)


def _documents(series: str, modes: tuple[str, ...], *peers: str) -> Problem:
    seconds = 15.0 if peers else 5.0
    there = ("sdpa, efficient", "sdpa", *peers)
    return Problem("masked_attention", series, 4096, modes, there, torch.bfloat16, seconds, True)


def _relative(series: str, size: int, modes: tuple[str, ...], *peers: str) -> Problem:
    return Problem("relative_attention", series, size, modes, peers)


OURS = tuple(f"ptmkernels, {backend}" for backend in ("cuda", "triton"))
EAGER = ("transformers", "sdpa, built scores")
COMPILED = ("transformers, compiled", "flex, captured scores")
MASKED = (
    *(_masked(series, size) for size in (1024, 4096) for series in ("full", "causal")),
    _documents("documents", (FORWARD, BOTH), "flex", "flex, new mask", "ptmkernels, new mask"),
    *(_masked(series, 512) for series in ("full", "causal")),
    _documents("ragged-documents", (FORWARD, BOTH), "flex"),
)
RELATIVE = (
    _relative("xlnet", 1024, EACH_PASS, PLAIN, *EAGER),
    replace(
        _relative("transformer-xl", 1024, (BOTH,), PLAIN, *EAGER, *COMPILED),
        seconds=15.0,
        compiled=True,
    ),
    _relative("xlnet", 2048, EACH_PASS, PLAIN, *EAGER),
    _relative("transformer-xl", 512, (BOTH,), *EAGER),
    _relative("transformer-xl", 2048, (BOTH,), PLAIN, *EAGER),
)
STREAMS = (
    Problem("two_stream_attention", "xlnet", 512, (FORWARD, BOTH), (CONTENT, "transformers")),
    Problem("two_stream_attention", "xlnet", 1024, (FORWARD, BOTH), (CONTENT, "transformers")),
)
LOSSES = tuple(
    Problem(op, "loss", 0, (FORWARD, BOTH), ("pytorch",), torch.float32)
    for op in ("hierarchical_softmax", "negative_sampling")
)
MODELS = (
    Problem("bert", "training", 512, (BOTH,), ("sdpa",), seconds=10.0),
    Problem("xlnet", "training", 512, (BOTH,), ("transformers",), seconds=10.0),
    Problem("t5", "training", 1024, (BOTH,), ("transformers",), seconds=10.0),
    Problem("bert", "training-half-padded", 512, (BOTH,), ("sdpa",), seconds=10.0),
)


def masked(recorder: Recorder) -> None:
    measure(recorder, MASKED)
    kernel_times(recorder, MASKED[0])


def relative(recorder: Recorder) -> None:
    measure(recorder, RELATIVE)
    kernel_times(recorder, RELATIVE[0])


def streams(recorder: Recorder) -> None:
    measure(recorder, STREAMS)


def losses(recorder: Recorder) -> None:
    measure(recorder, LOSSES)


def models(recorder: Recorder) -> None:
    measure(recorder, MODELS)


def measure(recorder: Recorder, problems: Iterable[Problem]) -> None:
    """A result for every provider of every problem that there is time for; in a dry run the first one."""
    for problem in list(problems)[: 1 if recorder.settings.dry else None]:
        if not recorder.in_time(str(problem), problem.seconds):
            continue
        with recorder.guarded(str(problem)):
            benchmark = load(problem.op)
            for rows in harness.run(benchmark, options(problem, recorder.settings)):
                for row in rows:
                    record(recorder, row)


def kernel_times(recorder: Recorder, problem: Problem) -> None:
    """The time of each kernel in one forward and backward of ours, by torch's profiler."""
    name = f"kernels of {problem.op} {problem.series} {problem.size}"
    if not recorder.in_time(name, 5.0):
        return
    with recorder.guarded(name):
        wanted, benchmark = options(problem, recorder.settings), load(problem.op)
        case = next(iter(benchmark.cases(wanted)))
        function = benchmark.providers(case, wanted)[0].build(case)
        _once(function, case)
        kind = "cuda" if case.device.type == "cuda" else "cpu"
        with profile(activities=[getattr(ProfilerActivity, kind.upper())]) as profiled:
            _once(function, case)
        field = "self_device_time_total" if kind == "cuda" else "self_cpu_time_total"
        found = sorted(profiled.key_averages(), key=lambda e: -getattr(e, field))[:KERNELS]
        times = [f"{e.key[:40]} {getattr(e, field) / 1e3:.3f} ms ({e.count} x)" for e in found]
        recorder.add(name, note=", ".join(times))


def record(recorder: Recorder, row) -> None:
    """A row of a benchmark as a result."""
    row.commit = row.commit or recorder.settings.commit
    name = f"{row.op} {row.series} {row.size} {row.mode}, {row.provider}"
    recorder.add(name, row.status, row.reason, row=asdict(row))


def options(problem: Problem, settings: Settings) -> Options:
    """What the harness is asked for."""
    ours = tuple(f"ptmkernels, {backend}" for backend in settings.backends)
    sizes = (problem.size,) if problem.size else ()
    chosen = Options(
        device=torch.device("cuda"),
        dtypes=(problem.dtype,),
        threads=(1,),
        modes=problem.modes,
        series=(problem.series,),
        sizes=sizes,
        providers=(*problem.peers, *ours),
        budget=BUDGET * max(1.0, settings.deadline / 330.0),
    )
    if not settings.dry:
        return chosen
    return replace(
        chosen,
        device=torch.device("cpu"),
        dtypes=(torch.float32,),
        sizes=sizes and (TINY,),
        modes=(BOTH,),
        quick=True,
        budget=0.0,
    )


def compile_peers(recorder: Recorder) -> None:
    """Runs each compiled peer once, so that the compiler's cache holds it when its time is taken."""
    for problem in (*MASKED, *RELATIVE):
        if not problem.compiled or recorder.settings.dry or not recorder.in_time(str(problem)):
            continue
        with recorder.guarded(str(problem)):
            wanted = options(problem, recorder.settings)
            benchmark = load(problem.op)
            for case in benchmark.cases(wanted):
                for provider in benchmark.providers(case, wanted):
                    if provider.name in problem.peers and _is_compiled(provider.name):
                        _once(provider.build(case), case)
            recorder.add(str(problem))


def _is_compiled(name: str) -> bool:
    return name.startswith("flex") or name.endswith("compiled")


def _once(function, case) -> None:
    """Forward and backward of a peer."""
    inputs = {n: t.requires_grad_(t.is_floating_point()) for n, t in case.inputs().items()}
    leaves = [t for t in inputs.values() if t.requires_grad]
    with torch.no_grad():
        function(**{n: t.detach() for n, t in inputs.items()})
    output = function(**inputs)
    torch.autograd.grad(output, leaves, torch.ones_like(output), allow_unused=True)


def ceilings(recorder: Recorder) -> None:
    """The rates that the floors are counted with."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    if recorder.settings.dry:
        device, dtype = torch.device("cpu"), torch.float32
    rate, copied = matmul_rate(device, dtype, 1), copy_rate(device, 1)
    recorder.add("matrix product", note=f"{dtype}: {rate / 1e12:.3g} TFLOP/s")
    recorder.add("copy", note=f"{copied / 1e12:.3g} TB/s, read and written")
