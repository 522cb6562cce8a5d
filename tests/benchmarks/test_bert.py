"""The setup of the BERT benchmark, on a narrow model: all compute the same, half of a batch is padding."""

import pytest
import torch

from ptmkernels.benchmarks import bert, harness
from ptmkernels.benchmarks.harness import BOTH, FORWARD, Options
from ptmkernels.registry import create_model

pytest.importorskip("transformers")

NARROW = {"hidden_size": 39, "num_attention_heads": 3, "intermediate_size": 53, "vocab_size": 101}
OPTIONS = Options(threads=(1,), sizes=(17,), dtypes=(torch.float32,), budget=0.0)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    def create(name, head, **options):
        return create_model(name, head, num_hidden_layers=2, **NARROW, **options)

    monkeypatch.setattr(bert, "create_model", create)
    monkeypatch.setattr(bert, "TOKENS", {"cpu": 60})


def options(**changes):
    return Options(**(vars(OPTIONS) | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("series", bert.SERIES)
def test_ours_and_transformers_agree(series, dtype):
    (rows,) = harness.run(bert.BENCHMARK, options(series=(series,), dtypes=(dtype,)))
    training = series.startswith("training")
    assert {row.mode for row in rows} == {BOTH if training else FORWARD}
    names = ["ptmkernels", *["ptmkernels, every logit"] * training, "sdpa", "eager"]
    assert [(row.provider, row.status, row.reason) for row in rows] == [
        (n, "ok", "") for n in names
    ]
    (sdpa,) = (row for row in rows if row.provider == "sdpa")
    assert sdpa.goal == (1.3 if "padded" in series else 1.0)
    assert sdpa.speedup > 0


@pytest.mark.parametrize("series", bert.SERIES)
def test_a_wrong_answer_is_seen(series, monkeypatch):
    """Transformers' model is no copy of ours that is compared with itself: another norm shows."""
    head = "pretraining" if series.startswith("training") else "backbone"
    other = bert.create_model("bert-base-uncased", head, layer_norm_eps=0.1, **bert.NO_DROPOUT)
    monkeypatch.setattr(bert, "_ours", lambda setup, **o: bert._function(other, setup, {}, {}))
    (rows,) = harness.run(bert.BENCHMARK, options(series=(series,)))
    assert {row.provider: row.status for row in rows}["ptmkernels"] == "wrong"


def test_half_of_a_padded_batch_is_padding():
    cases = {case.series: case for case in bert.cases(options(sizes=(16,)))}
    assert list(cases) == list(bert.SERIES)
    for series, case in cases.items():
        mask = case.inputs()["attention_mask"]
        assert mask.double().mean() == (0.5 if "padded" in series else 1.0)
        assert mask[:, 0].all()
    full, padded = (cases[name].work[FORWARD] for name in bert.QUICK_SERIES)
    tokens = [cases[name].shape["tokens"] for name in bert.QUICK_SERIES]
    assert padded.operations / tokens[1] == pytest.approx(full.operations / tokens[0], rel=0.1)


def test_weights_without_a_gradient_are_no_inputs():
    for case in bert.cases(OPTIONS):
        inputs = case.inputs()
        assert not [name for name in inputs if name.endswith("key.bias")]
        assert ("backbone.pooler.dense.weight" in inputs) == case.setup.training


def test_unknown_series():
    with pytest.raises(ValueError, match=r"series is \['finetuning'\]"):
        list(bert.cases(options(series=("finetuning",))))
