"""The torch libraries use the stable ABI and nothing else, and sources stay portable."""

import ast
import re
import shutil
import subprocess
import sys

import pytest

from ptmkernels._library import LIBRARY_DIR
from tests.build.conftest import ROOT, run

CSRC = ROOT / "csrc"
SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh"))
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
STABLE = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/")
X86_HEADERS = {"immintrin.h", "x86intrin.h", "emmintrin.h", "cpuid.h"}


def relative(path):
    return str(path.relative_to(CSRC))


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_the_stable_headers_of_torch_are_included(path):
    for name in includes(path):
        top = name.split("/")[0]
        assert top not in ("ATen", "c10", "caffe2"), name
        assert top != "torch" or name.startswith(STABLE), name
        if path.parent.name != "corpus":
            assert top not in ("Python.h", "pybind11"), name


@pytest.mark.parametrize("library", ["libptmkernels.so", "libptmkernels_cuda.so"])
def test_libraries_need_no_c_plus_plus_symbol_of_torch(library):
    path = LIBRARY_DIR / library
    if not path.is_file():
        pytest.skip(f"{library} is not built here")
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not on this machine")
    symbols = run("nm", "-D", "--undefined-only", path).split()
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in symbols)
    for name in symbols:
        assert not re.match(r"_ZN?K?\d*(2at|3c10|5torch)", name), name
        assert not name.startswith("Py"), name


@pytest.mark.parametrize("library", ["libptmkernels.so", "libptmkernels_cuda.so"])
def test_every_symbol_was_found_in_the_oldest_torch(library):
    """One that is missing there would keep the whole library from being loaded."""
    path = LIBRARY_DIR / library
    if not path.is_file():
        pytest.skip(f"{library} is not built here")
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not on this machine")
    listed = (ROOT / "tests" / "build" / "torch_symbols.txt").read_text().splitlines()
    known = {line for line in listed if not line.startswith("#")}
    needed = {s for s in run("nm", "-D", "--undefined-only", path).split() if "torch_" in s}
    assert needed
    assert needed <= known, needed - known


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_x86_headers_are_guarded(path):
    """An x86 header may be included only below a test of the architecture."""
    text = path.read_text(encoding="utf-8")
    for name in X86_HEADERS & set(includes(path)):
        before = text[: text.index(name)]
        assert re.search(r"__x86_64__|__SSE|__AVX|PTMKERNELS_X86|PTMKERNELS_SIMD", before), name


LINUX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "spwd", "termios", "tty"}
OPTIONAL = {"triton", "transformers", "tensorboard", "gensim", "fasttext", "sentencepiece"}
MODULES = sorted([*(ROOT / "ptmkernels").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_linux_only_is_imported(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    assert names & LINUX_ONLY == set()


BLOCKED = """
import sys
import torch
for name in {blocked!r}:
    sys.modules[name] = None
import ptmkernels as ptm
from ptmkernels import benchmarks, cli
from ptmkernels.benchmarks import masked_attention
ptm.ops, ptm.nn, ptm.AttentionMask, ptm.list_models()
q = torch.randn(1, 2, 5, 7)
assert ptm.ops.masked_attention(q, q, q, backend="reference").shape == q.shape
print("whole")
"""


def test_everything_is_imported_without_the_optional_packages():
    """Triton is to be had on Linux alone; the others are nobody's duty."""
    script = BLOCKED.format(blocked=sorted(OPTIONAL))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.stdout.strip() == "whole", result.stderr
