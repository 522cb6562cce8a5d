"""A checkout that is not installed, with PYTHONPATH alone."""

import subprocess
import sys

from tests.tools.conftest import ROOT

SOURCE = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path.insert(0, {str(ROOT)!r})
from ptmkernels.benchmarks import OPS, load, report
print(report.__file__)
"""


def test_the_benchmarks_are_found_beside_the_package():
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c", SOURCE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(ROOT / "benchmarks" / "report.py"), done.stderr
