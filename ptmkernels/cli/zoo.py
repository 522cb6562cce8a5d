"""`ptmkernels zoo`: the models by family."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ptmkernels.registry import Card


@app.command()
def zoo(
    model: Annotated[
        str, typer.Argument(help='One model ("bert"), or a pattern of presets ("denoising/*").')
    ] = "*",
) -> None:
    """The models by family, with paper, encoder, objective and sizes; or one model with its presets."""
    from rich.console import Console

    from ptmkernels import registry

    console = Console()
    for card in registry.cards():
        if card.name == model:
            _show_model(console, card)
            return
    names = set(registry.list_models(model))
    if not names:
        raise ValueError(f"no model matches {model!r}; `ptmkernels zoo` shows all")
    shown = [card for card in registry.cards() if names.intersection(card.preset_names())]
    for family, cards in groupby(shown, key=lambda card: card.family):
        console.print(_family_table(family, list(cards), names))


def _family_table(family: str, cards: list[Card], names: set[str]) -> Table:
    """A row for each model, few enough columns that 80 of the terminal break no link and no name."""
    from rich.table import Table

    table = Table(title=family, title_justify="left", show_lines=True)
    table.add_column("model", no_wrap=True)
    table.add_column("paper, encoder, objective, sizes")
    for card in cards:
        presets = [name for name in card.preset_names() if name in names]
        sizes = [n for name in presets if (n := card.num_parameters(name)) is not None]
        span = " to ".join(dict.fromkeys(map(_millions, sorted(sizes)[:: len(sizes) - 1 or 1])))
        said = (
            f"{card.authors} {card.year}, {card.link}",
            f"encoder: {card.encoder}",
            f"objective: {card.objective}",
            f"presets: {len(presets)}" + (f", of {span} weights" if span else ""),
        )
        table.add_row(card.name, "\n".join(said))
    return table


def _show_model(console: Console, card: Card) -> None:
    from rich.table import Table

    console.print(f"[bold]{card.title}[/] ({card.authors} {card.year}, {card.link})")
    console.print(card.paper)
    console.print(f"family: {card.family}; encoder: {card.encoder}; objective: {card.objective}")
    if card.heads:
        console.print(f"heads: {', '.join(card.heads)}")
    table = Table()
    table.add_column("preset", no_wrap=True)
    table.add_column("weights, and in what it differs from the defaults")
    defaults = card.architecture.config() if card.architecture else None
    for name in card.preset_names():
        values = card.values(name).items()
        said = [f"{field} {v}" for field, v in values if v != getattr(defaults, field, None)]
        if (size := card.num_parameters(name)) is not None:
            said.insert(0, f"{_millions(size)} weights")
        table.add_row(name, ", ".join(said))
    console.print(table)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count < 1e8 else f"{count / 1e6:.0f} M"
