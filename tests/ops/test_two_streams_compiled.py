"""What the second stream costs in the machine code of the Triton kernels, counted for sm_90."""

import pytest
import torch

from ptmkernels.ops import StreamOrder
from ptmkernels.ops.attention.triton_report import compiled_kernels
from tests.ops.machine_code import issue_slots

# Kernels with a loop over tiles that a mask cuts, which are those of a permutation, and one over whole tiles.
MASKED = ("_forward", "_score_gradients")


def slots(call):
    """Issue slots for 64 x 64 scores under a permutation, of the forward and of the backward kernels."""
    found = {"forward": 0.0, "backward": 0.0}
    for kernel in compiled_kernels("sm_90", call):
        loops = issue_slots(kernel) if "BLOCK_N" in kernel.constants else []
        if loops:
            mode = "forward" if kernel.name == "_forward" else "backward"
            found[mode] += max(loops) if kernel.name in MASKED else sum(loops)
    return found


def test_both_streams_cost_their_share_of_rows():
    """A tile of both streams' rows takes at most a tenth more than one of content rows, both ways together.

    The forward alone has more: where rows stand is not known before the call, so each picks its part of a
    band by its own test. The backward has less.
    """
    content, both = slots("relative"), slots("two streams")
    assert sum(both.values()) <= 1.10 * sum(content.values()), (content, both)
    assert both["forward"] <= 1.30 * content["forward"]
    assert both["backward"] <= 1.00 * content["backward"]


@pytest.mark.parametrize(("length", "predicted"), [(512, 85), (1024, 170), (1536, 256)])
def test_a_block_of_rows_spans_no_more_positions_than_rows(length, predicted):
    generator = torch.Generator().manual_seed(length)
    where = torch.rand(3, length, generator=generator).argsort(1)[:, :predicted]
    sizes = (3, length, predicted)
    position = StreamOrder.of(None, None, where, sizes=sizes, key_len=length).position
    blocks = torch.nn.functional.pad(position, (0, -position.shape[1] % 64), value=length - 1)
    blocks = blocks.view(3, -1, 64)
    assert (blocks.amax(2) - blocks.amin(2)).max() < 64
