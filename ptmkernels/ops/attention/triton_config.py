from __future__ import annotations
from dataclasses import dataclass
import os, json
from ptmkernels.ops.triton_runtime import target_name

@dataclass(frozen=True)
class Tile:
    m: int
    n: int
    warps: int = 4
    stages: int = 2

OVERRIDE = {}
def tile_for(kernel, block_d, dtype, precision):
    if kernel in OVERRIDE: return OVERRIDE[kernel]
    if target_name() == "interpreter":
        return {"forward": Tile(32, 16), "decode": Tile(16, 16), "backward_query": Tile(16, 32), "backward_key": Tile(16, 32), "bias": Tile(16, 16)}[kernel]
    return {"forward": Tile(128, 64,4,3), "decode": Tile(16, 64), "backward_query": Tile(64, 64), "backward_key": Tile(64, 64), "bias": Tile(64, 64)}[kernel]
