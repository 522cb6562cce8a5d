"""examples/cpp is built against the installed package by find_package, and computes what Python computes."""

import math
import shutil

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import masked_attention
from tests.build.conftest import ROOT, run
from tests.build.test_cmake import find_torch_headers

HEADS, LENGTH, DIM = 2, 6, 8


@pytest.fixture(scope="module")
def example(site, tmp_path_factory):
    """The program of the example, built."""
    build = tmp_path_factory.mktemp("example")
    run(
        *("cmake", "-S", ROOT / "examples" / "cpp", "-B", build, "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
        f"-DCMAKE_PREFIX_PATH={site / 'ptmkernels'}",
        f"-DPTMKERNELS_TORCH_INCLUDE={find_torch_headers()}",
    )
    run("cmake", "--build", build)
    return build / "attention"


def wave(seed):
    index = torch.arange(HEADS * LENGTH * DIM, dtype=torch.float64)
    return torch.sin(seed + index).view(1, HEADS, LENGTH, DIM)


def test_example_prints_what_python_computes(example):
    lines = run(example).splitlines()
    printed = [[float(word) for word in line.partition(":")[2].split()] for line in lines]
    output, lse = masked_attention(
        *(wave(seed) for seed in range(3)),
        AttentionMask.causal(LENGTH),
        backend="reference",
        return_lse=True,
        scale=1 / math.sqrt(DIM),
    )
    assert printed[0] == pytest.approx(lse[0, 0].tolist(), abs=2e-6)
    assert printed[1] == pytest.approx(output[0, 0, -1].tolist(), abs=2e-6)


def test_without_torch_the_package_says_what_to_name(site, tmp_path):
    prefix = tmp_path / "elsewhere"
    shutil.copytree(site / "ptmkernels" / "lib", prefix / "lib")
    config = prefix / "lib" / "cmake" / "ptmkernels" / "ptmkernelsConfig.cmake"
    built_with = str(find_torch_headers())
    config.write_text(config.read_text().replace(built_with, "/nowhere"))
    printed = run(
        *("cmake", "-S", ROOT / "examples" / "cpp", "-B", tmp_path / "build", "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
        f"-DCMAKE_PREFIX_PATH={prefix}",
        status=1,
    )
    assert "-DPTMKERNELS_TORCH_INCLUDE=<torch>/include" in printed
