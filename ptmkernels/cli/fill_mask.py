"""`ptmkernels fill-mask FOLDER TEXT`: what a model puts in the place of [MASK]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ptmkernels.inference import Prediction


@app.command()
def fill_mask(
    folder: Annotated[str, typer.Argument(help="A folder of a model, or a name on the hub.")],
    texts: Annotated[list[str], typer.Argument(help="Texts with [MASK] in them.")],
    top: Annotated[int, typer.Option(help="Predictions for each [MASK].")] = 5,
) -> None:
    """Predict the masked words of texts: a table with probabilities."""
    from rich.console import Console

    from ptmkernels.inference import MaskFiller

    filler = MaskFiller.load(folder)
    for text in texts:
        show_predictions(Console(), text, filler(text, top))


def show_predictions(
    console: Console, text: str, predictions: Sequence[Sequence[Prediction]]
) -> None:
    """The text, and a table with two columns for each of its [MASK]: tokens and probabilities."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number in range(1, len(predictions) + 1):
        table.add_column(Text(f"[MASK] {number}" if len(predictions) > 1 else "[MASK]"))
        table.add_column("p", justify="right")
    for row in zip(*predictions, strict=True):
        cells = [(Text(p.token), f"{p.probability:.3f}") for p in row]
        table.add_row(*(cell for pair in cells for cell in pair))
    console.print(Text(text), table)
