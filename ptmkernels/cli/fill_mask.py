"""`ptmkernels fill-mask FOLDER TEXT`: what a model puts in the place of [MASK]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

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
        Console().print(predictions_table(text, filler(text, top)))


def predictions_table(text: str, predictions: Sequence[Sequence[Prediction]]) -> Table:
    """One column for each [MASK] of the text."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(text), title_justify="left")
    for number in range(len(predictions)):
        table.add_column(f"[MASK] {number + 1}" if len(predictions) > 1 else Text("[MASK]"))
        table.add_column("p", justify="right")
    for row in zip(*predictions, strict=True):
        cells = [(Text(p.token), f"{p.probability:.3f}") for p in row]
        table.add_row(*(cell for pair in cells for cell in pair))
    return table
