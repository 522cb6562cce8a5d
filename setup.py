"""Calls CMake, which holds every source and every flag (see CMakeLists.txt)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from torch_headers import find_torch_headers  # noqa: E402


def fail(what: str, how: str) -> None:
    raise SystemExit(f"\nptmkernels could not be built: {what}\n  How to go on: {how}\n")


class CMakeBuild(build_ext):
    """Builds the whole CMake project into the package folder of the wheel or the source tree."""

    def build_extension(self, ext: Extension) -> None:
        headers = find_torch_headers()
        if headers is None:
            fail("torch 2.10 or later was not found.", "install torch first, then run this again.")
        for tool in ("cmake", "ninja"):
            if shutil.which(tool) is None:
                fail(f"`{tool}` was not found.", f"`pip install {tool}`, then run this again.")
        package = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(os.environ.get("PTMKERNELS_BUILD_DIR", ROOT / "build" / "python")).resolve()
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPTMKERNELS_TORCH_INCLUDE={headers}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DPTMKERNELS_BUILD_PYTHON=ON",
        ]
        self.run_step("configuring", configure)
        self.run_step("compiling", ["cmake", "--build", str(build)])
        self.run_step("installing", ["cmake", "--install", str(build), "--prefix", str(package)])

    def run_step(self, what: str, command: list[str]) -> None:
        if subprocess.run(command, check=False).returncode:
            fail(
                f"{what} failed (`{' '.join(command[:3])} …`); the cause is printed above.",
                "a C++20 compiler is needed (g++ 11 or clang 14, or later). If only the CUDA part "
                "fails, set PTMKERNELS_BUILD_CUDA=0 to build without it.",
            )


setup(ext_modules=[Extension("ptmkernels._corpus", sources=[])], cmdclass={"build_ext": CMakeBuild})
