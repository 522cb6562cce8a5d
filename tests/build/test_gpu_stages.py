"""tools/gpu.py on a machine without a GPU: which stages there are, and what it says."""

import runpy

import pytest
import torch

from ptmkernels.benchmarks import OPS
from tests.build.conftest import ROOT

GPU = runpy.run_path(str(ROOT / "tools" / "gpu.py"), run_name="gpu")


def test_stages_cover_build_tests_sanitizer_and_benchmarks():
    stages = GPU["stages"]()
    benchmarks = [f"bench-{name}" for name in OPS]
    assert list(stages) == ["build", "info", "test", *GPU["TOOLS"], *benchmarks]
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        assert stages[tool][:3] == ["compute-sanitizer", "--tool", tool]


def test_an_unknown_stage_is_refused():
    with pytest.raises(SystemExit, match="stage is 'tests'; expected some of build, info, test"):
        GPU["main"](["tests"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="no CUDA device is visible to torch"):
        GPU["main"](["info"])
