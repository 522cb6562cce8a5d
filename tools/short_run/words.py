"""Word vectors: words a second of the training step at each bound of what is in flight, and their quality."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ptmkernels import _environment
from ptmkernels.benchmarks import word_vector_steps
from ptmkernels.benchmarks.planted_topics import PlantedTopics
from ptmkernels.benchmarks.report import Row
from ptmkernels.benchmarks.word_vector_quality import LOSS_MARGIN, PRECISION_MARGIN
from short_run.results import WRONG, Recorder
from short_run.timings import record

CPU, PYTORCH = "ptmkernels, cpu, 1 thread", "pytorch"
GOALS = {CPU: 20.0, PYTORCH: 10.0}  # times as fast, at equal quality
# Losses and widths, the most valuable first, and the seconds that each takes at most.
TASKS = (
    (word_vector_steps.LOSSES[0], 100, 15.0),
    (word_vector_steps.LOSSES[1], 100, 15.0),
    (word_vector_steps.LOSSES[0], 300, 25.0),
)


@dataclass(frozen=True)
class Plan:
    """What is trained on which text; `compiled` whether PyTorch's peer is compiled."""

    topics: PlantedTopics
    device: str
    backends: tuple[str, ...]
    bounds: tuple[int | None, ...]
    tasks: tuple[tuple[str, int, float], ...]
    compiled: bool = True


def words(recorder: Recorder) -> None:
    """A result for each loss, width, backend and bound, for one CPU thread and for PyTorch."""
    plan = _plan(recorder)
    text = plan.topics.to(plan.device)
    for loss, width, seconds in plan.tasks:
        name = f"{loss} {width}"
        if recorder.in_time(name, seconds):
            with recorder.guarded(name):
                _measure(recorder, plan, text, {"losses": (loss,), "widths": (width,)})


def _plan(recorder: Recorder) -> Plan:
    settings = recorder.settings
    if settings.dry:
        tiny = word_vector_steps.topics_of(2000, 500)
        tasks = ((word_vector_steps.LOSSES[0], 4, 0.0),)
        return Plan(tiny, "cpu", ("cpu",), (None,), tasks, compiled=False)
    bounds = (None, *settings.caps) if settings.caps else word_vector_steps.BOUNDS
    return Plan(word_vector_steps.topics_of(), "cuda", settings.backends, bounds, TASKS)


def _measure(recorder: Recorder, plan: Plan, text: PlantedTopics, task: dict) -> None:
    """Ours at each bound; then the peers, beside the first backend at its own bound."""
    found = []
    for row in word_vector_steps.step_rates(
        text, backends=plan.backends, bounds=plan.bounds, **task
    ):
        found.append(row)
        record(recorder, _row(row, f"{row['provider']}, in flight {row['max_in_flight']}"))
    ours = found[0]
    (cpu,) = word_vector_steps.step_rates(plan.topics, backends=("cpu",), **task)
    reason = shortfall(ours, cpu)
    if reason:
        recorder.add(f"quality of {_series(ours)}", WRONG, reason)
    peers = [(CPU, cpu)]
    batch = {"batch": 128} if recorder.settings.dry else {}
    rates = word_vector_steps.pytorch_rates(text, compiled=plan.compiled, **batch, **task)
    peers += [(PYTORCH, row) for row in rates]
    for name, peer in peers:
        speedup = None if reason else ours["words_per_second"] / peer["words_per_second"]
        record(recorder, _row(peer, name, speedup, GOALS[name]))


def shortfall(ours: dict, cpu: dict) -> str:
    """In what our vectors are worse than those of one CPU thread; "" where they are as good."""
    if not ours["precision"] >= cpu["precision"] - PRECISION_MARGIN:
        return f"precision is {ours['precision']:.3f}, that of the CPU {cpu['precision']:.3f}"
    if not ours["held_out_loss"] <= cpu["held_out_loss"] * (1 + LOSS_MARGIN):
        return f"loss is {ours['held_out_loss']:.4f}, that of the CPU {cpu['held_out_loss']:.4f}"
    return ""


def _series(row: dict) -> str:
    return f"{row['architecture']}, {row['loss']}"


def _row(row: dict, provider: str, speedup: float | None = None, goal: float | None = None) -> Row:
    milliseconds = row["seconds"] * 1e3
    versions = " ".join(f"{name}={value}" for name, value in _environment.versions().items())
    quality = f"precision {row['precision']:.3f}, held-out loss {row['held_out_loss']:.4f}"
    return Row(
        op="word_vectors", provider=provider, mode="training", series=_series(row),
        size=row["width"], shape=f"V={row['vocabulary']} tokens={row['words']}", dtype="float32",
        device=row["device"], device_name=_environment.device_name(torch.device(row["device"])),
        threads=1, status="ok", q50_ms=milliseconds, samples=1, versions=versions, timing="calls",
        quality=f"{row['words_per_second'] / 1e6:.3g} M words/s, {quality}", speedup=speedup,
        goal=goal, goal_met=None if speedup is None else speedup >= goal,
    )  # fmt: skip
