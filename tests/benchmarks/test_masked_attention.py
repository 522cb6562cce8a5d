"""The setup of the attention benchmark: every provider computes the same, the goals are those stated."""

import pytest
import torch

from ptmkernels.benchmarks import harness, masked_attention
from ptmkernels.benchmarks.harness import BOTH, FORWARD, Options

OPTIONS = Options(threads=(1,), sizes=(130,), dtypes=(torch.float32,), budget=0.0, quick=True)


def cases(**changes):
    return list(masked_attention.cases(Options(**(vars(OPTIONS) | changes))))


@pytest.mark.parametrize("series", masked_attention.SERIES)
def test_ours_and_the_plain_peers_agree(series, monkeypatch):
    monkeypatch.setattr(masked_attention, "CACHE_LEN", 65)
    options = Options(**(vars(OPTIONS) | {"series": (series,), "modes": (FORWARD, BOTH)}))
    seen = set()
    for rows in harness.run(masked_attention.BENCHMARK, options):
        status = {row.provider: (row.status, row.reason) for row in rows}
        for name in ("ptmkernels", "sdpa", "sdpa, math", "eager"):
            assert status[name] == ("ok", ""), name
        seen |= {row.mode for row in rows}
    assert seen == ({FORWARD} if series == "cached" else {FORWARD, BOTH})


def test_cases_cover_what_was_asked():
    everything = cases(quick=False, sizes=(), dtypes=(torch.float32, torch.bfloat16))
    found = {(c.series, c.size, c.dtype) for c in everything}
    for series in masked_attention.SERIES:
        sizes = (1024,) if series == "cached" else (128, 512, 1024, 2048)
        for size in sizes:
            assert (series, size, torch.float32) in found
            assert (series, size, torch.bfloat16) in found
    with pytest.raises(ValueError, match=r"series is .*nothing"):
        cases(series=("nothing",))


@pytest.mark.parametrize(
    "series, visible",
    [("full", 1), ("causal", 0.5 + 0.5 / 512), ("documents", 0.25), ("half-padded", 0.5)],
)
def test_work_follows_the_area_of_the_mask(series, visible):
    (case,) = cases(series=(series,), sizes=(512,))
    assert case.setup.visible == pytest.approx(visible)
    batch = case.shape["B"]
    area = batch * 12 * 512 * 512 * visible
    assert case.work[FORWARD].operations == pytest.approx(4 * area * 64)
    assert case.work[BOTH].operations == pytest.approx(14 * area * 64)
    assert case.work[FORWARD].bytes == 4 * batch * 12 * 512 * 64 * 4


@pytest.mark.parametrize(
    "series, size, dtype, goal",
    [
        ("full", 512, torch.float32, 1.3),
        ("causal", 1024, torch.float32, 1.8),
        ("documents", 2048, torch.bfloat16, 22),
        ("half-padded", 512, torch.float32, 2.6),
        ("full", 128, torch.bfloat16, 1.0),
        ("full", 640, torch.float32, None),
    ],
)
def test_goals_against_sdpa(series, size, dtype, goal):
    (case,) = cases(series=(series,), sizes=(size,), dtypes=(dtype,))
    assert masked_attention.goal(case, BOTH, "sdpa") == pytest.approx(goal)
    assert masked_attention.goal(case, BOTH, "eager") is None


def test_goals_of_one_query_and_of_the_bias():
    (cached,) = cases(series=("cached",))
    assert masked_attention.goal(cached, FORWARD, "sdpa") == 1.0
    (biased,) = cases(series=("t5-bias",))
    assert masked_attention.goal(biased, FORWARD, "ptmkernels, no bias") == 0.9


def test_the_quick_benchmark_measures_ours_beside_sdpa():
    rows = masked_attention.quick_attention_benchmark(size=65, seconds=0.01)
    assert {row.provider for row in rows} == {"ptmkernels", "sdpa"}
    assert all(row.status == "ok" and row.mode == BOTH for row in rows)
