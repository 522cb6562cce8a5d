"""The one harness: check every answer, then time all providers in turns, and write a row for each.

On a GPU the calls are recorded as graphs and their replays timed; a call that cannot be recorded is timed as
it is, and its row says so.

A benchmark says what its cases are, which providers run them, and what is to be reached. A provider whose
answer is wrong, or that does not run, gets no time but the reason; where our own answer is wrong, no
ratio is reported at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from ptmkernels import _environment
from ptmkernels.benchmarks.machine import Work, floor_seconds
from ptmkernels.benchmarks.memory import peak_bytes, peak_resident_bytes
from ptmkernels.benchmarks.replay import Replay, recording_stream
from ptmkernels.benchmarks.report import Row
from ptmkernels.benchmarks.timing import issue_seconds, time_in_turns

FORWARD, BACKWARD, BOTH = MODES = ("forward", "backward", "forward+backward")

# Largest RMS(answer - reference) / RMS(reference) of a right answer, the reference being float32 or
# wider: some hundred units of round-off of float32; a few of the low precisions, in which a provider
# may round the attention weights and every partial result. Errors of layers in a row add up like a
# random walk's steps.
ANSWER_BOUND = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True)
class Case:
    """One problem.

    Args:
        series: what is varied beside the size, a line of the plot ("causal").
        size: the number on the plot's axis (L).
        shape: the named dimensions.
        inputs: makes the tensors; those that are floating get gradients.
        reference: the right answer as a function of the inputs.
        work: what must be done, for each mode.
        setup: whatever the providers need beside the inputs.
        modes: the modes that make sense here.
        depth: layers that the result passes through; the bound on its error grows with the root.
    """

    series: str
    size: int
    shape: dict[str, int]
    dtype: torch.dtype
    device: torch.device
    inputs: Callable[[], dict[str, Tensor]]
    reference: Callable[..., Tensor]
    work: dict[str, Work]
    setup: object = None
    modes: tuple[str, ...] = MODES
    depth: int = 1


@dataclass(frozen=True)
class Provider:
    """One way to compute a case.

    Args:
        build: gives the function of the inputs for a case; raises where it cannot serve it.
        against: which of our providers it is compared with; None: it is one of ours.
        reference: the right answer, where it is not that of the case.
        deterministic: it runs under `torch.use_deterministic_algorithms(True)`.
    """

    name: str
    build: Callable[[Case], Callable[..., Tensor]]
    against: str | None = "ptmkernels"
    reference: Callable[..., Tensor] | None = None
    deterministic: bool = False


@dataclass(frozen=True)
class Comparison:
    """A measurement that is no function of tensors, such as a training: its name, and what takes it."""

    name: str
    measure: Callable[[], list[Row]]


@dataclass(frozen=True)
class Benchmark:
    """An op's setup: cases, providers, and the goals as data.

    Args:
        cases: the cases for the options.
        providers: the providers for a case; ours, named "ptmkernels", comes first.
        goal: how many times as fast as a provider we want to be in a mode of a case, or None.
        peer: the provider that plots compare with.
        comparisons: what else to measure for the options.
    """

    op: str
    peer: str
    cases: Callable[[Options], Iterable[Case]]
    providers: Callable[[Case, Options], Sequence[Provider]]
    goal: Callable[[Case, str, str], float | None]
    comparisons: Callable[[Options], Iterable[Comparison]] = lambda options: ()


@dataclass(frozen=True)
class Options:
    """What to run.

    Args:
        budget: seconds of timing for each case, mode and thread count.
        quick: a small selection.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    threads: tuple[int, ...] = (1, 2)
    modes: tuple[str, ...] = (FORWARD, BOTH)
    series: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    providers: tuple[str, ...] = ()
    quick: bool = False
    budget: float = 3.0


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """`torch.use_deterministic_algorithms(True)` without the filling of new tensors, which takes time."""
    before = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filling


