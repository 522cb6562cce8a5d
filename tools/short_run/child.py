"""The process of one step: `python -m short_run.child WORK SETTINGS`."""

from __future__ import annotations

import os
import sys
from importlib import import_module

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
    "sweep": "sweep:sweep",
}


# Works that, without a GPU, run where Triton interprets its kernels.
INTERPRETED = ("check triton", "sweep")


def main(work: str, settings: Settings) -> None:
    name, *arguments = work.split()
    if settings.dry and work in INTERPRETED:
        os.environ["TRITON_INTERPRET"] = "1"
    module, _, function = WORK[name].partition(":")
    recorder = Recorder(settings)
    with recorder.guarded("the whole step"):
        prepare(settings)
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
    main(sys.argv[1], Settings.from_json(sys.argv[2]))
