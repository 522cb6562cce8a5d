"""The setups of both benchmarks of relative attention: providers agree, goals are those stated."""

import pytest
import torch

from ptmkernels.benchmarks import harness, relative_attention, two_stream_attention
from ptmkernels.benchmarks.harness import BACKWARD, BOTH, FORWARD, Options

OPTIONS = Options(
    threads=(1,),
    sizes=(66,),
    dtypes=(torch.float32,),
    modes=(FORWARD, BOTH),
    budget=0.0,
    quick=True,
)
PEERS = {
    relative_attention: (relative_attention.PLAIN, "transformers", "sdpa, built scores"),
    two_stream_attention: (two_stream_attention.CONTENT, "transformers"),
}


@pytest.mark.parametrize("module", PEERS, ids=lambda module: module.BENCHMARK.op)
def test_ours_and_the_peers_agree(module):
    seen = set()
    for rows in harness.run(module.BENCHMARK, OPTIONS):
        status = {row.provider: (row.status, row.reason) for row in rows}
        assert status == dict.fromkeys(("ptmkernels", *PEERS[module]), ("ok", ""))
        seen |= {(row.series, row.mode) for row in rows}
    assert seen == {(series, mode) for series in module.SERIES for mode in (FORWARD, BOTH)}


@pytest.mark.parametrize("module", PEERS, ids=lambda module: module.BENCHMARK.op)
def test_unknown_series(module):
    with pytest.raises(ValueError, match=r"series is .*nothing"):
        list(module.cases(Options(series=("nothing",))))


def test_goals():
    xlnet, xl = relative_attention.cases(Options(sizes=(1024,), dtypes=(torch.float32,)))
    goal = relative_attention.goal
    assert goal(xlnet, FORWARD, "transformers") == 7
    assert goal(xlnet, BOTH, "transformers") == 4
    assert goal(xl, BOTH, "sdpa, built scores") == 3
    assert goal(xl, FORWARD, relative_attention.PLAIN) == pytest.approx(0.625)
    assert goal(xl, BACKWARD, relative_attention.PLAIN) == pytest.approx(0.5)
    (streams,) = two_stream_attention.cases(Options(sizes=(600,), dtypes=(torch.float32,)))
    ratio = two_stream_attention.goal(streams, FORWARD, two_stream_attention.CONTENT)
    assert 1 / ratio == pytest.approx(1.05 * 7 / 6)


def test_work_counts_the_rows_of_both_streams():
    (streams,) = two_stream_attention.cases(Options(sizes=(600,), dtypes=(torch.float32,)))
    scores = streams.shape["B"] * 12 * 700 * 600
    assert streams.work[FORWARD].operations == pytest.approx(6 * scores * 64)
    assert streams.work[BOTH].operations == pytest.approx(22 * scores * 64)