class Call:
    """A provider's function bound to the inputs of a case and a mode.

    Args:
        grad: the gradient of its result.
        deterministic: as of a provider.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: dict,
        grad: Tensor,
        mode: str,
        deterministic: bool = False,
    ):
        self.function, self.inputs, self.grad, self.mode = function, inputs, grad, mode
        self.deterministic = deterministic
        self.leaves = {n: t for n, t in inputs.items() if t.requires_grad}
        if (
            mode == FORWARD
        ):  # FlexAttention refuses leaves on the CPU even where no gradient is asked for
            self.inputs = {n: t.detach() for n, t in inputs.items()}

    @cached_property
    def kept(self) -> Tensor:
        return self.function(**self.inputs)

    def __call__(self) -> tuple[Tensor, ...]:
        if not self.deterministic:
            return self._results()
        with deterministic_algorithms():
            return self._results()

    def _results(self) -> tuple[Tensor, ...]:
        if self.mode == FORWARD:
            with torch.no_grad():
                return (self.function(**self.inputs),)
        keep = self.mode == BACKWARD
        output = self.kept if keep else self.function(**self.inputs)
        return torch.autograd.grad(
            output, list(self.leaves.values()), self.grad, retain_graph=keep, allow_unused=True
        )

    def answers(self) -> dict[str, Tensor]:
        """What the call computes, by name; an input that it does not depend on has no gradient."""
        return self.named(self())

    def named(self, results: Sequence[Tensor | None]) -> dict[str, Tensor]:
        names = ["output"] if self.mode == FORWARD else [f"gradient of {n}" for n in self.leaves]
        return {n: t for n, t in zip(names, results, strict=True) if t is not None}


@dataclass
class _Trial:
    """A provider in one case, mode and thread count, on its way from check to row."""

    provider: Provider
    call: Call | None = None
    reason: str = ""
    status: str = "ok"
    error: float | None = None
    replay: Replay | None = None
    samples: list[float] = field(default_factory=list)

    @property
    def timed(self) -> Callable[[], object]:
        """What is timed: the recording, where there is one."""
        return self.replay or self.call


def run(
    benchmark: Benchmark,
    options: Options,
    on_start: Callable[[str], None] = lambda text: None,
) -> Iterator[list[Row]]:
    """Measure; yields the rows of each case, mode and thread count as they are done.

    Args:
        on_start: told what is measured next.
    """
    threads_before = torch.get_num_threads()
    try:
        for case in benchmark.cases(options):
            for mode in wanted_modes(case, options):
                torch.set_num_threads(max(options.threads))
                with recording_stream(case.device):
                    problem = _Problem(benchmark, case, mode, options)
                for threads in options.threads:
                    torch.set_num_threads(threads)
                    on_start(describe(case, mode, threads))
                    with recording_stream(case.device):
                        rows = problem.measure(options.budget)
                    yield rows
        for comparison in benchmark.comparisons(options):
            on_start(comparison.name)
            yield [
                replace(row, commit=_revision(), versions=_row_versions())
                for row in comparison.measure()
            ]
    finally:
        torch.set_num_threads(threads_before)


def count(benchmark: Benchmark, options: Options) -> int:
    """How many lists of rows `run` will yield."""
    modes = sum(len(wanted_modes(case, options)) for case in benchmark.cases(options))
    return modes * len(options.threads) + len(list(benchmark.comparisons(options)))


def wanted_modes(case: Case, options: Options) -> list[str]:
    """The modes that were asked for and make sense in the case."""
    return [mode for mode in options.modes if mode in case.modes]


def describe(case: Case, mode: str, threads: int) -> str:
    """One line about what is measured."""
    dtype = str(case.dtype).removeprefix("torch.")
    return f"{case.series} {case.size}, {dtype}, {mode}, threads: {threads}"


class _Problem:
    """A case in one mode: inputs, right answers and the providers' functions, made once."""

    def __init__(self, benchmark: Benchmark, case: Case, mode: str, options: Options):
        self.benchmark, self.case, self.mode = benchmark, case, mode
        torch.manual_seed(0)
        self.inputs = {
            name: t.requires_grad_(t.is_floating_point()) for name, t in case.inputs().items()
        }
        with torch.no_grad():
            output = case.reference(**_wide(self.inputs))
        self.grad = torch.randn_like(output).to(case.dtype)
        self.expected = self._answers_of(case.reference)
        self.trials = [
            self._trial(p, case) for p in benchmark.providers(case, options) if _wanted(p, options)
        ]

    def _answers_of(self, reference: Callable[..., Tensor]) -> dict[str, Tensor]:
        grad = self.grad.to(torch.promote_types(self.grad.dtype, torch.float32))
        return Call(reference, _wide(self.inputs), grad, self.mode).answers()

    def _trial(self, provider: Provider, case: Case) -> _Trial:
        try:
            function = provider.build(case)
        except Exception as error:  # a peer may fail in any way, and that is a result
            return _Trial(provider, status="failed", reason=first_line(error))
        call = Call(function, self.inputs, self.grad, self.mode, provider.deterministic)
        return _Trial(provider, call)

    def measure(self, budget: float) -> list[Row]:
        """Check and time with the present number of threads."""
        trials = [self._checked(trial) for trial in self.trials]
        _time([t for t in trials if t.status == "ok"], self.case.device, budget)
        return [_row(self.benchmark, self.case, self.mode, trial, trials) for trial in trials]

    def _checked(self, trial: _Trial) -> _Trial:
        """A trial of its own for this thread count, with status, reason and error set."""
        if trial.call is None:
            return trial
        own = trial.provider.reference
        expected = self.expected if own is None else self._answers_of(own)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = trial.call.answers()
        except Exception as error:  # as above
            return _Trial(trial.provider, status="failed", reason=first_line(error))
        checked = _Trial(trial.provider, trial.call)
        self._judge(checked, answers, expected)
        if _is_gpu(self.case.device) and checked.status == "ok":
            self._record(checked, expected)
        return checked

    def _judge(
        self, trial: _Trial, answers: dict[str, Tensor], expected: dict[str, Tensor], how: str = ""
    ) -> None:
        """Sets the error of a trial, and its status where that is too large."""
        errors = {name: relative_rms(answers.get(name), right) for name, right in expected.items()}
        worst = max(errors, key=errors.__getitem__)
        bound = ANSWER_BOUND[self.case.dtype] * self.case.depth**0.5
        trial.error = errors[worst]
        if not trial.error <= bound:
            trial.status = "wrong"
            found = f"{worst}{how} is off by {trial.error:.2g} (relative RMS)"
            trial.reason = f"{found}; right is up to {bound:.2g}"

    def _record(self, trial: _Trial, expected: dict[str, Tensor]) -> None:
        """The call as a graph, whose answer is checked too; it stays as it is where it has no graph."""
        try:
            trial.replay = Replay(trial.call)
        except Exception as error:  # whatever a peer does that cannot be recorded
            trial.reason = f"not recorded: {first_line(error)}"
            return
        results = trial.replay.poisoned([*self.inputs.values(), self.grad])
        self._judge(trial, trial.call.named(results), expected, " of the recording")


