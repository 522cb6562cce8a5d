"""Calls CMake, which holds every source and every flag (see CMakeLists.txt)."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from torch_headers import find_torch_headers  # noqa: E402


def fail(what: str, how: str) -> None:
    raise SystemExit(f"\nptmkernels could not be built: {what}\n  How to go on: {how}\n")


def find_tool(name: str) -> str:
    """The path of cmake or ninja: of this Python environment, also when it is not on PATH."""
    folders = (sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath))
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        fail(f"`{name}` was not found.", f"`pip install {name}`, then run this again.")
    return path


class CMakeBuild(build_ext):
    """Builds the whole CMake project into the package folder of the wheel or the source tree."""

    build_dir = Path(os.environ.get("PTMKERNELS_BUILD_DIR", ROOT / "build" / "python")).resolve()

    def build_extension(self, ext: Extension) -> None:
        headers = find_torch_headers()
        if headers is None:
            fail("torch 2.10 or later was not found.", "install torch first, then run this again.")
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(self.build_dir), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('PTMKERNELS_BUILD_TYPE', 'Release')}",
            f"-DPTMKERNELS_TORCH_INCLUDE={headers}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DPTMKERNELS_BUILD_PYTHON=ON",
        ]
        self.forget_configuration()
        self.run_step("configuring", configure)
        self.run_step("compiling", [cmake, "--build", str(self.build_dir)])
        self.install(Path(self.get_ext_fullpath(ext.name)).resolve().parent)

    def forget_configuration(self) -> None:
        """The environment of now decides, as with `cmake --fresh`, which would throw away the objects."""
        (self.build_dir / "CMakeCache.txt").unlink(missing_ok=True)
        for compilers in self.build_dir.glob("CMakeFiles/[0-9]*"):
            shutil.rmtree(compilers)

    def copy_extensions_to_source(self) -> None:
        """An editable install: the libraries lie in the source tree, beside the Python files."""
        self.install(ROOT / "ptmkernels")

    def install(self, package: Path) -> None:
        """Lays the libraries, headers and CMake files into the package folder."""
        for old in ("lib", "include"):  # a CUDA library of an earlier build may not stay
            shutil.rmtree(package / old, ignore_errors=True)
        command = [find_tool("cmake"), "--install", str(self.build_dir), "--prefix", str(package)]
        self.run_step("installing", command)

    def run_step(self, what: str, command: list[str]) -> None:
        if subprocess.run(command, check=False).returncode:
            fail(
                f"{what} failed (`{' '.join(command[:3])} …`); the cause is printed above.",
                "a C++20 compiler is needed (g++ 11 or clang 14, or later). If only the CUDA part "
                "fails, set PTMKERNELS_BUILD_CUDA=0 to build without it.",
            )


setup(
    packages=[*find_packages(include=["ptmkernels", "ptmkernels.*"]), "ptmkernels.benchmarks"],
    ext_modules=[Extension("ptmkernels._corpus", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
