"""NEZHA against Transformers with the same random weights."""

import math

import pytest
import torch

import ptmkernels as ptm
from ptmkernels.backbones.transformer import relative_sinusoids
from tests.models import test_bert
from tests.models.oracles import assert_same_gradients
from tests.tolerances import ORACLE

pytest.importorskip("transformers")
from transformers.models.deprecated import nezha

HEADS = {head: name.replace("Bert", "Nezha") for head, name in test_bert.HEADS.items()}
# 39 / 3 heads would be odd, which the oracle cannot do
SIZES = test_bert.SIZES | {"hidden_size": 42, "max_relative_position": 5}


def make_pair(tmp_path, head, **config):
    torch.manual_seed(7)
    oracle = getattr(nezha, HEADS[head])(nezha.NezhaConfig(**(SIZES | config))).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle.save_pretrained(tmp_path / "oracle")
    return oracle, ptm.from_pretrained(tmp_path / "oracle")


@pytest.mark.parametrize(
    ("head", "side"),
    [(head, "right") for head in HEADS] + [("backbone", s) for s in ("none", "left", "holes")],
)
def test_outputs_loss_and_gradients_equal_transformers(tmp_path, head, side):
    labels = {"num_labels": test_bert.C} if "classification" in head else {}
    oracle, model = make_pair(tmp_path, head, **labels)
    batch = test_bert.make_batch(head, side)
    expected, actual = oracle(**batch), model(**batch)
    test_bert.assert_same_outputs(actual, expected, test_bert.padding(side))
    assert_same_gradients(model, test_bert.scalar(actual), oracle, test_bert.scalar(expected))


def test_weights_equal_transformers(tmp_path):
    oracle, model = make_pair(tmp_path, "backbone")
    batch = test_bert.make_batch("backbone", "left")
    real = batch["attention_mask"].bool()
    expected = oracle(**batch, output_attentions=True).attentions
    actual = model(**batch, output_attentions=True).attentions
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.transpose(1, 2)[real], e.transpose(1, 2)[real], **ORACLE)


def test_transformers_reads_what_we_save(tmp_path):
    model = ptm.create_model("nezha-base", "pretraining", **SIZES).eval()
    model.save_pretrained(tmp_path)
    oracle, report = nezha.NezhaForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    batch = test_bert.make_batch("pretraining", "none")
    test_bert.assert_same_outputs(model(**batch), oracle(**batch), test_bert.padding("none"))


def test_the_table_in_closed_form():
    table = relative_sinusoids(3, 5, torch.zeros(1, dtype=torch.float64))[0, 0]
    for row in range(7):
        for column in range(5):
            angle = row / 10000 ** (column // 2 * 2 / 5)
            wave = math.cos if column % 2 else math.sin
            assert table[row, column].item() == pytest.approx(wave(angle), abs=1e-6)


def test_only_distances_count():
    """Text that nobody else sees makes no difference, wherever it stands; padding either."""
    model = ptm.create_model("nezha-base", **SIZES).eval()
    ids = torch.randint(1, 100, (1, 31))  # longer than any position table
    alone = model(ids[:, 9:]).last_hidden_state
    hidden = torch.ones(1, 31, dtype=torch.long)
    hidden[:, :9] = 0
    shifted = model(ids, hidden).last_hidden_state[:, 9:]
    torch.testing.assert_close(shifted, alone, **ORACLE)


def test_position_ids_are_refused():
    model = ptm.create_model("nezha-base", **SIZES)
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="position_ids is given; the model has no position table"):
        model(ids, position_ids=ids)
