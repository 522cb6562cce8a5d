"""The counter of a loop's instructions, on a small listing."""

from tests.ops.machine_code import Code, Work

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
