"""Tile sizes of the Triton attention kernels: a table by architecture, kernel, head dimension and type.

The defaults were chosen by what the compiler reports for each (`triton_report`): no spill, then no warp that
repeats another's scores (with many options or dimensions some do), then the fewest instructions for a score.
Looked at so far: 16-bit types on sm_90, and on sm_80, sm_100 and gfx942 with D = 64, with relative keys
also with 128 and 256; relative float32 on sm_90. The rest is by analogy. On sm_90 relative calls spill 8
bytes with D = 128 in 16 bits; in float32 192 ("ieee") with 128, and with 256 32 ("tf32") or more than 1,000;
and 80 in the forward of two streams with D = 64. Nothing was measured on a GPU; `triton_tune` measures on
the one at hand.
"""

from __future__ import annotations

from functools import cache

from ptmkernels.ops.triton_runtime import target_name
from ptmkernels.ops.triton_tune import Tile

KERNELS = ("forward", "backward", "backward_query", "backward_key", "bias", "decode")
RELATIVE_KERNELS = ("forward", "backward_query", "relative", "bias", "decode")

# Kernel -> number type -> (largest padded head dimension, tiles), smallest first. The tiles are those of a
# call without extras, with one of them, and with several; the last one serves all that follow. Extras are
# what a score has beside the product and an interval mask, and cost registers: dropout, a bias, a tree, a
# dense mask. Number types: "half" is bfloat16 and float16; "tf32" and "ieee" are float32 by torch's setting.
# "backward" is the fused kernel. Where it would spill, or the pair of "backward_query" and "backward_key" has
# fewer instructions, it has no row, and the pair serves.
Row = tuple[int, tuple[Tile, ...]]
Table = dict[str, dict[str, tuple[Row, ...]]]

HOPPER: Table = {
    "forward": {
        "half": (
            (128, (Tile(128, 64, 8, 3),)),
            (256, (Tile(128, 32, 8, 2),)),
        ),
    },
    "backward": {
        "half": (
            (64, (Tile(64, 128, 8, 2), Tile(32, 128, 8, 2), Tile(16, 128, 8, 2))),
            (128, (Tile(32, 128, 8, 2), Tile(16, 128, 8, 2), Tile(16, 64, 8, 2))),
        ),
    },
    "backward_query": {
        "half": (
            (128, (Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(128, 32, 8, 2))),
            (256, (Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(64, 16, 8, 2))),
        ),
    },
    "backward_key": {
        "half": (
            (64, (Tile(64, 128, 8, 2), Tile(32, 128, 8, 2), Tile(16, 128, 8, 2))),
            (128, (Tile(32, 128, 8, 2), Tile(16, 128, 8, 2), Tile(16, 64, 8, 2))),
            (256, (Tile(16, 64, 8, 2), Tile(16, 32, 4, 1))),
        ),
    },
    "bias": {"half": ((256, (Tile(64, 64, 8, 2),)),)},
    "decode": {
        "half": (
            (128, (Tile(16, 64, 4, 3),)),
            (256, (Tile(16, 64, 4, 2),)),
        ),
    },
}

# Without warpgroup instructions a tile as large as on sm_90 would spill, and with more than 64 dimensions the
# fused kernel has more instructions for a score than the pair.
AMPERE: Table = {
    **HOPPER,
    "backward": {
        "half": ((64, (Tile(32, 64, 4, 2), Tile(32, 64, 4, 1), Tile(16, 64, 4, 1))),),
    },
}

