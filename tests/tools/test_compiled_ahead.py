"""A launch on a GPU finds on the disk what `compile_for` has put there: the driver alone is a stand-in."""

import subprocess
import sys

from tests.tools.conftest import ROOT

LAUNCH = """
import sys
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from ptmkernels import AttentionMask
from ptmkernels.ops import triton_runtime
from ptmkernels.ops.attention import triton_launch
from ptmkernels.ops.attention.options import AttentionOptions

found = []
knobs.compilation.listener = lambda *, cache_hit, **more: found.append(cache_hit)


class Utils:
    def load_binary(self, *arguments):
        return "module", "function", 100, 0, 1024

    def get_device_properties(self, device):
        return {"max_shared_mem": 232448}


class Driver:
    '''A GPU 0 of compute capability 9.0, on which nothing runs.'''

    utils = Utils()

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def launcher_cls(self, source, metadata):
        return lambda *arguments: None


def call():
    query = torch.zeros(2, 2, 70, 64, dtype=torch.bfloat16)
    options = AttentionOptions.of(query, AttentionMask.causal(70), None, None, 0.0, None)
    output, lse = triton_launch.attention_forward(query, query, query, *options)
    triton_launch.attention_backward(query, None, query, query, query, output, lse, *options, 0)


if sys.argv[1] == "ahead":
    with triton_runtime.compile_for("sm_90"):
        call()
else:
    driver.set_active(Driver())
    call()
print(found.count(True), found.count(False))
"""


def compilations(how, folder):
    """How many kernels a process found on the disk, and how many it compiled."""
    environment = {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
    command = [sys.executable, "-c", LAUNCH, how]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


def test_a_launch_compiles_nothing(tmp_path):
    _, compiled = compilations("ahead", tmp_path)
    assert compiled >= 3  # forward, backward, ranges of tiles
    assert compilations("launched", tmp_path) == (compiled, 0)
    assert compilations("ahead", tmp_path) == (compiled, 0)
