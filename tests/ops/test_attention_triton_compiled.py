"""The default Triton attention kernels compiled ahead of time: registers, spills, matrix instructions.

No GPU is needed. Tests marked long run with PTMKERNELS_TEST_LONG=1; for other head dimensions, types
and options see `python -m ptmkernels.ops.attention.triton_report`.
"""

import math
import re

import pytest
import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode

from ptmkernels.ops.attention import triton_config, triton_relative_launch
from ptmkernels.ops.attention.triton_config import RELATIVE_TABLES
from ptmkernels.ops.attention.triton_report import compiled_kernels, matrix_instructions
from tests.ops.machine_code import Code, issue_slots

RELATIVE_CALLS = ("positions", "relative values")
MAX_REGISTERS = {"gfx942": 512}
# The compiler of Triton 3.6 spills there: in the keys' gradients, and in the relative forward.
MAX_SPILLED = {"gfx942": 192, "sm_90": 32} if triton.__version__ < "3.7" else {}
# Two registers of the forward: a tile of fewer rows would have none, and twice the instructions for a score.
MAX_SPILLED_RELATIVE = {("sm_90", 128): 8}
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
# Products in one step over a tile, each of BLOCK_M x BLOCK_N x D, of the kernels that have any.
PRODUCTS = {"_forward": 2, "_backward_key": 5}
DETERMINISTIC_PRODUCTS = {"_forward": 2, "_backward_query": 3, "_backward_key": 4}
# With relative keys: the products in one step of each loop, of BLOCK_M x BLOCK_N x D.
RELATIVE_PRODUCTS = {
    "_forward": (3, 3),  # with the mask's test and without: q k, q r of one chunk, a v
    "_score_gradients": (3, 3),
    "_query_products": (1, 1),  # with the keys, with the rows of r
    "_key_products": (2,),
    "_relative_gradient": (1,),
}
# Issue slots of 64 x 64 scores on sm_90, XLNet's terms, a few percent above what was counted. The plain
# kernels take 292 forward and 563 backward.
MOST_SLOTS = {
    "_forward": 680,
    "_score_gradients": 1100,
    "_query_products": 450,
    "_key_products": 190,
    "_relative_gradient": 280,
}
# Matrix instructions: the sizes of the product that one of them takes, and the warps that take it.
WARP = (r"HMMA\.(16)(8)(16)\b", 1)
SHAPES = {
    "sm_80": (WARP,),
    "sm_90": ((r"HGMMA\.(\d+)x(\d+)x(\d+)\b", 4), WARP),
    "gfx942": ((r"v_mfma_f32_(\d+)x(\d+)x(\d+)_", 1),),
}


def check(kernels, target, record_property, most_spilled=0):
    most_spilled = max(most_spilled, MAX_SPILLED.get(target, 0))
    for kernel in kernels:
        record_property(
            f"{target} {kernel.name}",
            f"{kernel.registers} registers, {kernel.spilled_bytes} bytes spilled, "
            f"{kernel.shared_bytes} bytes shared",
        )
        assert kernel.spilled_bytes <= most_spilled, f"{target} {kernel.name} {kernel.constants}"
        assert kernel.registers <= MAX_REGISTERS.get(target, 255)
        assert kernel.shared_bytes <= SHARED_BYTES[target]


def multiply_adds(kernel, target: str) -> int:
    """Of all the matrix instructions that stand in the code, run once by every warp."""
    total = 0
    for name, count in kernel.instructions.items():
        for pattern, warps in SHAPES[target]:
            if match := re.match(pattern, name):
                each = math.prod(int(size) for size in match.groups())
                total += each * count * kernel.warps // warps
    return total