# float32 takes twice the room, and without tensor cores ("ieee") each thread holds whole rows and columns.
SINGLE: Table = {
    "forward": {
        "tf32": ((64, (Tile(64, 32, 4, 2),)), (256, (Tile(32, 32, 4, 2), Tile(32, 16, 4, 2)))),
        "ieee": ((64, (Tile(32, 32, 4, 2),)), (256, (Tile(16, 16, 4, 1),))),
    },
    "backward": {
        "tf32": ((64, (Tile(32, 32, 4, 2),)), (256, (Tile(16, 16, 4, 1),))),
        "ieee": ((64, (Tile(32, 32, 4, 1), Tile(16, 16, 4, 1))), (256, (Tile(16, 16, 4, 1),))),
    },
    "backward_query": {
        "tf32": ((64, (Tile(32, 32, 4, 2),)), (256, (Tile(16, 16, 4, 1),))),
        "ieee": ((64, (Tile(32, 16, 4, 1),)), (256, (Tile(16, 16, 4, 1),))),
    },
    "backward_key": {
        "tf32": ((64, (Tile(32, 32, 4, 2),)), (256, (Tile(16, 16, 4, 1),))),
        "ieee": ((256, (Tile(16, 16, 4, 1),)),),
    },
    "bias": {
        "tf32": ((64, (Tile(32, 32, 4, 1),)), (256, (Tile(16, 16, 4, 1),))),
        "ieee": ((64, (Tile(32, 32, 4, 1),)), (256, (Tile(16, 16, 4, 1),))),
    },
    "decode": {
        "tf32": ((128, (Tile(16, 32, 4, 2),)), (256, (Tile(16, 16, 4, 1),))),
        "ieee": ((128, (Tile(16, 32, 4, 2),)), (256, (Tile(16, 16, 4, 1),))),
    },
}

# For 64 KiB of shared memory (gfx942) and 99 KiB (sm_86, sm_120).
COMPACT: Table = {
    "forward": {
        "half": (
            (64, (Tile(128, 64, 8, 2),)),
            (128, (Tile(64, 32, 4, 2),)),
            (256, (Tile(64, 16, 8, 1),)),
        )
    },
    "backward": {
        "half": (
            (64, (Tile(32, 64, 4, 1),)),
            (128, (Tile(32, 32, 4, 1), Tile(16, 32, 4, 1))),
        )
    },
    "backward_query": {
        "half": (
            (64, (Tile(64, 32, 4, 2),)),
            (128, (Tile(32, 32, 4, 2),)),
            (256, (Tile(16, 16, 4, 1),)),
        )
    },
    "backward_key": {
        "half": (
            (64, (Tile(32, 64, 8, 2),)),
            (128, (Tile(16, 64, 8, 2),)),
            (256, (Tile(16, 32, 8, 1),)),
        )
    },
    "bias": {"half": ((64, (Tile(64, 64, 8, 1),)), (256, (Tile(32, 32, 4, 1),)))},
    "decode": {"half": ((128, (Tile(16, 64, 4, 2),)), (256, (Tile(16, 32, 4, 1),)))},
}


_TINY = {number_type: ((256, (Tile(16, 16, 4, 1),)),) for number_type in ("tf32", "ieee")}
COMPACT_SINGLE: Table = dict.fromkeys({*KERNELS, *RELATIVE_KERNELS}, _TINY)

# Calls with relative keys: a tile has the products of its band and their turning, too. Each warp has 16 rows
# of its own, or several would compute the same; where a tile has 16 rows, each warp has keys of its own.
# "backward_query" is the tile of the scores' gradients, whose queries the products that follow take as well;
# "relative" says how many keys, or rows of r, those own. Nothing is done there but products, whose columns
# the warps share.
HOPPER_RELATIVE: Table = {
    "forward": {
        "half": (
            (32, (Tile(64, 32, 4, 2), Tile(64, 16, 4, 2))),
            (64, (Tile(128, 64, 8, 2), Tile(64, 32, 4, 2), Tile(64, 16, 4, 2))),
            (128, (Tile(64, 16, 4, 1), Tile(16, 64, 8, 1))),
            (256, (Tile(16, 64, 8, 1),)),
        )
    },
    "backward_query": {
        "half": (
            (64, (Tile(64, 32, 4, 2), Tile(64, 16, 4, 2))),
            (128, (Tile(64, 16, 4, 2), Tile(16, 64, 8, 1))),
            (256, (Tile(16, 64, 8, 1),)),
        )
    },
    "bias": {"half": ((256, (Tile(16, 16, 1, 1),)),)},
    "decode": {"half": ((128, (Tile(16, 64, 4, 2),)), (256, (Tile(16, 32, 4, 2),)))},
    "relative": {
        "half": (
            (64, (Tile(64, 64, 4, 2),)),
            (256, (Tile(64, 64, 8, 1),)),
        )
    },
}

