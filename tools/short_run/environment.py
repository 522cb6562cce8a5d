"""What there is on the machine, and whether the libraries and one call of each backend work."""

from __future__ import annotations

import platform
import subprocess

import torch

from ptmkernels import _environment, _library
from ptmkernels._selector import unavailable
from ptmkernels.ops import masked_attention
from short_run.results import FAILED, OK, Recorder
from short_run.settings import BACKENDS

DRIVER = ("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,memory.total", "--format=csv")


def environment(recorder: Recorder) -> None:
    """One record for each thing that the other steps need."""
    versions = _environment.versions() | {"kernel": platform.release()}
    note = ", ".join(f"{name} {version}" for name, version in versions.items())
    recorder.add("versions", note=note)
    errors = {"the CPU library": _library.cpu_library_error()}
    if torch.version.cuda and any(_library.LIBRARY_DIR.glob("*ptmkernels_cuda*")):
        errors["the CUDA library"] = _library.cuda_library_error()
    for name, error in errors.items():
        recorder.add(name, FAILED if error else OK, error or "")
    with recorder.guarded("the corpus module"):
        from ptmkernels import _corpus  # noqa: F401

        recorder.add("the corpus module")
    if not recorder.settings.dry:
        gpu(recorder)


def gpu(recorder: Recorder) -> None:
    """The device, and a small call of each backend."""
    with recorder.guarded("driver"):
        done = subprocess.run(DRIVER, capture_output=True, text=True, check=True, timeout=15)
        recorder.add("driver", note=done.stdout.strip().splitlines()[-1])
    for backend in BACKENDS:
        with recorder.guarded(f"one call of {backend}"):
            reason = unavailable(backend)
            if reason:
                raise RuntimeError(reason)
            query = torch.randn(1, 2, 64, 64, device="cuda", dtype=torch.bfloat16)
            masked_attention(query, query, query, backend=backend)
            torch.cuda.synchronize()
            recorder.add(f"one call of {backend}")
