"""The reader of machine code and its counts, on small listings and on compiled kernels."""

from types import SimpleNamespace

import pytest

from ptmkernels.ops.attention.triton_report import compiled_kernels
from tests.ops.machine_code import Code, Work, issue_slots

# A loop with a product in a loop of its own, a copy that may be skipped, and a long way that does the same.
LISTING = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA 0x0040 ;
        /*0020*/                   I2F.RP R0, R7 ;
        /*0030*/                   LDGSTS.E.BYPASS.128 [R63], desc[UR8][R60.64], P0 ;
        /*0040*/                   HMMA.16816.F32.BF16 R160, R28, R72, RZ ;
        /*0050*/               @P1 BRA 0x0040 ;
        /*0060*/               @P2 BRA 0x0080 ;
        /*0070*/                   FADD R6, R6, R5 ;
        /*0080*/              @!P3 BRA 0x0010 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   BRA 0xa0;
"""


def test_loops_and_the_cheapest_turn():
    code = Code(LISTING)
    addresses = {code.instructions[head].address for head in code.loops}
    assert addresses == {0x10, 0x40}
    assert code.instructions[code.main_loop].address == 0x10
    assert code.instructions[code.inner_main_loop].address == 0x40
    assert "I2F.RP" in code.names(code.loops[code.main_loop])
    # The branches at 0x10, 0x60 and 0x80, and two instructions for each product; two more to copy.
    assert code.cheapest_turn(code.main_loop, Work(1, 0)) == 5
    assert code.cheapest_turn(code.main_loop, Work(3, 0)) == 9
    assert code.cheapest_turn(code.main_loop, Work(3, 1)) == 11
    assert code.cheapest_turn(code.main_loop, Work(0, 0)) is None
    assert code.cheapest_turn(code.main_loop, Work(1, 2)) is None


# With labels, as nvdisasm prints it. A loop over loops: the outer one from .L_x_0, in it one that multiplies
# (two ways back) and one that does not; a way forward is no loop, and behind its end, where nothing comes, a
# kernel branches to itself.
LABELLED = """
.text._kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_3) ;
.L_x_0:
        /*0020*/                   IADD3 R2, R2, 0x1, RZ ;
.L_x_1:
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
        /*0050*/                   MUFU.EX2 R5, R5 ;
        /*0060*/             @!UP2 BRA `(.L_x_1) ;
.L_x_2:
        /*0070*/                   FADD R6, R6, R5 ;
        /*0080*/               @P3 BRA `(.L_x_2) ;
        /*0090*/               @P0 BRA `(.L_x_0) ;
.L_x_3:
        /*00a0*/                   EXIT ;
.L_x_4:
        /*00b0*/                   BRA `(.L_x_4);
"""


def test_inner_loops():
    assert Code(LABELLED).inner_loops() == [
        ["HGMMA.64x64x16.F32.BF16", "BRA", "MUFU.EX2", "BRA"],
        ["FADD", "BRA"],
    ]
    assert Code(LISTING).inner_loops() == [["HMMA.16816.F32.BF16", "BRA"]]


@pytest.mark.parametrize(
    ("warps", "block_m", "block_n", "expected"),
    [(4, 64, 64, 4.0), (8, 64, 64, 8.0), (8, 128, 64, 4.0), (4, 64, 32, 8.0)],
)
def test_slots_count_the_warps_of_a_sub_partition_and_the_size_of_the_tile(
    warps, block_m, block_n, expected
):
    kernel = SimpleNamespace(
        listing=LABELLED, warps=warps, constants={"BLOCK_M": block_m, "BLOCK_N": block_n}
    )
    assert issue_slots(kernel) == [expected]


def test_a_tile_that_needs_a_mask_takes_more_slots():
    forward = next(k for k in compiled_kernels("sm_90", backward=False) if k.name == "_forward")
    masked, full = issue_slots(forward)
    assert 200 < full < masked < 1000
