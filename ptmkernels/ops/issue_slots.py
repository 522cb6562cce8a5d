"""Issue slots of a kernel's inner loops, counted from NVIDIA machine code.

A multiprocessor has four sub-partitions, and each issues one instruction of one warp at a time. So a loop
takes at least as many issue slots as it has instructions, times the warps that share a sub-partition. Slots
are a floor of the time, not the time: warps also wait for memory, matrix units and each other.
"""

from __future__ import annotations

import re

from ptmkernels.ops.triton_runtime import CompiledKernel

SUB_PARTITIONS = 4  # of a multiprocessor
TILE = 64 * 64  # scores to which the slots of kernels with other tiles are scaled

_LABEL = re.compile(r"(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)(.*)")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
_MATRIX = re.compile(r"HMMA|HGMMA|UTC\w*MMA")


def inner_loops(listing: str) -> list[list[str]]:
    """The instructions' names in each loop that holds no other loop, in the order of the code.

    Args:
        listing: what `nvdisasm -c` prints.

    A loop is the code from a label to the last branch back to it.
    """
    names, labels, branches = [], {}, []
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(names)
        elif instruction := _INSTRUCTION.match(line):
            target = _TARGET.search(instruction[2])
            if target and instruction[1].startswith("BRA"):
                branches.append((len(names), target[1]))
            names.append(instruction[1])
    ends = {}
    for place, label in branches:
        begin = labels.get(label, place + 1)
        if begin <= place:
            ends[begin] = place + 1
    loops = sorted(ends.items())
    return [
        names[begin:end]
        for begin, end in loops
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in loops)
    ]


def issue_slots(kernel: CompiledKernel) -> list[float]:
    """Slots for 64 x 64 scores in one sub-partition, for each inner loop that multiplies matrices.

    Args:
        kernel: with the constants BLOCK_M and BLOCK_N, each loop working on one tile of that size.
    """
    warps = kernel.warps / SUB_PARTITIONS
    tiles = kernel.constants["BLOCK_M"] * kernel.constants["BLOCK_N"] / TILE
    return [
        len(loop) * warps / tiles
        for loop in inner_loops(kernel.listing)
        if any(_MATRIX.match(name) for name in loop)
    ]