AMPERE_RELATIVE: Table = {
    **HOPPER_RELATIVE,
    "forward": {
        "half": (
            (64, (Tile(64, 32, 4, 2), Tile(64, 16, 4, 2))),
            (256, (Tile(16, 64, 8, 1),)),
        )
    },
    "backward_query": {
        "half": (
            (64, (Tile(64, 16, 4, 2),)),
            (256, (Tile(16, 64, 8, 1),)),
        )
    },
    "relative": {
        "half": (
            (64, (Tile(64, 64, 4, 2),)),
            (128, (Tile(64, 64, 8, 1),)),
            (256, (Tile(64, 32, 8, 1),)),
        )
    },
}

BLACKWELL_RELATIVE: Table = {
    **HOPPER_RELATIVE,
    "forward": {
        "half": (
            (64, (Tile(64, 32, 4, 2), Tile(64, 16, 4, 2))),
            (128, (Tile(64, 16, 4, 2), Tile(16, 64, 8, 1))),
            (256, (Tile(16, 64, 8, 1),)),
        )
    },
}

# Without tensor cores ("ieee") a thread holds whole rows of 128 or 256 numbers, and some spill in any tile.
_SCORES_SINGLE = {
    "tf32": ((64, (Tile(16, 16, 4, 1),)), (256, (Tile(16, 32, 8, 1),))),
    "ieee": ((64, (Tile(16, 16, 4, 1),)), (256, (Tile(16, 16, 8, 1),))),
}
_SMALL_SINGLE = {number_type: ((256, (Tile(16, 16, 4, 1),)),) for number_type in ("tf32", "ieee")}
SINGLE_RELATIVE: Table = {
    **dict.fromkeys(RELATIVE_KERNELS, _SMALL_SINGLE),
    "forward": _SCORES_SINGLE,
    "backward_query": _SCORES_SINGLE,
    "decode": SINGLE["decode"],
}

COMPACT_RELATIVE: Table = {
    **{kernel: {"half": ((256, (Tile(16, 16, 4, 1),)),)} for kernel in RELATIVE_KERNELS},
    "forward": {
        "half": ((64, (Tile(64, 32, 4, 1), Tile(16, 16, 4, 1))), (256, (Tile(16, 16, 4, 1),)))
    },
    "backward_query": {
        "half": ((64, (Tile(64, 32, 4, 1), Tile(16, 16, 4, 1))), (256, (Tile(16, 16, 4, 1),)))
    },
    "relative": {"half": ((64, (Tile(64, 64, 4, 1),)), (256, (Tile(64, 32, 4, 1),)))},
}


def _joined(half: Table, single: Table) -> Table:
    return {kernel: {**types, **single[kernel]} for kernel, types in half.items()}


TABLES = {
    "sm_80": _joined(AMPERE, SINGLE),
    "sm_90": _joined(HOPPER, SINGLE),
    "sm_100": _joined(HOPPER, SINGLE),
    "gfx942": _joined(COMPACT, COMPACT_SINGLE),
    "small": _joined(COMPACT, COMPACT_SINGLE),
}
RELATIVE_TABLES = {
    "sm_80": _joined(AMPERE_RELATIVE, SINGLE_RELATIVE),
    "sm_90": _joined(HOPPER_RELATIVE, SINGLE_RELATIVE),
    "sm_100": _joined(BLACKWELL_RELATIVE, SINGLE_RELATIVE),
    "gfx942": _joined(COMPACT_RELATIVE, COMPACT_SINGLE),
    "small": _joined(COMPACT_RELATIVE, COMPACT_SINGLE),
}
# Architectures with some 100 KiB of shared memory for a program instead of 160 or more.
SMALL = ("sm_75", "sm_86", "sm_87", "sm_89", "sm_120", "sm_121")

