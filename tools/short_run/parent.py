"""Runs the steps: each in a process group of its own, with a latest start and a limit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

from short_run.plan import DEADLINE, Stage, Step
from short_run.results import FAILED, SKIPPED, Recorder
from short_run.settings import ROOT, Settings
from short_run.summary import write_summary

RESERVE = 6.0  # seconds for the last summary
GRACE = 15.0  # for what a step has begun in time
POLL = 0.1


@dataclass
class Running:
    """A child.

    Args:
        ends: second of the run at which it is killed.
    """

    step: Step
    process: subprocess.Popen
    ends: float


class Parent:
    """One run of a plan."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.scale = max(1.0, settings.deadline / DEADLINE)
        self.running: list[Running] = []

    @property
    def now(self) -> float:
        return time.time() - self.settings.start

    @property
    def last(self) -> float:
        """The second at which every child has to be done."""
        return self.settings.deadline - RESERVE

    def run(self, stages: list[Stage]) -> None:
        """All stages, each as far as the time allows."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
        try:
            for stage in stages:
                if stage.times:
                    self._wait(background=True)
                for step in stage.steps:
                    self._start(step)
                self._wait()
                write_summary(self.settings)
            self._wait(background=True)
        finally:
            for child in self.running:
                kill(child.process)
            write_summary(self.settings)

    def _start(self, step: Step) -> None:
        seconds = step.seconds * self.scale
        if self.now + step.need > self.last:
            self._record(step, SKIPPED, "its latest start has passed")
            return
        if step.before and shutil.which(step.before[0]) is None:
            self._record(step, SKIPPED, f"{step.before[0]} is not on this machine")
            return
        until = min(self.now + seconds, self.last)
        mine = replace(self.settings, step=step.name, part=step.part, parts=step.parts, until=until)
        child = (sys.executable, "-m", "short_run.child", step.work, mine.to_json())
        with self.settings.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                step.command or (*step.before, *child),
                cwd=ROOT,
                env=environment(self.settings),
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=os.setpgrp,  # so that what a child starts ends with it
            )
        self.running.append(Running(step, process, min(until + GRACE * self.scale, self.last)))

    def _wait(self, background: bool = False) -> None:
        """Until the children are done, those in the background too where that is asked for."""
        while any(background or not child.step.background for child in self.running):
            self._reap()
            time.sleep(POLL)

    def _reap(self) -> None:
        for child in list(self.running):
            status = child.process.poll()
            if status is None and self.now < child.ends:
                continue
            self.running.remove(child)
            if status is None:
                kill(child.process)
                self._record(child.step, FAILED, "ended at its time limit")
            elif status != 0:
                self._record(child.step, FAILED, f"exit status {status}; its end is in log.txt")

    def _record(self, step: Step, status: str, reason: str) -> None:
        Recorder(replace(self.settings, step=step.name)).add("the whole step", status, reason)


def kill(process: subprocess.Popen) -> None:
    """End a child and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def environment(settings: Settings) -> dict[str, str]:
    """The variables of the children: a checkout without an installation, and caches that they share."""
    paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    fixed = {
        "TRITON_CACHE_DIR": str(settings.cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(settings.cache / "inductor"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "CUDA_MODULE_LOADING": "LAZY",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    return {**os.environ, **fixed}
