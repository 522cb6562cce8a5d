"""On a machine with a CUDA GPU: are the kernels right, and how fast are they; in 330 seconds, or longer.

    python tools/gpu_short.py --commit $(git rev-parse --short HEAD)
    python tools/gpu_short.py --only masked --tile forward=64,64,4,3
    python tools/gpu_short.py --memcheck --backend cuda
    python tools/gpu_short.py --sweep --deadline 150
    python tools/gpu_short.py --gate         # before, without a GPU: all that can be known there
    python tools/gpu_short.py --convert out/gpu/results.jsonl --output benchmarks/results

Needs a checkout with the built libraries, and neither an installation nor the network. Every result is a
line of results.jsonl in the folder of --output (else of the variable OUT, else out/gpu), on the disk at once;
what the steps print goes to log.txt, the summary to summary.txt. CONTRIBUTING.md tells more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from short_run import plan
from short_run.parent import Parent, environment
from short_run.results import FAILED, WRONG, read
from short_run.settings import BACKENDS, ROOT, Settings
from short_run.summary import is_peer

GATE_SECONDS = 3600.0


def parser() -> argparse.ArgumentParser:
    """The options; every step can be chosen and changed by one, so that no file is edited on the machine."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--output", type=Path, help="folder of the results")
    made.add_argument("--commit", default="", help="commit of the checkout, where git is not there")
    made.add_argument("--deadline", type=float, help="seconds in all")
    made.add_argument("--only", action="append", default=[], metavar="GROUP", help="steps to run")
    made.add_argument(
        "--all", action="store_true", help="models, tests, sanitizers, benchmarks too"
    )
    made.add_argument("--sweep", action="store_true", help="only tiles that were not measured yet")
    made.add_argument("--memcheck", action="store_true", help="our kernels under compute-sanitizer")
    made.add_argument("--backend", action="append", choices=BACKENDS, default=[])
    made.add_argument("--tile", action="append", default=[], metavar="KERNEL=M,N,WARPS,STAGES")
    made.add_argument("--cap", action="append", type=int, default=[], help="of word vectors")
    made.add_argument("--dry", action="store_true", help="tiny sizes on a machine without a GPU")
    made.add_argument(
        "--gate", action="store_true", help="symbols, all kernels compiled, a dry run"
    )
    made.add_argument("--torch", default="", help="folder of torch's libraries, for the symbols")
    made.add_argument("--convert", type=Path, help="results.jsonl to write as benchmark files")
    return made


def tile(text: str) -> tuple[str, tuple[int, ...]]:
    """Kernel and numbers of a --tile."""
    kernel, _, numbers = text.partition("=")
    parts = numbers.split(",")
    if not kernel or len(parts) != 4 or not all(part.isdecimal() for part in parts):
        sys.exit(f"--tile is {text!r}; expected KERNEL=M,N,WARPS,STAGES")
    return kernel, tuple(map(int, parts))


def stages(options: argparse.Namespace, settings: Settings) -> list[plan.Stage]:
    """What the options ask for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if options.memcheck:
        return plan.memcheck(settings)
    if options.gate:
        return plan.gate(settings, cores)
    build = plan.everything if options.all or "models" in options.only else plan.short
    found = build(settings, cores)
    known = plan.groups(found)
    for name in options.only:
        if name not in known:
            sys.exit(f"--only is {name!r}; expected one of {', '.join(known)}")
    found = plan.chosen(found, ("sweep",) if options.sweep else tuple(options.only))
    return plan.dry(found) if options.dry else found


def convert(results: Path, output: Path) -> int:
    """The rows of a run as files of benchmarks/results."""
    command = [sys.executable, "-m", "short_run.convert", str(results), str(output)]
    settings = Settings(output=str(output), start=time.time())
    return subprocess.run(command, env=environment(settings), check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where something of ours failed or is wrong."""
    options = parser().parse_args(arguments)
    output = options.output or Path(os.environ.get("OUT") or ROOT / "out" / "gpu")
    if options.convert:
        return convert(options.convert, output)
    settings = Settings(
        output=str(output.resolve()),
        start=time.time(),
        deadline=options.deadline or (GATE_SECONDS if options.gate else plan.DEADLINE),
        only=tuple(options.only),
        commit=options.commit,
        backends=tuple(options.backend) or BACKENDS,
        tiles=dict(tile(text) for text in options.tile),
        caps=tuple(options.cap),
        dry=options.dry or options.gate,
        torch=options.torch,
    )
    chosen = stages(options, settings)
    output.mkdir(parents=True, exist_ok=True)
    settings.cache.mkdir(parents=True, exist_ok=True)
    for old in (settings.results, settings.log):
        old.unlink(missing_ok=True)
    Parent(settings).run(chosen)
    print(settings.summary.read_text(encoding="utf-8"))
    bad = [r for r in read(settings.results) if r["status"] in (WRONG, FAILED) and not is_peer(r)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
