"""sdist and wheel hold what they should, and the installed package works outside of the checkout."""

import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.build.conftest import build_wheel, run, tracked_files

BUILT_FROM = ("csrc", "cmake", "tools", "benchmarks", "ptmkernels")
FILES = ("CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")


def test_sdist_holds_everything_that_the_build_needs(sdist):
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(path) for path in tracked_files() if path.parts[0] in BUILT_FROM} | set(FILES)
    assert wanted - held == set()
    assert not [name for name in held if name.endswith((".so", ".pyc"))]


def test_wheel_holds_libraries_headers_and_every_module(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    modules = {
        str(path).replace("benchmarks/", "ptmkernels/benchmarks/", 1)
        for path in tracked_files()
        if path.parts[0] in ("benchmarks", "ptmkernels") and path.suffix == ".py"
    }
    assert modules - held == set()
    others = {
        "ptmkernels/py.typed",
        "ptmkernels/lib/libptmkernels.so",
        "ptmkernels/lib/build.json",
        "ptmkernels/lib/cmake/ptmkernels/ptmkernelsConfig.cmake",
        "ptmkernels/include/ptmkernels/attention.h",
    }
    assert others - held == set()
    assert any(name.startswith("ptmkernels/_corpus.") for name in held)
    assert not any("libptmkernels_cuda" in name for name in held)


SCRIPT = """
import sys, torch, ptmkernels
from ptmkernels import _corpus, _library
from ptmkernels.benchmarks import OPS, load
assert ptmkernels.__file__.startswith(sys.argv[1]), ptmkernels.__file__
assert _library.cpu_library_error() is None, _library.cpu_library_error()
out = ptmkernels.ops.template_op(torch.ones(5), torch.ones(5), 2.0, backend="cpu")
assert out.tolist() == [3.0] * 5
print([load(op).op for op in OPS])
"""


def test_the_installed_package_works_outside_of_the_checkout(site, folder):
    printed = run(sys.executable, "-c", SCRIPT, site, cwd=folder, PYTHONPATH=site)
    assert "masked_attention" in printed
    listed = run(
        *(sys.executable, "-m", "ptmkernels", "bench", "--list"), cwd=folder, PYTHONPATH=site
    )
    assert "masked_attention" in listed


OWN_TORCH = Path(sysconfig.get_path("purelib"), "torch").is_dir()


@pytest.mark.network
@pytest.mark.skipif(not OWN_TORCH, reason="torch lies outside of this environment's site-packages")
def test_an_isolated_build_borrows_the_headers_of_the_installed_torch(source, wheel, tmp_path):
    """Fetches setuptools, cmake, ninja and pybind11 from the package index, but no torch."""
    built, printed = build_wheel(source, tmp_path)
    assert built.name == wheel.name
    assert "Downloading torch" not in printed
    assert "Installing build dependencies" in printed


def test_a_build_without_torch_says_so(source, tmp_path):
    """In an environment that has setuptools and nothing else."""
    import setuptools

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (tmp_path / "site").mkdir()
    installed = Path(setuptools.__path__[0])
    for package in (installed, installed.parent / "_distutils_hack"):  # its own helper, beside it
        (tmp_path / "site" / package.name).symlink_to(package)
    printed = run(
        *(tmp_path / "venv" / "bin" / "python", "setup.py", "build_ext"),
        cwd=source,
        status=1,
        PYTHONPATH=tmp_path / "site",
    )
    assert "torch 2.10 or later was not found" in printed
    assert "How to go on: install torch first" in printed