@pytest.mark.parametrize("deterministic", [False, True], ids=["fused", "deterministic"])
@pytest.mark.parametrize(
    ("target", "backward"),
    [
        *(("sm_80", True), ("sm_90", True), ("gfx942", True), ("sm_100", False)),
        pytest.param("sm_100", True, marks=pytest.mark.long),
    ],
)
def test_every_product_is_matrix_instructions(target, backward, deterministic, record_property):
    """bfloat16, D = 64, causal: no spill, and the matrix instructions account for every product.

    The code holds two loops, over the tiles that need the mask's test and over those that do not. On
    sm_100 the size stands in a descriptor instead of the instruction's name: there they are counted.
    """
    kernels = compiled_kernels(target, backward=backward, deterministic=deterministic)
    check(kernels, target, record_property)
    expected = DETERMINISTIC_PRODUCTS if deterministic else PRODUCTS
    attention = [k for k in kernels if k.name in expected]
    assert [k.name for k in attention] == list(expected)[: None if backward else 1]
    for kernel in attention:
        constants = kernel.constants
        tile = math.prod(constants[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_D"))
        products = 2 * expected[kernel.name]
        if target == "sm_100":
            assert matrix_instructions(kernel) >= products, kernel.name
        else:
            found = multiply_adds(kernel, target)
            assert found >= products * tile, kernel.name
            # The code for AMD holds its loops' first and last rounds besides.
            assert found == products * tile or target == "gfx942", kernel.name
        scalar = sum(
            c for n, c in kernel.instructions.items() if re.match("FFMA|HFMA2|v_(pk_)?fma", n)
        )
        # The softmax and the gradients of the scores have a few; a product has BLOCK_D for each score.
        scores = (
            2 * tile // constants["BLOCK_D"] // (kernel.warps * (64 if target == "gfx942" else 32))
        )
        assert scalar < 8 * scores + 64, f"{kernel.name}: {scalar} scalar multiply-adds"


def test_slots_of_the_backward_pass():
    """The fused kernel takes 0.75 of the issue slots of the pair at most."""
    fused, pair = (
        [k for k in compiled_kernels("sm_90", deterministic=d) if k.name.startswith("_backward")]
        for d in (False, True)
    )
    for loop in range(2):
        slots = [sum(issue_slots(k)[loop] for k in kernels) for kernels in (fused, pair)]
        assert slots[0] <= 0.75 * slots[1], slots


def test_two_forward_programs_share_a_multiprocessor():
    """One computes while the other waits; a multiprocessor has 2**16 registers."""
    kernel = next(k for k in compiled_kernels("sm_90", backward=False) if k.name == "_forward")
    assert 2 * kernel.registers * kernel.warps * 32 <= 2**16


def exponentials(kernel) -> list[int]:
    """Of each inner loop over tiles, how many every thread takes."""
    counts = [
        sum(name.startswith("MUFU.EX2") for name in loop)
        for loop in Code(kernel.listing).inner_loops()
    ]
    return [count for count in counts if count]


@pytest.mark.parametrize("deterministic", [False, True], ids=["fused", "deterministic"])
@pytest.mark.parametrize(
    ("target", "call", "head_dim"),
    [
        ("sm_90", "causal", 64),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ("sm_80", "causal", 64),
                ("sm_80", "dropout", 64),
                ("sm_90", "dropout", 64),
                ("sm_90", "every option", 64),
                ("sm_90", "causal", 128),
                ("sm_90", "dropout", 128),
            )
        ),
    ],
)
def test_no_warp_repeats_the_scores_of_another(target, call, head_dim, deterministic):
    """One exponential for each score and thread's share of a tile, and in the forward one for each row."""
    kernels = compiled_kernels(target, call, head_dim, deterministic=deterministic)
    attention = [k for k in kernels if k.name in DETERMINISTIC_PRODUCTS]
    assert len(attention) >= 2
    for kernel in attention:
        block_m, block_n = kernel.constants["BLOCK_M"], kernel.constants["BLOCK_N"]
        expected = block_m * block_n // (32 * kernel.warps)
        if kernel.name == "_forward":
            expected += max(1, block_m // (8 * kernel.warps))
        found = exponentials(kernel)
        assert found, kernel.name
        assert set(found) == {expected}, f"{kernel.name} {kernel.constants}: {found}"


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(t, marks=pytest.mark.long) for t in ("sm_80", "gfx942"))]
)
def test_products_of_relative_keys_are_matrix_instructions(target, record_property):
    """XLNet's terms: no spill, every product by matrix instructions, one chunk of a band for each tile."""
    kernels = compiled_kernels(target, "relative")
    check(kernels, target, record_property)
    attention = [k for k in kernels if k.name in RELATIVE_PRODUCTS]
    assert [k.name for k in attention] == list(RELATIVE_PRODUCTS)
    for kernel in attention:
        tile = math.prod(kernel.constants[f"BLOCK_{name}"] for name in "MND")
        expected = sum(RELATIVE_PRODUCTS[kernel.name]) * tile
        assert multiply_adds(kernel, target) >= expected, kernel.name


def test_issue_slots_of_relative_calls(record_property):
    """At most 2.5 times those of the plain kernel forward, and 4 times backward."""
    found = {}
    for kernel in compiled_kernels("sm_90", "relative"):
        if kernel.name in MOST_SLOTS:
            slots = issue_slots(kernel)
            if kernel.name == "_query_products":  # the second loop works on BLOCK_R rows of r
                slots[1] *= kernel.constants["BLOCK_N"] / kernel.constants["BLOCK_R"]
                found[kernel.name] = sum(slots)
            else:
                found[kernel.name] = slots[-1]  # of the loop without the mask's test
            record_property(kernel.name, f"{found[kernel.name]:.0f} slots")
    assert found.keys() == MOST_SLOTS.keys()
    for name, slots in found.items():
        assert slots <= MOST_SLOTS[name], f"{name}: {slots}"
    assert found.pop("_forward") <= 2.5 * 292
    assert sum(found.values()) <= 4 * 563


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("kernel", ["forward", "backward_query"])
def test_no_relative_tile_has_warps_that_repeat(kernel, target):
    """A matrix instruction takes 16 rows and 8 columns; with more warps some would compute the same.

    Where there are more rows than 16, warps do not share them.
    """
    for _, tiles in RELATIVE_TABLES[target][kernel]["half"]:
        for tile in tiles:
            columns = tile.n // 8 if tile.m == 16 else 1
            assert tile.warps <= tile.m // 16 * columns, tile


