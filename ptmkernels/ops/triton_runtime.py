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
from functools import cache, cached_property
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from ptmkernels.ops import triton_tuples

triton_tuples.mend()
# Triton decides when it decorates a kernel whether that is compiled or interpreted.
INTERPRETED = bool(triton.knobs.runtime.interpret)
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
        names = re.findall(
            r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", self.listing
        )
        return Counter(names)

    @cached_property
    def listing(self) -> str:
        """The machine code with its labels (NVIDIA), as `nvdisasm -c` prints it."""
        return self._tool("nvdisasm", "-c")

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
    return "interpreter" if INTERPRETED else _target_of(driver.active.get_current_device())


@cache
def _target_of(device: int | str) -> str:
    """The target of the active driver's current device: a number, or a name that `compile_for` gave it."""
    target = driver.active.get_current_target()
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch).split(":")[0]


def on_device(tensor: torch.Tensor) -> AbstractContextManager:
    """Triton launches on the current device; an op runs on that of its tensors."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)


def current_stream() -> int:
    """The handle of the stream on which `launch` runs a kernel now; 0 where there is no device."""
    if INTERPRETED or _ahead is not None:
        return 0
    return driver.active.get_current_stream(driver.active.get_current_device())


def cdiv(count: int, block: int) -> int:
    """Blocks that hold `count`; Triton's own function takes longer than all else at a launch."""
    return -(-count // block)


def next_power_of_2(number: int) -> int:
    """The least power of two that is not below `number`, which is at least 1."""
    return 1 << (number - 1).bit_length()


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
