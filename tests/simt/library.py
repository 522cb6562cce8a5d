"""Builds the CUDA kernels for the CPU, loads them as torch ops and reads the engine's reports."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sysconfig
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

import ptmkernels.ops  # noqa: F401  loads the schemas
from ptmkernels.ops.attention import autograd

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "simt"
NAMESPACE = "ptmkernels_simt"
# The ops of word vectors: called as they are, without an autograd formula.
WORD_OPS = (
    "negative_sampling_forward",
    "negative_sampling_backward",
    "hierarchical_softmax_forward",
    "hierarchical_softmax_backward",
    "hierarchical_softmax_log_prob_forward",
    "hierarchical_softmax_log_prob_backward",
    "word_vectors_step_",
)


class Site(NamedTuple):
    """A place in a kernel that orders memory."""

    kind: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.kind} at {Path(self.file).name}:{self.line}"


def build() -> Path:
    """Compiles what has changed; a lock keeps parallel test processes apart."""
    torch_dir = Path(torch.__file__).parent
    BUILD.mkdir(parents=True, exist_ok=True)
    configure = [
        *("cmake", "-S", str(HERE), "-B", str(BUILD), "-G", "Ninja"),
        f"-DPTMKERNELS_TORCH_INCLUDE={torch_dir / 'include'}",
        f"-DPTMKERNELS_TORCH_LIBRARY={torch_dir / 'lib' / 'libtorch.so'}",
    ]
    # CMake and Ninja of this Python environment, also where they are not on PATH.
    folders = (sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath))
    environment = os.environ | {"PATH": os.pathsep.join(folders)}
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (configure, ["cmake", "--build", str(BUILD)]):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command[:3])} failed:\n{done.stdout}{done.stderr}")
    return BUILD / "libptmkernels_simt.so"


def arguments_of(op: str) -> str:
    """The schema of an op but for its name."""
    schema = str(getattr(torch.ops.ptmkernels, op).default._schema)
    return schema[schema.index("(") :]


@cache
def library() -> ctypes.CDLL:
    """The engine's control functions; its ops are then torch.ops.ptmkernels_simt.*."""
    path = build()
    definitions = torch.library.Library(NAMESPACE, "DEF")
    for direction in ("forward", "backward"):
        for suffix in ("", "_tf32"):
            name = f"attention_{direction}"
            definitions.define(f"{name}{suffix}{arguments_of(name)}")
    for name in WORD_OPS:
        definitions.define(f"{name}{arguments_of(name)}")
    library.definitions = definitions  # lives as long as the process
    torch.ops.load_library(path)
    for suffix in ("", "_tf32"):
        names = (f"{NAMESPACE}::attention_{d}{suffix}" for d in ("forward", "backward"))
        autograd.register(*names, autograd.contiguous_like)
    control = ctypes.CDLL(str(path))
    control.simt_take_reports.restype = ctypes.c_char_p
    control.simt_take_sites.restype = ctypes.c_char_p
    return control


def take_reports() -> list[str]:
    """What the engine found since the last call: races, unwritten reads, bad addresses, deadlocks."""
    return library().simt_take_reports().decode().splitlines()


def take_sites() -> list[Site]:
    """The places that order memory which were passed since the last call."""
    rows = [line.split("\t") for line in library().simt_take_sites().decode().splitlines()]
    return [Site(kind, file, int(line)) for kind, file, line in rows]


@contextmanager
def without(site: Site):
    """Leaves out what orders memory at one place."""
    library().simt_delete_site(site.kind.encode(), site.file.encode(), site.line)
    try:
        yield
    finally:
        library().simt_delete_site(b"", b"", 0)


@contextmanager
def interleaved(multiprocessors: int = 132, seed: int = 1):
    """Blocks run at the same time, as many as so many multiprocessors hold, in an order drawn by `seed`."""
    library().simt_interleave(multiprocessors, ctypes.c_uint64(seed))
    try:
        yield
    finally:
        library().simt_run_in_order()
