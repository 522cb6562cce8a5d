"""`ptmkernels zoo`: every model is shown, by family; one model with its presets."""

import pytest
from typer.testing import CliRunner

from ptmkernels import registry
from ptmkernels.cli import app


def zoo(*arguments, columns=320):
    result = CliRunner().invoke(app, ["zoo", *arguments], env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.mark.parametrize("columns", [80, 320])
def test_every_model_is_shown(columns):
    output = zoo(columns=columns)
    assert max(map(len, output.splitlines())) <= columns
    for card in registry.cards():
        assert card.family in output
        row = output[output.index(f" {card.name} ") :].partition("objective:")[0]
        assert str(card.year) in row
        assert card.link in row
        assert f" presets: {len(card.presets)}" in output


def test_no_identifier_is_broken_at_80_columns():
    for card in registry.cards():
        words = zoo(card.name, columns=80).split()
        assert set(card.preset_names()) <= set(words)
        for name in card.preset_names():
            assert set(card.values(name)) <= set(words) | _defaults(card, name)


def _defaults(card, name):
    """The values of a preset that are the defaults, and are not shown."""
    defaults = card.architecture and card.architecture.config()
    return {n for n, v in card.values(name).items() if v == getattr(defaults, n, None)}


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
