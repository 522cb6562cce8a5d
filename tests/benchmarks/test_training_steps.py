"""The training steps of small models: our answer and gradients are those of Transformers."""

import pytest
import torch

from ptmkernels.benchmarks import harness, load
from ptmkernels.benchmarks.harness import BOTH, Options

pytest.importorskip("transformers")


@pytest.mark.parametrize("op", ["t5", "xlnet"])
def test_both_are_right(op):
    options = Options(
        dtypes=(torch.float32,), threads=(1,), modes=(BOTH,), sizes=(24,), quick=True, budget=0.0
    )
    (rows,) = harness.run(load(op), options)
    assert [(row.provider, row.status) for row in rows] == [
        ("ptmkernels", "ok"),
        ("transformers", "ok"),
    ]
    # The reference is Transformers' own in float32: its error is none, ours that of another order of sums.
    assert rows[1].error < 1e-6
    assert 1e-9 < rows[0].error < 1e-4
