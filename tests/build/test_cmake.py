"""The options of the CMake build, by configuring only."""

import json
import shutil
import sys

import pytest

from ptmkernels.cli.info import _package_folder
from tests.build.conftest import ROOT, run

sys.path.insert(0, str(ROOT / "tools"))
from torch_headers import find_torch_headers

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
NO_NVCC = "-DCMAKE_IGNORE_PATH=/usr/local/bin;/usr/local/cuda/bin;/usr/bin;/opt/cuda/bin"


def configure(folder, *options, status=0, **environment):
    return run(
        *("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja"),
        f"-DPTMKERNELS_TORCH_INCLUDE={find_torch_headers()}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
        *options,
        status=status,
        **environment,
    )


@pytest.mark.skipif(NVCC is None, reason="nvcc is not on this machine")
@pytest.mark.parametrize("choice, state", [("auto", "ON"), ("1", "ON"), ("0", "OFF")])
def test_cuda_is_built_where_nvcc_is_unless_refused(tmp_path, choice, state):
    printed = configure(tmp_path, PTMKERNELS_BUILD_CUDA=choice)
    assert f"ptmkernels: CUDA library {state}" in printed
    files = {c["file"] for c in commands(tmp_path)}
    assert any(name.endswith(".cu") for name in files) == (state == "ON")


def test_without_nvcc_auto_builds_the_rest(tmp_path):
    printed = configure(tmp_path, NO_NVCC, PTMKERNELS_BUILD_CUDA="auto", CUDA_HOME="")
    assert "ptmkernels: CUDA library OFF" in printed


def test_cuda_that_is_asked_for_without_nvcc_says_what_is_missing(tmp_path):
    printed = configure(tmp_path, NO_NVCC, status=1, PTMKERNELS_BUILD_CUDA="1", CUDA_HOME="")
    assert "nvcc was not found" in printed
    assert "install the CUDA toolkit" in printed


def test_architectures_can_be_chosen(tmp_path):
    if NVCC is None:
        pytest.skip("nvcc is not on this machine")
    configure(tmp_path, PTMKERNELS_CUDA_ARCHS="89-real")
    (command, *_) = [c["command"] for c in commands(tmp_path) if c["file"].endswith(".cu")]
    assert "sm_89" in command
    assert "sm_90" not in command


@pytest.mark.parametrize("sanitizers", ["address;undefined", "thread"])
def test_sanitizers_reach_every_source(tmp_path, sanitizers):
    configure(tmp_path, PTMKERNELS_SANITIZE=sanitizers, PTMKERNELS_BUILD_CUDA="0")
    flag = "-fsanitize=" + sanitizers.replace(";", ",")
    assert commands(tmp_path)
    assert all(flag in c["command"] for c in commands(tmp_path))


def test_torch_that_is_not_there_is_named(tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    printed = run(
        *("cmake", "-S", ROOT, "-B", tmp_path / "cmake", "-G", "Ninja"),
        f"-DPython_EXECUTABLE={tmp_path / 'venv' / 'bin' / 'python'}",
        status=1,
        PTMKERNELS_BUILD_CUDA="0",
    )
    assert "torch 2.10 or later was not found" in " ".join(printed.split())
    assert "PTMKERNELS_TORCH_INCLUDE" in printed


def commands(folder):
    """The compile commands of a configured build, which IDEs read too."""
    return json.loads((folder / "compile_commands.json").read_text())


def test_this_build_records_what_it_was_built_with():
    built = json.loads((_package_folder() / "lib" / "build.json").read_text())
    assert built["compiler"].split()[0] in ("GNU", "Clang", "AppleClang")
    assert tuple(map(int, built["torch_headers"].split(".")[:2])) >= (2, 10)
