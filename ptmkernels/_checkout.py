"""Makes `ptmkernels.benchmarks` importable from a checkout that is not installed.

The folder `benchmarks` lies beside the package; an installation maps it to `ptmkernels.benchmarks`. With
``PYTHONPATH=.`` alone nothing does, so a finder that is asked last looks there.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

NAME = "ptmkernels.benchmarks"
ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"


class BenchmarksFinder:
    """Finds the package of the benchmarks, whose modules Python then finds by itself."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        if name != NAME:
            return None
        file = FOLDER / "__init__.py"
        return spec_from_file_location(name, file, submodule_search_locations=[str(FOLDER)])


def install() -> None:
    """Add the finder, where the package lies in a checkout."""
    is_checkout = (ROOT / "pyproject.toml").is_file() and FOLDER.is_dir()
    if is_checkout and BenchmarksFinder not in sys.meta_path:
        sys.meta_path.append(BenchmarksFinder)