# Small, so that a few dozen tokens make several tiles and the tests see every border between them.
INTERPRETER = {
    "forward": Tile(32, 16),
    "backward_query": Tile(16, 32),
    "backward_key": Tile(16, 32),
    "backward": Tile(16, 32),
    "bias": Tile(16, 16),
    "decode": Tile(16, 16),
    "relative": Tile(32, 16),
}

# Tiles that serve instead of those of the tables, for measuring others: by kernel, and with relative keys by
# "relative_" and the kernel.
FORCED: dict[str, Tile] = {}

_KEY_CANDIDATES = [
    Tile(m, n, warps, stages)
    for n, several in ((128, (128, 64, 32, 16)), (64, (64, 32, 16)), (32, (32, 16)))
    for m in several
    for warps in (4, 8)
    for stages in (1, 2, 3)
]
# What tuning tries; those that a device cannot run are passed over.
CANDIDATES: dict[str, list[Tile]] = {
    "forward": [
        Tile(m, n, warps, stages)
        for m, n in ((128, 128), (128, 64), (128, 32), (64, 64), (64, 32), (32, 32))
        for warps in (4, 8)
        for stages in (2, 3, 4)
    ],
    "backward_query": [
        Tile(m, n, warps, stages)
        for m, n in ((128, 128), (128, 64), (128, 32), (64, 64), (64, 32), (32, 32))
        for warps in (4, 8)
        for stages in (1, 2, 3)
    ],
    "backward": _KEY_CANDIDATES,
    "backward_key": _KEY_CANDIDATES,
    "bias": [
        Tile(size, size, warps, stages)
        for size in (32, 64, 128)
        for warps in (4, 8)
        for stages in (1, 2)
    ],
    "decode": [
        Tile(16, n, warps, stages)
        for n in (32, 64, 128)
        for warps in (2, 4)
        for stages in (2, 3, 4)
    ],
}


def candidates(kernel: str, relative: bool) -> list[Tile]:
    """What tuning tries on the current device."""
    if relative and kernel == "forward" and target_name() == "sm_100":
        # Of this tile the compiler makes a kernel without any instruction.
        return [t for t in CANDIDATES[kernel] if (t.m, t.n, t.warps) != (128, 64, 8)]
    return CANDIDATES[kernel]


def tile_for(
    kernel: str, block_d: int, number_type: str, extras: int, relative: bool = False
) -> Tile | None:
    """The default tile on the current device; None where the pair of backward kernels is better than one.

    Args:
        kernel: one of ``KERNELS``, or of ``RELATIVE_KERNELS`` where `relative`.
        block_d: padded head dimension, 16 to 256.
        number_type: "half", "tf32" or "ieee".
        extras: how many of dropout, bias, tree, dense mask and relative values the call has.
        relative: whether the call has relative keys.
    """
    if FORCED:
        name = f"relative_{kernel}" if relative and kernel != "relative" else kernel
        if name in FORCED:
            return FORCED[name]
    return _tile_for(target_name(), kernel, block_d, number_type, extras, relative)


@cache
def _tile_for(
    target: str, kernel: str, block_d: int, number_type: str, extras: int, relative: bool
) -> Tile | None:
    if target == "interpreter":
        return INTERPRETER[kernel]
    tables = RELATIVE_TABLES if relative else TABLES
    rows = table_for(target, tables)[kernel].get(number_type, ())
    for largest, tiles in rows:
        if block_d <= largest:
            return tiles[min(extras, len(tiles) - 1)]
    return None


def table_for(target: str, tables: dict[str, Table] = TABLES) -> Table:
    """The table of an architecture, or of its nearest kin that has one."""
    if target in tables:
        return tables[target]
    if target.startswith("gfx"):
        return tables["gfx942"]
    if target in SMALL:
        return tables["small"]
    number = int(target.removeprefix("sm_"))
    known = sorted(int(n.removeprefix("sm_")) for n in tables if n.startswith("sm_"))
    return tables[f"sm_{max((k for k in known if k <= number), default=known[0])}"]
