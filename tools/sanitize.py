"""Builds with the address and undefined-behaviour sanitizers and runs the kernels' tests under them.

    python tools/sanitize.py [tests...]      # default: the ops on the CPU and the corpus tools

The sanitized package is installed into build/sanitize, beside a copy of the tests, so that neither the
package in the source tree nor its build is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sanitize"
SITE = FOLDER / "site"
SANITIZERS = "address;undefined"
SELECTION = ("tests/ops", "tests/corpus")
# Python and torch do not free everything at the end, and allocate in one library what another frees.
ASAN_OPTIONS = "detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0"


def build() -> None:
    """Compiles with the sanitizers and installs into SITE."""
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation"]
    environment = os.environ | {
        "PTMKERNELS_SANITIZE": SANITIZERS,
        "PTMKERNELS_BUILD_CUDA": "0",
        "PTMKERNELS_BUILD_DIR": str(FOLDER / "cmake"),
    }
    command += ["--no-deps", "--target", str(SITE), str(ROOT)]
    subprocess.run(command, env=environment, check=True)


def run_time(name: str) -> str:
    """The path of a library of the compiler."""
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test(selection: list[str]) -> int:
    """Runs the tests in a process into which the sanitizers' run times are loaded first."""
    shutil.rmtree(FOLDER / "tests", ignore_errors=True)
    shutil.copytree(ROOT / "tests", FOLDER / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    libraries = ("libasan.so", "libubsan.so", "libstdc++.so.6")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(run_time(name) for name in libraries),
        "ASAN_OPTIONS": ASAN_OPTIONS,
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": str(SITE),
        "OMP_NUM_THREADS": "2",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(FOLDER), *selection]
    return subprocess.run(command, cwd=FOLDER, env=environment, check=False).returncode


if __name__ == "__main__":
    build()
    sys.exit(test(sys.argv[1:] or list(SELECTION)))