@pytest.mark.parametrize("head_dim", [64, 128])
def test_each_exponential_is_taken_once(head_dim):
    """The same, read from the machine code: the exponentials of a loop are the scores of its tile."""
    for kernel in compiled_kernels("sm_90", "relative", head_dim):
        if kernel.name in ("_forward", "_score_gradients"):
            rows, columns = kernel.constants["BLOCK_M"], kernel.constants["BLOCK_N"]
            each = rows * columns // (32 * kernel.warps)
            for loop in Code(kernel.listing).inner_loops():
                if any("MMA" in name for name in loop):
                    assert each <= loop.count("MUFU.EX2") <= each + 2, kernel.name


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operator returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.untyped_storage().nbytes())
        return result


def test_memory_is_linear_in_the_length(monkeypatch):
    """Twice the length takes tensors of twice the size, forward and backward; L x S would take four times.

    The scores' gradients are in memory piece by piece. A piece has a size of its own, here less than that of
    the other tensors.
    """
    monkeypatch.setattr(triton_relative_launch, "PIECE_BYTES", 1 << 20)
    found = []
    for length in (1024, 2048):
        with Largest() as largest:
            compiled_kernels("sm_90", "relative", length=length)
        found.append(largest.size)
    assert found[0] > 0
    assert found[1] <= 2.1 * found[0], found


def test_a_piece_has_a_bounded_size():
    """Of the length, however large, and of the number of heads."""
    with Largest() as largest:
        compiled_kernels("sm_90", "relative", length=4096)
    assert largest.size <= triton_relative_launch.PIECE_BYTES


def test_a_kernel_is_compiled_once_for_all_pieces(monkeypatch):
    monkeypatch.setattr(triton_relative_launch, "PIECE_BYTES", 1 << 19)
    kernels = compiled_kernels("sm_90", "relative", length=512)
    for name in RELATIVE_PRODUCTS.keys() - {"_forward"}:
        found = [kernel.compiled.hash for kernel in kernels if kernel.name == name]
        assert len(found) > 2, name
        assert len(set(found)) == 1, name


def test_tuning_leaves_out_what_comes_out_empty(monkeypatch):
    monkeypatch.setattr(triton_config, "target_name", lambda: "sm_100")
    broken = [t for t in triton_config.CANDIDATES["forward"] if (t.m, t.n, t.warps) == (128, 64, 8)]
    assert broken
    assert not set(broken) & set(triton_config.candidates("forward", True))
    assert set(broken) <= set(triton_config.candidates("forward", False))


@pytest.mark.long
@pytest.mark.parametrize("call", ["every option", "one tile", "one query", *RELATIVE_CALLS])
def test_no_spill_with_other_options(call, record_property):
    check(compiled_kernels("sm_90", call), "sm_90", record_property)


@pytest.mark.parametrize(
    ("target", "head_dim", "dtype"),
    [
        ("sm_90", 128, torch.bfloat16),
        ("sm_90", 256, torch.bfloat16),
        ("sm_90", 64, torch.float32),
        *(
            pytest.param(target, head_dim, dtype, marks=pytest.mark.long)
            for target in ("sm_80", "sm_100", "gfx942")
            for head_dim, dtype in (
                (128, torch.bfloat16),
                (256, torch.bfloat16),
                (64, torch.float32),
            )
        ),
    ],
)
def test_spills_of_relative_calls_with_other_sizes(target, head_dim, dtype, record_property):
    most = MAX_SPILLED_RELATIVE.get((target, head_dim), 0)
    check(compiled_kernels(target, "relative", head_dim, dtype), target, record_property, most)


@pytest.mark.long
@pytest.mark.parametrize("head_dim", [26, 128])
def test_no_spill_with_other_head_dimensions(head_dim, record_property):
    check(compiled_kernels("sm_90", "plain", head_dim), "sm_90", record_property)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_float32_follows_the_precision_of_matrix_products(precision, record_property):
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        kernels = compiled_kernels("sm_80", "plain", 64, torch.float32)
    finally:
        matmul.fp32_precision = before
    check(kernels, "sm_80", record_property)
    attention = [k for k in kernels if k.name in PRODUCTS]
    assert len(attention) == len(PRODUCTS), [k.name for k in kernels]
    for kernel in attention:
        assert (matrix_instructions(kernel) > 0) == (precision == "tf32"), kernel.name
