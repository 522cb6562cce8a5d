"""Launches whose tile is still open: prepared once, run with the tile of the table or with any other.

A call goes one way: `triton_call.prepare` makes the arguments, a launch of this file takes them, `start`
chooses its tile, and its `run` finds the ranges and the grid of that tile and launches the kernel. The tuner
is given the launch, and runs it with other tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from ptmkernels.ops import triton_tune
from ptmkernels.ops.attention.triton_call import Call
from ptmkernels.ops.attention.triton_config import candidates, tile_for
from ptmkernels.ops.triton_runtime import cdiv, next_power_of_2
from ptmkernels.ops.triton_tune import Tile


class TiledLaunch:
    """What a call does with one kernel that has a tile.

    Attributes:
        call: whose arguments the kernel has.
        name: of the kernel, in the tables of tiles.
    """

    call: Call
    name: str

    def run(self, tile: Tile) -> None:
        """Launch the kernel with this tile; as often as wanted, the results are the same."""
        raise NotImplementedError


@dataclass(slots=True)
class RowTiles(TiledLaunch):
    """A kernel with one program for each tile of queries and head, or of keys and key head.

    Args:
        arguments: those before the ranges, the terms and the sizes, with which all such kernels end.
        of_keys: whether the programs own keys.
    """

    call: Call
    name: str
    kernel: triton.JITFunction
    arguments: tuple
    of_keys: bool = False

    def run(self, tile: Tile) -> None:
        call = self.call
        batch, heads, query_len, key_len = call.sizes
        if self.of_keys:
            programs = cdiv(key_len, tile.n) * (heads // call.group) * batch
            classes = call.tile_classes(query_len, tile.m)
        else:
            programs = cdiv(query_len, tile.m) * heads * batch
            classes = call.tile_classes(key_len, tile.n)
        ranges = call.ranges(tile, self.of_keys)
        arguments = (*self.arguments, *ranges, call.terms, call.sizes)
        call.launch(self.kernel, programs, arguments, tile, **classes)


def start(launch: TiledLaunch) -> None:
    """Run a launch with the tile of the table or, where tuning is on, with the fastest."""
    launch.run(chosen_tile(launch))


def chosen_tile(launch: TiledLaunch) -> Tile:
    call = launch.call
    if call.query.is_cuda and triton_tune.enabled():
        key = tuning_key(call, launch.name)
        return triton_tune.tuner().best(key, candidates(launch.name, call.relative), launch.run)
    return default_tile(call, launch.name)


def default_tile(call: Call, kernel: str) -> Tile | None:
    """That of the table; None where it has none for the kernel."""
    return tile_for(kernel, call.block_d, call.number_type, call.extras, call.relative)


def tuning_key(call: Call, kernel: str) -> str:
    """What the choice of a tile may depend on, lengths rounded up to powers of two."""
    terms, mask = call.terms, call.terms.mask
    parts = {
        "rank": mask.rank,
        "tree": mask.tree,
        "dense": mask.allowed,
        "bias": terms.bias.data,
        "dropout": terms.dropout.seed,
        "relative": terms.relative.key,
        "position": terms.relative.position,
        "value": terms.relative.value,
        "segment": terms.relative.segment_scores,
    }
    options = "+".join(name for name, part in parts.items() if part is not None) or "plain"
    lengths = [next_power_of_2(n) for n in call.sizes[2:]]
    device = torch.cuda.get_device_name(call.query.device)
    return (
        f"{device} {kernel} D{call.block_d} {call.number_type} L{lengths[0]} S{lengths[1]} "
        f"group {call.group} {options}"
    )
