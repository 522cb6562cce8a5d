"""One sdist and one CPU-only wheel of the tracked files, made once for all build tests.

The build tests belong to one group, so that `pytest -n` runs them in one process (--dist loadgroup).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("build"))


def run(*command, cwd=None, status=0, **environment):
    """Run a command, check its exit status, return what it printed."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (result.returncode == 0) == (status == 0), result.stdout
    return result.stdout


def tracked_files():
    """The files of the project: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout, to tell the project's files from built ones")
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [Path(line) for line in listing.splitlines() if (ROOT / line).is_file()]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="session")
def sdist(folder):
    """An sdist made from a clean copy of the project."""
    copy = folder / "copy"
    for path in tracked_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path)
    script = "import sys; import build_backend; build_backend.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", script, folder, cwd=copy, PYTHONPATH=copy / "tools")
    (archive,) = folder.glob("ptmkernels-*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def source(sdist, folder):
    """The unpacked sdist."""
    shutil.unpack_archive(sdist, folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def build_wheel(source, output, *options, **environment):
    """`pip wheel` without CUDA; returns its path and what was printed."""
    printed = run(
        *(sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", *options),
        *("--wheel-dir", output, source),
        PTMKERNELS_BUILD_CUDA=0,
        PTMKERNELS_BUILD_TYPE="Debug",  # compiles in a third of the time
        PTMKERNELS_BUILD_DIR=source.parent / "cmake",
        **environment,
    )
    (wheel,) = Path(output).glob("ptmkernels-*.whl")
    return wheel, printed


@pytest.fixture(scope="session")
def wheel(source, folder):
    """A wheel built from the unpacked sdist with the packages of this environment."""
    return build_wheel(source, folder / "wheel", "--no-build-isolation")[0]


@pytest.fixture(scope="session")
def site(wheel, folder):
    """The folder into which the wheel is installed."""
    target = folder / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel)
    return target
