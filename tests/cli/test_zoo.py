"""`ptmkernels zoo`: every model is shown, by family; one model with its presets."""

import pytest
from typer.testing import CliRunner

from ptmkernels import registry
from ptmkernels.cli import app


def zoo(*arguments):
    result = CliRunner().invoke(app, ["zoo", *arguments], env={"COLUMNS": "320"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_every_model_is_shown():
    output = zoo()
    for card in registry.cards():
        assert card.family in output
        row = next(line for line in output.splitlines() if f" {card.name} " in line)
        assert str(card.year) in row
        assert card.link in row
        assert str(len(card.presets)) in row


@pytest.mark.parametrize("card", registry.cards(), ids=lambda card: card.name)
def test_one_model_with_its_presets(card):
    output = zoo(card.name)
    assert card.paper in output
    assert all(name in output for name in card.preset_names())
    assert all(head in output for head in card.heads)


def test_sizes_and_patterns():
    assert "109 M" in next(line for line in zoo("bert").splitlines() if "bert-base-uncased" in line)
    assert " bert " in zoo("denoising/*")
    with pytest.raises(ValueError, match="no model matches 'permuted'"):
        zoo("permuted")
