"""Launching Triton kernels, and compiling them ahead of time for a GPU that is not there.

`launch` is the one place where kernels of the package are run. Inside of `compile_for` it compiles them
instead, with the same arguments and constants, for any target that Triton knows, and what the compiler
made can be read: registers, spills, shared memory, machine instructions.

    with compile_for("sm_90") as kernels:
        torch.ops.ptmkernels.triton_attention_forward(query, key, value, ...)  # CPU tensors
    print(kernels[0].registers, kernels[0].spilled_bytes)
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from ptmkernels.ops import triton_tuples

triton_tuples.mend()
_ahead: list[CompiledKernel] | None = None  # where `launch` puts what it compiles ahead of time


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel compiled ahead of time and what its machine code says."""

    name: str
    target: str
    constants: dict
    warps: int
    compiled: object

    @property
    def shared_bytes(self) -> int:
        return self.compiled.metadata.shared

    @property
    def registers(self) -> int:
        """Registers of a thread (NVIDIA), or vector registers of a lane, accumulators included (AMD)."""
        if self._amd:
            return self._amd_field("vgpr_count")
        return int(re.search(r"REG:(\d+)", self._resources)[1])

    @property
    def spilled_bytes(self) -> int:
        """Bytes of registers that a thread keeps in memory."""
        if self._amd:
            return self._amd_field("private_segment_fixed_size")
        return int(re.search(r"STACK:(\d+)", self._resources)[1])

    @cached_property
    def instructions(self) -> Counter:
        """How often each machine instruction stands in the code, by its full name."""
        if self._amd:
            code = self.compiled.asm["amdgcn"]
            return Counter(re.findall(r"^\s+([sv]_\w+|ds_\w+|buffer_\w+|global_\w+)", code, re.M))
        listing = self._tool("nvdisasm", "-c")
        names = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", listing)
        return Counter(names)

    @property
    def _amd(self) -> bool:
        return self.target.startswith("gfx")

    def _amd_field(self, name: str) -> int:
        return int(re.search(rf"\.{name}:\s*(\d+)", self.compiled.asm["amdgcn"])[1])

    @cached_property
    def _resources(self) -> str:
        return self._tool("cuobjdump", "--dump-resource-usage")

    def _tool(self, name: str, *options: str) -> str:
        """Output of one of the binary tools that come with Triton."""
        path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.compiled.asm["cubin"])
            file.flush()
            done = subprocess.run(
                [path, *options, file.name], capture_output=True, text=True, check=True
            )
        return done.stdout


class _AbsentDevice:
    """A Triton driver of a device that is only compiled for."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_device(self) -> str:
        return f"{self.target.backend}:{self.target.arch}"

    def get_current_stream(self, device) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


@contextmanager
def compile_for(target: str) -> Iterator[list[CompiledKernel]]:
    """Until the end of the block, kernels are compiled for `target` and not run.

    Args:
        target: "sm_80", "sm_90", "sm_100", ... or "gfx942", ...

    Yields:
        A list that receives one :class:`CompiledKernel` for every launch.
    """
    global _ahead
    before, _ahead = _ahead, []
    active = driver._active
    try:
        driver.set_active(_AbsentDevice(_gpu_target(target)))
        yield _ahead
    finally:
        driver.set_active(active)
        _ahead = before


def _gpu_target(name: str) -> GPUTarget:
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 64)


def target_name() -> str:
    """ "sm_90", "gfx942", ... of the current device, or "interpreter"."""
    if triton.knobs.runtime.interpret:
        return "interpreter"
    target = driver.active.get_current_target()
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch).split(":")[0]


def on_device(tensor: torch.Tensor) -> AbstractContextManager:
    """Triton launches on the current device; an op runs on that of its tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a small number under the interpreter and ahead of time."""
    if device.type == "cpu":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def launch(
    kernel, grid: tuple[int, ...], arguments: tuple, constants: dict, warps: int, stages: int = 2
) -> None:
    """Run `kernel` over `grid`, or compile it inside of :func:`compile_for`."""
    options = {**constants, "num_warps": warps, "num_stages": stages}
    if _ahead is None:
        kernel[grid](*arguments, **options)
        return
    compiled = kernel.warmup(*arguments, grid=grid, **options)
    _ahead.append(CompiledKernel(kernel.__name__, target_name(), constants, warps, compiled))
