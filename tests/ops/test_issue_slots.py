"""The counter of issue slots, on a small listing and on compiled kernels."""

from types import SimpleNamespace

import pytest

from ptmkernels.ops.attention.triton_report import compiled_kernels
from ptmkernels.ops.issue_slots import inner_loops, issue_slots

# A loop over loops: the outer one from .L_x_0, in it one that multiplies (two ways back) and one that does
# not; a way forward is no loop, and the end of a kernel branches to itself.
LISTING = """
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
    assert inner_loops(LISTING) == [
        ["HGMMA.64x64x16.F32.BF16", "BRA", "MUFU.EX2", "BRA"],
        ["FADD", "BRA"],
        ["BRA"],
    ]


@pytest.mark.parametrize(
    ("warps", "block_m", "block_n", "expected"),
    [(4, 64, 64, 4.0), (8, 64, 64, 8.0), (8, 128, 64, 4.0), (4, 64, 32, 8.0)],
)
def test_slots_count_the_warps_of_a_sub_partition_and_the_size_of_the_tile(
    warps, block_m, block_n, expected
):
    kernel = SimpleNamespace(
        listing=LISTING, warps=warps, constants={"BLOCK_M": block_m, "BLOCK_N": block_n}
    )
    assert issue_slots(kernel) == [expected]


def test_a_tile_that_needs_a_mask_takes_more_slots():
    forward = next(k for k in compiled_kernels("sm_90", backward=False) if k.name == "_forward")
    masked, full = issue_slots(forward)
    assert 200 < full < masked < 1000
