"""What every command does alike: its version, and terminals that are not UTF-8."""

import os
import subprocess
import sys

import pytest

import ptmkernels as ptm


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ptmkernels", *arguments],
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )


def test_the_version():
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.decode().strip() == f"ptmkernels {ptm.__version__}"


@pytest.mark.parametrize("command", [["--help"], ["info"], ["zoo"], ["pretrain", "--help"]])
def test_terminals_that_are_not_utf8(command):
    done = run(*command, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode("ascii")
