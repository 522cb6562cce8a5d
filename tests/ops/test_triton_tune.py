"""The choice of a tile: by the tables, or by time and then remembered."""

import itertools

import pytest

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from ptmkernels.ops.attention import triton_config
from ptmkernels.ops.triton_tune import Tile, Tuner

TILES = [Tile(64, 64, 4, 2), Tile(32, 64, 4, 2), Tile(32, 32, 4, 1)]


def clock(function) -> float:
    """What `run` of a test says that it took."""
    return function()


def test_the_fastest_tile_is_remembered_in_the_file(tmp_path):
    path, ran = tmp_path / "tiles.json", []

    def run(tile: Tile) -> float:
        ran.append(tile)
        return abs(tile.m - 32) + tile.n

    assert Tuner(path, clock).best("a kernel", TILES, run) == TILES[2]
    assert ran == TILES
    assert Tuner(path, clock).best("a kernel", TILES, run) == TILES[2]
    assert ran == TILES
    Tuner(path, clock).best("another kernel", TILES, run)
    assert len(ran) == 2 * len(TILES)


def test_tiles_that_the_device_cannot_run_are_passed_over(tmp_path):
    def run(tile: Tile) -> float:
        if tile.n == 32:
            raise OutOfResources(2, 1, "shared memory")
        return tile.m

    tuner = Tuner(tmp_path / "tiles.json", clock)
    assert tuner.best("a kernel", TILES, run) == TILES[1]
    with pytest.raises(RuntimeError, match="none of 1 tiles runs"):
        tuner.best("another kernel", TILES[2:], run)


@pytest.mark.parametrize("number_type", ["half", "tf32", "ieee"])
@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "gfx942"])
def test_every_call_has_tiles(target, number_type):
    """Only the fused backward kernel may have none, which the pair stands in for."""
    for block_d, extras in itertools.product((16, 64, 128, 256), range(5)):
        for kernel in triton_config.KERNELS:
            tile = triton_config._tile_for(target, kernel, block_d, number_type, extras, False)
            assert isinstance(tile, Tile) or kernel == "backward", (kernel, block_d, extras)
        for kernel in triton_config.RELATIVE_KERNELS:
            tile = triton_config._tile_for(target, kernel, block_d, number_type, extras, True)
            assert isinstance(tile, Tile), (kernel, block_d, extras)
    assert triton_config._tile_for(target, "backward", 64, number_type, 0, False) is not None
