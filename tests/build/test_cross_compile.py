"""The C++ sources compile for aarch64, where there is a cross compiler (Debian: g++-aarch64-linux-gnu)."""

import shutil

import pytest

from tests.build.conftest import ROOT, run
from tests.build.test_cmake import find_torch_headers

COMPILER = shutil.which("aarch64-linux-gnu-g++")
NEEDS_PYTHON = {"module.cpp"}
SOURCES = sorted(p for p in (ROOT / "csrc").rglob("*.cpp") if p.name not in NEEDS_PYTHON)


@pytest.mark.skipif(COMPILER is None, reason="aarch64-linux-gnu-g++ is not on this machine")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "csrc")))
def test_compiles_for_aarch64(path):
    run(
        *(COMPILER, "-std=c++20", "-O1", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"),
        "-fvisibility=hidden",  # as CMakeLists.txt compiles them
        *("-Wno-unused-parameter", "-Wno-psabi", "-I", ROOT / "csrc"),
        *("-isystem", find_torch_headers(), "-DTORCH_TARGET_VERSION=0x020a000000000000", path),
    )
