"""Does a torch hold every symbol that the libraries need of it? Looked up without loading anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from ptmkernels._library import LIBRARY_DIR
from short_run.results import FAILED, OK, SKIPPED, Recorder

# Weak symbols of the compiler's start-up code, which nothing has to define.
OPTIONAL = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__"}


def symbols(recorder: Recorder) -> None:
    """One record for each library, beside the torch of this Python or that of ``--torch``."""
    given = recorder.settings.torch
    folder = Path(given) if given else Path(torch.__file__).parent / "lib"
    there = defined(folder)
    for library in sorted(LIBRARY_DIR.glob("*.so")):
        if "cuda" in library.name and not (folder / "libtorch_cuda.so").is_file():
            reason = f"{folder} has no CUDA library: unpack a wheel that has, and say --torch"
            recorder.add(library.name, SKIPPED, reason)
            continue
        needed = undefined(library)
        missing = sorted(needed - there)
        reason = f"torch lacks {', '.join(missing)}" if missing else ""
        note = {} if missing else {"note": f"{len(needed)} symbols, all of them in {folder}"}
        recorder.add(library.name, FAILED if missing else OK, reason, **note)


def undefined(library: Path) -> set[str]:
    """What a library needs of torch: the C and C++ libraries give their symbols versions."""
    lines = run_nm("--undefined-only", library)
    return {line.split()[-1] for line in lines if "@" not in line} - OPTIONAL


def defined(folder: Path) -> set[str]:
    """What the libraries in a folder define."""
    lines = run_nm("--defined-only", *sorted(folder.glob("*.so")))
    return {parts[2].split("@")[0] for parts in map(str.split, lines) if len(parts) == 3}


def run_nm(option: str, *libraries: Path) -> list[str]:
    command = ["nm", "-D", option, *map(str, libraries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
