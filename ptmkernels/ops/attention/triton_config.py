"""Tile sizes of the Triton attention kernels: a table by architecture, kernel, head dimension and type.

The defaults were chosen by what the compiler reports for each (`triton_report`): the largest tile without
a spill, with two programs on a multiprocessor where the registers allow. They were not measured on a GPU;
`triton_tune` measures on the one at hand.
"""

from __future__ import annotations

import torch

from ptmkernels.ops.triton_runtime import target_name
from ptmkernels.ops.triton_tune import Tile

KERNELS = ("forward", "backward_query", "backward_key", "bias", "decode")

# Kernel -> (largest padded head dimension, number type) -> the tile for a call without extras, with one of
# them, and with several; the last one serves all that follow. Extras are what a score needs beside the
# product and an interval mask, and cost registers: dropout, a bias, a tree or dense mask. Number types:
# "half" is bfloat16 and float16; "tf32" and "ieee" are float32 by torch's setting of its products.
Table = dict[str, dict[tuple[int, str], tuple[Tile, ...]]]

_HOPPER: Table = {
    "forward": {
        (128, "half"): (Tile(128, 64, 8, 3),),
        (256, "half"): (Tile(128, 32, 8, 2),),
    },
    "backward_query": {
        (32, "half"): (Tile(128, 64, 8, 3),),
        (128, "half"): (Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(128, 32, 8, 2)),
        (256, "half"): (Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(64, 16, 8, 2)),
    },
    "backward_key": {
        (64, "half"): (Tile(64, 128, 8, 2), Tile(32, 128, 8, 2), Tile(16, 128, 8, 2)),
        (128, "half"): (Tile(32, 128, 8, 2), Tile(16, 128, 8, 2), Tile(16, 64, 8, 2)),
        (256, "half"): (Tile(16, 64, 8, 2), Tile(16, 32, 4, 1)),
    },
    "bias": {(256, "half"): (Tile(64, 64, 8, 2),)},
    "decode": {
        (128, "half"): (Tile(16, 64, 4, 3),),
        (256, "half"): (Tile(16, 64, 4, 2),),
    },
}

# Small, so that a few dozen tokens make several tiles and the tests see every border between them.
_INTERPRETER: Table = {
    "forward": {(256, "half"): (Tile(32, 16),)},
    "backward_query": {(256, "half"): (Tile(16, 32),)},
    "backward_key": {(256, "half"): (Tile(16, 32),)},
    "bias": {(256, "half"): (Tile(16, 16),)},
    "decode": {(256, "half"): (Tile(16, 16),)},
}

TABLES: dict[str, Table] = {"sm_90": _HOPPER, "interpreter": _INTERPRETER}


def tile_for(kernel: str, block_d: int, precision: str, extras: int) -> Tile:
    """The default tile on the current device.

    Args:
        kernel: one of ``KERNELS``.
        block_d: padded head dimension, 16 to 256.
        precision: "half", "tf32" or "ieee".
        extras: how many of dropout, bias, tree or dense mask the call has.
    """
    table = TABLES.get(target_name(), _HOPPER)[kernel]
    tiles = next(t for (d, p), t in table.items() if block_d <= d and precision in (p, "half"))
    return tiles[min(extras, len(tiles) - 1)]
