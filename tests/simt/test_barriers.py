"""Deleting any one barrier, warp barrier or wait for copies from a CUDA kernel makes a test fail.

The places are read from the sources, so that a new one is tested without anybody's thinking of it.
"""

import re
from pathlib import Path

import pytest
import torch

from tests.ops import test_masked_attention, test_relative_attention
from tests.ops.attention_cases import Case
from tests.ops.relative_cases import TERMS, RelativeCase
from tests.simt import library
from tests.simt.attention import in_place_of_cpu, kernel

PATTERNS = {
    "barrier": re.compile(r"(?<![\w_])barrier\(\)"),
    "warp barrier": re.compile(r"\bwarp_barrier\(\)"),
    "copy wait": re.compile(r"\bcopy_wait<"),
}
SMALL = {"query_len": 35, "key_len": 70, "batch": 1, "dtype": torch.bfloat16}
CASES = [
    Case("causal", "table", key_heads=2, head_dim=32, **SMALL),  # two buffers of tiles
    Case(head_dim=256, **SMALL),  # one, in the backward pass
    Case(head_dim=256, query_len=19, key_len=35, batch=1),  # float32: one in the forward pass too
    # Relative positions: bands of several pieces, and distances beyond the rows.
    RelativeCase(
        *("xlnet", "b", TERMS, "any", "none", "table"),
        **SMALL | {"key_heads": 2, "head_dim": 64, "key_len": 40, "batch": 2},
    ),
]


def check(case: Case | RelativeCase) -> None:
    """Runs a case on the emulation against the reference."""
    if isinstance(case, Case):
        test_masked_attention.check(case, "cpu", kernel)
    else:
        with in_place_of_cpu():
            test_relative_attention.check(case)


def places() -> list[tuple[str, Path, int]]:
    """Kind, file and line of every place in the kernels' sources that orders memory."""
    found = []
    for path in sorted((library.ROOT / "csrc").glob("*/cuda/*.cuh")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            found += [(kind, path, number) for kind, p in PATTERNS.items() if p.search(code)]
    return found


@pytest.fixture(scope="module")
def passed():
    """Every place that a case passes, with that case."""
    found = {}
    library.take_sites()
    for case in CASES:
        check(case)
        assert library.take_reports() == []
        for site in library.take_sites():
            found.setdefault((site.kind, Path(site.file).resolve(), site.line), (site, case))
    return found


def test_there_are_places():
    assert {kind for kind, _, _ in places()} >= {"barrier", "copy wait"}


@pytest.mark.parametrize("place", places(), ids=lambda p: f"{p[0]}-{p[1].name}-{p[2]}")
def test_without_it_a_test_fails(place, passed):
    assert place in passed, "no case passes here: add one"
    site, case = passed[place]
    with library.without(site):
        try:
            check(case)
            wrong = False
        except AssertionError:
            wrong = True
    reports = library.take_reports()
    assert wrong or reports, f"nothing notices that there is no {site}"
