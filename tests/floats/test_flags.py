"""No CPU kernel computes on memory that nothing wrote: denormal numbers there are slow."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends import KERNELS
from tests.ops.test_attention_cpu import ARCHS, ENVIRONMENT

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif("cpu" not in KERNELS, reason="the CPU kernels are not built"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags of x86"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]
OPS = {
    "attention_forward", "attention_backward", "word_vectors_step_", "word2vec_exact_step_", "glove_step_",
    "negative_sampling_forward", "negative_sampling_backward", "hierarchical_softmax_forward",
    "hierarchical_softmax_backward", "hierarchical_softmax_log_prob_forward",
    "hierarchical_softmax_log_prob_backward",
}  # fmt: skip


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    library = tmp_path_factory.mktemp("floats") / "memory.so"
    command = [COMPILER, "-O1", "-std=c++17", "-shared", "-fPIC", "-o", library]
    subprocess.run([*command, HERE / "memory.cpp", "-ldl"], check=True)
    return library


def watched(memory, *arguments, arch="generic"):
    environment = {ENVIRONMENT: arch, "LD_PRELOAD": str(memory), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tests.floats.flags", *arguments],
        env=os.environ | environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_no_kernel_computes_on_what_nobody_wrote(arch, memory):
    done = watched(memory, arch=arch)
    if "cannot run" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    *found, last = done.stdout.splitlines()
    assert not found, "\n".join(found[:20])
    assert {name.removeprefix("ptmkernels::") for name in last.split()[1:]} == OPS


def test_the_watch_sees_what_is_raised(memory):
    """A sum over memory as it is given, which stands for a kernel that forgets to write."""
    done = watched(memory, "unwritten")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [
        "denormal: denormal operand",
        "signalling float32, bfloat16: invalid",
    ]
