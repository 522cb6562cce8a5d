"""Compiles the Triton kernels of the run beforehand, on cores that would be idle, without touching the GPU.

Each kernel is reached by the call that will launch it, with the same sizes, on CPU tensors whose memory is
never written; Triton's own cache on the disk holds it then for every process of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch.overrides import TorchFunctionMode

from ptmkernels import _selector
from ptmkernels.benchmarks import load
from ptmkernels.benchmarks.harness import Call, wanted_modes
from ptmkernels.ops import refusals
from ptmkernels.ops.triton_runtime import CompiledKernel, compile_for
from short_run.checks import checks
from short_run.results import Recorder
from short_run.sweep import case_of, forced, note_spilled, ours, variants
from short_run.timings import MASKED, RELATIVE, STREAMS, Problem, options

TARGET = "sm_90"
RANDOM = (torch.randn, torch.rand)


class OnTheHost(TorchFunctionMode):
    """What is made for the GPU is made on the CPU, and numbers that nobody reads are not drawn."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.cuda, torch.cuda.synchronize):
            return args[0]
        kwargs = {name: on_host(value) for name, value in (kwargs or {}).items()}
        if function in RANDOM and "generator" not in kwargs:
            function = torch.empty
        return function(*(on_host(value) for value in args), **kwargs)


def on_host(value):
    """A device of a GPU becomes the CPU."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


def compile_ahead(recorder: Recorder, what: str = "") -> None:
    """This child's share of the jobs: a result for each that fails, and how many kernels there were.

    Args:
        what: "everything" = the kernels of a whole run in a dry one, too.
    """
    if what == "everything":
        recorder = Recorder(replace(recorder.settings, dry=False))
    serve_the_host()
    settings = recorder.settings
    known: set[str] = set()
    tried = {str(variant) for variant in variants()}
    for name, job in list(jobs(recorder))[settings.part :: settings.parts]:
        if recorder.in_time(name, 5.0):
            with recorder.guarded(name), OnTheHost(), compile_for(TARGET) as compiled:
                job()
            new = {k.compiled.hash: k for k in compiled if k.compiled.hash not in known}
            known |= new.keys()
            report_spills(recorder, name, new.values())
            if name in tried and any(k.spilled_bytes for k in compiled):
                note_spilled(recorder.settings, name)
    recorder.add("compiled", note=f"{len(known)} kernels")


def serve_the_host() -> None:
    """The Triton backend takes tensors on the CPU: nothing is launched, so no GPU is missing."""
    _selector._triton_error = lambda: None
    _selector._unavailable.cache_clear()
    refusals._interpreted = lambda: True
    torch.cuda.synchronize = lambda *_: None


def report_spills(recorder: Recorder, name: str, kernels: Iterable[CompiledKernel]) -> None:
    """A result for each kernel that keeps registers in memory."""
    for kernel in kernels:
        if kernel.spilled_bytes:
            sizes = [f"{k} {v}" for k, v in kernel.constants.items() if k.startswith("BLOCK")]
            what = f"{kernel.name} {' '.join(sizes)}, {kernel.warps} warps"
            recorder.add(name, note=f"{what}: {kernel.spilled_bytes} bytes spilled")


def jobs(recorder: Recorder) -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls that reach every kernel of the run, in the order in which it needs them."""
    for one in checks("triton", recorder.settings.dry):
        if one.kernels is not None:
            yield one.name, one.kernels
    if recorder.settings.dry:
        return
    for problem in (*MASKED, *RELATIVE, *STREAMS):
        yield str(problem), partial(call_problem, problem, recorder)
    for variant in variants():
        yield str(variant), partial(call_variant, variant, recorder)


def call_problem(problem: Problem, recorder: Recorder) -> None:
    """Each case and mode of a problem once, in the Triton backend."""
    wanted, benchmark = options(problem, recorder.settings), load(problem.op)
    for case in benchmark.cases(wanted):
        function = ours(case, problem)
        for mode in wanted_modes(case, wanted):
            call_once(function, case.inputs(), mode)


def call_variant(variant, recorder: Recorder) -> None:
    """The call of a sweep with its tile."""
    case = case_of(variant.problem, recorder)
    with forced(variant):
        call_once(ours(case, variant.problem), case.inputs(), variant.mode)


def call_once(function: Callable[..., torch.Tensor], inputs: dict, mode: str) -> None:
    inputs = {n: t.requires_grad_(t.is_floating_point()) for n, t in inputs.items()}
    grad = function(**inputs).detach()
    Call(function, inputs, grad, mode)()
