"""On a machine with a CUDA GPU: all tests on all backends, compute-sanitizer, all benchmarks.

    python tools/gpu.py                      # every stage
    python tools/gpu.py test memcheck        # some of them, each short enough to be run alone

The output of each stage goes to out/gpu/<stage>.log, a record with device, commit, seconds and exit
status to out/gpu/<stage>.json. A stage that takes more than ten minutes is ended, with status 124.

The stage "build" does nothing where ptmkernels holds the CUDA library and what this Python needs beside
it: both can be built on a machine without a GPU, with the same Python, and brought along.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from ptmkernels import _environment
from ptmkernels.benchmarks import OPS

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "out" / "gpu"
LIMIT_S = 600
TIMED_OUT = 124
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
# A small selection: the sanitizer makes a kernel some hundred times slower.
SANITIZED = ("tests/ops", "-m", "gpu", "-k", "sanitizer")
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")


def stages() -> dict[str, list[str]]:
    """The command of each stage."""
    python = (sys.executable, "-m")
    install = [*python, "pip", "install", "--no-build-isolation", "--no-deps", "--editable", "."]
    library = any((ROOT / "ptmkernels" / "lib").glob("*ptmkernels_cuda.*"))
    brought = library and find_spec("ptmkernels._corpus") is not None
    found = {
        "build": [sys.executable, "-c", "print('the library is there')"] if brought else install,
        "info": [*python, "ptmkernels", "info", "--json"],
        "test": [*PYTEST, "tests/ops", "tests/test_selector.py"],
    }
    for tool in TOOLS:
        check = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        found[tool] = [*check, "--target-processes", "all", *PYTEST, *SANITIZED]
    for op in OPS:
        bench = [*python, "ptmkernels", "bench", op, "--device", "cuda"]
        found[f"bench-{op}"] = [*bench, "--output", str(OUTPUT)]
    return found


def run(name: str, command: list[str]) -> int:
    """Run a stage; returns its exit status."""
    start = time.perf_counter()
    with (OUTPUT / f"{name}.log").open("w", encoding="utf-8") as log:
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=LIMIT_S, **output).returncode
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
    record = {
        "stage": name,
        "status": status,
        "seconds": round(time.perf_counter() - start, 1),
        "device": torch.cuda.get_device_name(),
        "commit": _environment.revision(),
        "versions": _environment.versions(),
    }
    (OUTPUT / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {'passed' if status == 0 else f'exit status {status}'}, {record['seconds']} s")
    return status


def main(names: list[str]) -> int:
    known = stages()
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"stage is {unknown[0]!r}; expected some of {', '.join(known)}")
    if not torch.cuda.is_available():
        sys.exit(f"no CUDA device is visible to torch {torch.__version__}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    return max(run(name, known[name]) for name in names or known)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
