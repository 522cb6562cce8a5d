"""The CUDA attention kernels as nvcc compiled them: registers, spills, shared memory, machine code.

Reads the library that was built; no GPU is needed.
"""

import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from ptmkernels._library import _path
from tests.ops.machine_code import Code, Work

LIBRARY = _path("ptmkernels_cuda")
pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the CUDA library is not built here")
ARCHITECTURES = ("sm_80", "sm_90a")
TYPES = {"bfloat16": "NS_8bfloat16E", "float16": "NS_7float16E", "float32": "f"}
KERNELS = ("forward", "backward of queries", "backward of keys")
# With relative positions, and the gradients of their rows; without them there are more instances.
RELATIVE = (*(f"relative {kernel}" for kernel in KERNELS), "gradient of rows")
HEAD_DIMS = dict.fromkeys(KERNELS, (32, 64, 128, 256)) | dict.fromkeys(RELATIVE, (64, 256))
# One tile of a warp in D = 64 takes so many products of 16 x 8 x 16 (csrc/attention/cuda/shapes.h): rows
# / 16, columns of scores / 8, depth / 16, for each product of the kernel.
PRODUCTS = {
    "forward": 2 * (2 * 4 * 4),
    "backward of queries": 3 * 16,
    "backward of keys": 4 * 16,
    # The same for 16 rows and 32 columns, and those of a band: with the relative keys, with the relative
    # values, and with what is shifted to them. Queries take 48 rows of a band at once, keys 16.
    "relative forward": 2 * 16 + 2 * 24,
    "relative backward of queries": 3 * 16 + 3 * 24,
    "relative backward of keys": 4 * 16 + 2 * 16,
    # Q r, dO rv, Q K, dO V; and 64 queries deep 16 rows x 32 columns of the gradient.
    "gradient of rows": 4 * 16 + 16,
}
# What one turn of the loop over tiles does in bfloat16, D = 64: two tiles of 64 columns come in 8 copies of
# each thread, two of 32 in 4, and 96 rows of a band in 6. And the most instructions that a warp may issue for
# it where nothing is masked, biased or dropped and rows are aligned. Counted with nvcc 13.0: 690, 447, 584,
# 546, 748, 1114 and 528.
TURNS = {
    "forward": (Work(128, 8), 715),
    "backward of queries": (Work(3 * 32, 8), 465),
    "backward of keys": (Work(4 * 32, 8), 605),
    "relative forward": (Work(2 * 16 + 24, 10), 570),
    "relative backward of queries": (Work(3 * 16 + 2 * 24, 10), 780),
    "relative backward of keys": (Work(4 * 16 + 3 * 16, 10), 1160),
    "gradient of rows": (Work(2 * 16, 4), 550),
}


class Resources(NamedTuple):
    """Of one kernel on one architecture, as cuobjdump prints them."""

    registers: int
    stack: int
    shared: int


def tool(name: str) -> str:
    """A binary tool of CUDA: on the path, or that of Triton's wheel."""
    if path := shutil.which(name):
        return path
    spec = find_spec("triton")
    if spec is None:
        pytest.skip(f"{name} is neither on the path nor in a Triton wheel")
    return str(Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name)