def _wanted(provider: Provider, options: Options) -> bool:
    return not options.providers or provider.against is None or provider.name in options.providers


def _wide(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves of their own in float32 or wider, in which the right answer is computed."""

    def widened(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        return t.detach().to(torch.promote_types(t.dtype, torch.float32)).requires_grad_()

    return {name: widened(t) for name, t in inputs.items()}


def relative_rms(answer: Tensor | None, expected: Tensor) -> float:
    """RMS(answer - expected) / RMS(expected); infinite where something is missing or not finite."""
    if answer is None or not bool(torch.isfinite(answer).all()):
        return float("inf")
    norm = expected.float().norm()
    return ((answer.float() - expected.float()).norm() / norm).item() if norm > 0 else 0.0


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"


def _time(trials: list[_Trial], device: torch.device, budget: float) -> None:
    samples = time_in_turns([t.timed for t in trials], device, budget)
    for trial, of_trial in zip(trials, samples, strict=True):
        trial.samples = of_trial


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _row(benchmark: Benchmark, case: Case, mode: str, trial: _Trial, trials: list[_Trial]) -> Row:
    provider = trial.provider
    row = Row(
        op=benchmark.op,
        provider=provider.name,
        mode=mode,
        series=case.series,
        size=case.size,
        shape=" ".join(f"{name}={size}" for name, size in case.shape.items()),
        dtype=str(case.dtype).removeprefix("torch."),
        device=case.device.type,
        device_name=_environment.device_name(case.device),
        threads=torch.get_num_threads(),
        status=trial.status,
        reason=trial.reason,
        error=trial.error,
        commit=_revision(),
        versions=_row_versions(),
    )
    if not trial.samples:
        return row
    row.q20_ms, row.q50_ms, row.q80_ms = (
        np.quantile(trial.samples, (0.2, 0.5, 0.8)) * 1e3
    ).tolist()
    row.samples = len(trial.samples)
    if _is_gpu(case.device):
        row.timing = "graph" if trial.replay else "calls"
        row.host_ms = issue_seconds(trial.call) * 1e3
    row.peak_bytes = peak_bytes(trial.call, case.device)
    row.peak_resident_bytes = None if _is_gpu(case.device) else peak_resident_bytes(trial.call)
    row.floor_ms = floor_seconds(case.work[mode], case.device, case.dtype) * 1e3
    row.of_floor = row.floor_ms / row.q50_ms
    row.goal = benchmark.goal(case, mode, provider.name)
    row.speedup = _speedup(trial, trials)
    if row.goal is not None and row.speedup is not None:
        row.goal_met = row.speedup >= row.goal
    return row


def _speedup(trial: _Trial, trials: list[_Trial]) -> float | None:
    """How many times as fast as this provider we are: the median over rounds; None if we are wrong."""
    name = trial.provider.against or trial.provider.name
    ours = next((t for t in trials if t.provider.name == name and t.samples), None)
    if ours is None:
        return None
    return float(np.median(np.divide(trial.samples, ours.samples)))


@cache
def _row_versions() -> str:
    return " ".join(f"{name}={version}" for name, version in _environment.versions().items())


@cache
def _revision() -> str:
    return _environment.revision() or ""
