"""The loops of a kernel's machine code (NVIDIA), and what a turn of them issues.

Of a loop that holds no other, every instruction counts (`inner_loops`, `issue_slots`). A CUDA kernel's loop
over the tiles holds branches and loops: masks, biases, dropout, rows that are not aligned. So its length says
little. What a turn without any of them issues is the cheapest way round the loop that does all of the tile's
work (`cheapest_turn`): so many matrix products, so many copies of 16 bytes to shared memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ptmkernels.ops.triton_runtime import CompiledKernel

SUB_PARTITIONS = 4  # of a multiprocessor
TILE = 64 * 64  # scores to which the slots of kernels with other tiles are scaled

# cuobjdump names the target of a branch by its address, nvdisasm by a label that stands before it.
_LINE = re.compile(
    r"(?P<label>\.L_x_\d+):"
    r"|/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@(?P<guard>!?U?P\w+)\s+)?(?P<name>[A-Z][\w.]*)(?P<operands>[^;]*);"
)
_TARGET = re.compile(r"(?:0x([0-9a-f]+)|`\((\.L_x_\d+)\))\s*$")
_MATRIX = re.compile(r"HMMA|HGMMA|UTC\w*MMA")


class Instruction(NamedTuple):
    address: int
    guard: str | None
    name: str
    operands: str


class Work(NamedTuple):
    """What a stretch of code does for a tile."""

    products: int  # matrix instructions of a warp
    copies: int  # of 16 bytes, of a thread

    def plus(self, other: Work) -> Work:
        return Work(self.products + other.products, self.copies + other.copies)

    def times(self, count: int) -> Work:
        return Work(self.products * count, self.copies * count)

    def within(self, other: Work) -> bool:
        return self.products <= other.products and self.copies <= other.copies


NOTHING = Work(0, 0)


class Code:
    """The blocks of a kernel, each named by the place of its first instruction, and its loops."""

    def __init__(self, listing: str):
        """Args: listing: of one kernel, as `cuobjdump -sass` or `nvdisasm -c` prints it."""
        self.instructions: list[Instruction] = []
        place: dict[int | str, int] = {}  # of an address or a label
        for line in _LINE.finditer(listing):
            if line["label"]:
                place[line["label"]] = len(self.instructions)
                continue
            address = int(line["address"], 16)
            place[address] = len(self.instructions)
            self.instructions.append(
                Instruction(address, line["guard"], line["name"], line["operands"])
            )
        # Where a jump goes, and whether it always does.
        self._jumps: dict[int, tuple[int | None, bool]] = {}
        starts = {0}
        for i, instruction in enumerate(self.instructions):
            kind = instruction.name.split(".")[0]
            if kind not in ("BRA", "EXIT", "RET"):
                continue
            found = _TARGET.search(instruction.operands) if kind == "BRA" else None
            target = place[found[2] or int(found[1], 16)] if found else None
            alone = kind != "BRA" or bool(_TARGET.match(instruction.operands.strip()))
            self._jumps[i] = (target, instruction.guard is None and alone)
            starts |= {i + 1} if target is None else {i + 1, target}
        self.blocks = dict(pairwise(sorted(starts | {len(self.instructions)})))

    def next(self, block: int) -> Iterator[int]:
        """The blocks that may follow."""
        end = self.blocks[block]
        target, always = self._jumps.get(end - 1, (None, False))
        if target is not None:
            yield target
        if not always and end in self.blocks:
            yield end

    def names(self, blocks: set[int]) -> list[str]:
        return [i.name for b in sorted(blocks) for i in self.instructions[b : self.blocks[b]]]

    def work(self, block: int) -> Work:
        names = self.names({block})
        copies = sum(n.startswith("LDGSTS") and n.endswith(".128") for n in names)
        return Work(sum(bool(_MATRIX.match(n)) for n in names), copies)

    @cached_property
    def _order(self) -> list[int]:
        """The blocks that can be reached, each before those behind it but for the ways back."""
        order, seen, stack = [], {0}, [(0, self.next(0))]
        while stack:
            rest = stack[-1][1]
            for following in rest:
                if following not in seen:
                    seen.add(following)
                    stack.append((following, self.next(following)))
                    break
            else:
                order.append(stack.pop()[0])
        return order[::-1]

    @cached_property
    def _before(self) -> dict[int, list[int]]:
        before: dict[int, list[int]] = {block: [] for block in self._order}
        for block in self._order:
            for following in self.next(block):
                before[following].append(block)
        return before

    @cached_property
    def _dominator(self) -> dict[int, int]:
        """The last block that every way to a block passes before it."""
        rank = {block: i for i, block in enumerate(self._order)}
        found, changed = {0: 0}, True
        while changed:
            changed = False
            for block in self._order[1:]:
                common = None
                for other in (b for b in self._before[block] if b in found):
                    while common is not None and common != other:
                        later = max(common, other, key=rank.__getitem__)
                        common, other = found[later], min(common, other, key=rank.__getitem__)
                    common = other
                changed |= found.get(block) != common
                found[block] = common
        return found

    def _dominates(self, block: int, other: int) -> bool:
        while other not in (block, 0):
            other = self._dominator[other]
        return other == block

    @cached_property
    def loops(self) -> dict[int, set[int]]:
        """The blocks of each loop, by the block where it begins."""
        loops: dict[int, set[int]] = {}
        for block in self._order:
            for head in self.next(block):
                if not self._dominates(head, block):
                    continue
                body = loops.setdefault(head, {head})
                stack = [block]
                while stack:
                    found = stack.pop()
                    if found not in body:
                        body.add(found)
                        stack += self._before[found]
        return loops

    def inner_loops(self) -> list[list[str]]:
        """The instructions' names in each loop that holds no other loop, in the order of the code."""
        return [
            self.names(body)
            for head, body in sorted(self.loops.items())
            if not any(h in body for h in self.loops if h != head)
        ]

    @cached_property
    def main_loop(self) -> int:
        """The largest loop with matrix instructions."""
        busy = [head for head in self.loops if self._products(head)]
        return max(busy, key=lambda head: len(self.loops[head]))

    @cached_property
    def inner_main_loop(self) -> int:
        """The largest loop with matrix instructions inside of the main loop."""
        inside = self.loops[self.main_loop] - {self.main_loop}
        busy = [h for h in self.loops if h in inside and self._products(h)]
        return max(busy, key=lambda head: len(self.loops[head]))

    def _products(self, head: int) -> int:
        return sum(self.work(block).products for block in self.loops[head])

    def cheapest_turn(self, head: int, work: Work) -> int | None:
        """The fewest instructions of a turn of the loop that does exactly this work; None if none does."""
        return self._turns(head, work).get(work)

    def _turns(self, head: int, limit: Work) -> dict[Work, int]:
        """The fewest instructions of a turn of a loop for each amount of work within the limit."""
        body = self.loops[head]
        inner = {h: b for h, b in self.loops.items() if h != head and h in body}
        outermost = {
            h: b for h, b in inner.items() if not any(h in c for i, c in inner.items() if i != h)
        }
        node = {block: block for block in body} | {
            b: h for h, blocks in outermost.items() for b in blocks
        }
        costs: dict[int, dict[Work, int]] = {head: {NOTHING: 0}}
        result: dict[Work, int] = {}
        for block in (b for b in self._order if b in body and node[b] == b):
            if block not in costs:
                continue
            if block in outermost:
                here = self._repeated(self._turns(block, limit), limit)
                leaving = {t for b in outermost[block] for t in self.next(b)} - outermost[block]
            else:
                here = {self.work(block): self.blocks[block] - block}
                leaving = set(self.next(block))
            after: dict[Work, int] = {}
            for (done, cost), (more, price) in (
                (x, y) for x in costs[block].items() for y in here.items()
            ):
                total = done.plus(more)
                if total.within(limit):
                    after[total] = min(cost + price, after.get(total, cost + price))
            for following in leaving:
                target = result if following == head else costs.setdefault(following, {})
                if following not in body:
                    continue
                for total, cost in after.items():
                    target[total] = min(cost, target.get(total, cost))
        return result

    @staticmethod
    def _repeated(turns: dict[Work, int], limit: Work) -> dict[Work, int]:
        """A loop inside, with as many equal turns as the limit allows; one where it does no work."""
        repeated: dict[Work, int] = {}
        for work, cost in turns.items():
            count = 1
            while work.times(count).within(limit) and (count == 1 or work != NOTHING):
                total = work.times(count)
                repeated[total] = min(cost * count, repeated.get(total, cost * count))
                count += 1
        return repeated


def issue_slots(kernel: CompiledKernel) -> list[float]:
    """Slots for 64 x 64 scores in one sub-partition, for each inner loop that multiplies matrices.

    A multiprocessor has four sub-partitions, and each issues one instruction of one warp at a time. So a loop
    takes at least as many issue slots as it has instructions, times the warps that share a sub-partition.
    Slots are a floor of the time, not the time: warps also wait for memory, matrix units and each other.

    Args:
        kernel: of Triton, with the constants BLOCK_M and BLOCK_N, each loop working on one tile of that size.
    """
    warps = kernel.warps / SUB_PARTITIONS
    tiles = kernel.constants["BLOCK_M"] * kernel.constants["BLOCK_N"] / TILE
    return [
        len(loop) * warps / tiles
        for loop in Code(kernel.listing).inner_loops()
        if any(_MATRIX.match(name) for name in loop)
    ]