def run(name: str, *arguments: str) -> str:
    command = [tool(name), *arguments, str(LIBRARY)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def resources() -> dict[str, dict[str, Resources]]:
    """By architecture and mangled name."""
    found: dict[str, dict[str, Resources]] = {}
    architecture, function = "", ""
    for line in run("cuobjdump", "--dump-resource-usage").splitlines():
        if match := re.search(r"^arch = (\w+)", line.strip()):
            architecture = match[1]
        elif match := re.search(r"Function (\S+):", line):
            function = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            found.setdefault(architecture, {})[function] = Resources(*map(int, match.groups()))
    return found


def mangled(architecture: str, kernel: str, dtype: str, head_dim: int) -> str:
    """The name of a kernel in the library."""
    start = f"I{TYPES[dtype]}Li{head_dim}E"
    relative = f"Lb{int(kernel in RELATIVE)}EE"
    part = {
        "forward": f"cuda13ForwardKernel{start}{relative}",
        "backward of queries": f"BackwardKernel{start}Lb0E{relative}",
        "backward of keys": f"BackwardKernel{start}Lb1E{relative}",
        "gradient of rows": f"RelativeGradientKernel{start}",
    }[kernel.removeprefix("relative ")]
    (found,) = [n for n in resources()[architecture] if part in n]
    return found


def allowed_stack(kernel: str, dtype: str, head_dim: int) -> int:
    """Bytes of a thread that may lie in memory."""
    relative = kernel in RELATIVE
    if dtype == "float32":
        return ({64: 24, 256: 144} if relative else {128: 64, 256: 64}).get(head_dim, 0)
    return 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", TYPES)
def test_no_kernel_spills(architecture, dtype, record_property):
    """But for some in float32 and with relative positions, where a few registers lie in memory."""
    for kernel, head_dims in HEAD_DIMS.items():
        for head_dim in head_dims:
            used = resources()[architecture][mangled(architecture, kernel, dtype, head_dim)]
            record_property(f"{architecture} {dtype} D={head_dim} {kernel}", str(used))
            assert used.stack <= allowed_stack(kernel, dtype, head_dim), (head_dim, kernel, used)
            assert used.registers <= 255


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_small_kernels_do_not_spill(architecture):
    names = [n for n in resources()[architecture] if "attention" in n]
    large = ("ForwardKernel", "BackwardKernel", "RelativeGradientKernel")
    small = [n for n in names if not any(name in n for name in large)]
    assert len(small) >= 15
    assert all(resources()[architecture][n].stack == 0 for n in small)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", PRODUCTS)
def test_every_product_is_matrix_instructions(architecture, kernel):
    """bfloat16, D = 64: the matrix instructions account for all products, and no scalar loop is left."""
    name = mangled(architecture, kernel, "bfloat16", 64)
    listing = run("cuobjdump", "-sass", "-arch", architecture, "-fun", name)
    names = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", listing)
    count = Counter(names)
    assert (
        sum(n for i, n in count.items() if i.startswith("HMMA.16816.F32.BF16")) >= PRODUCTS[kernel]
    )
    scalar = sum(n for i, n in count.items() if re.match("FFMA|HFMA2|DFMA", i))
    outer = 2 * 32 if kernel in RELATIVE else 0  # at the end, sums of dS times two vectors
    assert scalar <= 8 * PRODUCTS[kernel] // 4 + outer, count


def listing_of(kernel: str) -> str:
    """bfloat16, D = 64, sm_90a."""
    name = mangled("sm_90a", kernel, "bfloat16", 64)
    return run("cuobjdump", "-sass", "-arch", "sm_90a", "-fun", name)


@pytest.mark.parametrize("kernel", TURNS)
def test_a_turn_of_the_loop_over_tiles_is_short(kernel, record_property):
    code = Code(listing_of(kernel))
    work, limit = TURNS[kernel]
    # The gradient of rows goes over tiles of queries, and for each over tiles of keys.
    loop = code.inner_main_loop if kernel == "gradient of rows" else code.main_loop
    count = code.cheapest_turn(loop, work)
    record_property(f"{kernel}: instructions of a warp", count)
    assert count is not None, "no turn of the loop does just this"
    assert count <= limit


@pytest.mark.parametrize("kernel", TURNS)
def test_no_loop_with_products_divides(kernel):
    """Integer division begins with the reciprocal of a float, or is a function that is called."""
    code = Code(listing_of(kernel))
    names = code.names(code.loops[code.main_loop])
    divides = ("I2F", "MUFU.RCP", "CALL")
    assert [name for name in names if name.startswith(divides)] == []
