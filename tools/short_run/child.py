"""The process of one step: `python -m short_run.child WORKS SETTINGS`, works separated by ";"."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from importlib import import_module

from short_run.plan import INTERPRETED
from short_run.results import Recorder
from short_run.settings import Settings

# Work -> module and function; the function gets the recorder and, where the work has one, its argument.
WORK = {
    "environment": "environment:environment",
    "symbols": "symbols:symbols",
    "compile": "ahead:compile_ahead",
    "peers": "timings:compile_peers",
    "check": "checks:check",
    "kernels": "checks:run_kernels",
    "ceilings": "timings:ceilings",
    "masked": "timings:masked",
    "relative": "timings:relative",
    "streams": "timings:streams",
    "losses": "timings:losses",
    "words": "words:words",
    "sweep": "sweep:sweep",
    "models": "timings:models",
}


def main(works: list[str], settings: Settings) -> None:
    """Each work in turn; where there are several, a result's step is its work."""
    if settings.dry and works[0] in INTERPRETED:
        os.environ["TRITON_INTERPRET"] = "1"
    if works[0].startswith("compile"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it needs no GPU and leaves that to the others
    prepare(settings)
    for work in works:
        name, *arguments = work.split()
        module, _, function = WORK[name].partition(":")
        recorder = Recorder(replace(settings, step=work) if len(works) > 1 else settings)
        with recorder.guarded("the whole step"):
            getattr(import_module(f"short_run.{module}"), function)(recorder, *arguments)


def prepare(settings: Settings) -> None:
    """Threads, and the tiles that the command line asked for."""
    import torch

    torch.set_num_threads(1)
    if settings.tiles:
        from ptmkernels.ops.attention import triton_config
        from ptmkernels.ops.triton_tune import Tile

        forced = {kernel: Tile(*numbers) for kernel, numbers in settings.tiles.items()}
        triton_config.FORCED.update(forced)


if __name__ == "__main__":
    main(sys.argv[1].split(";"), Settings.from_json(sys.argv[2]))
