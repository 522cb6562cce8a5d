"""`ptmkernels fill-mask FOLDER TEXT`: what a model puts in the place of [MASK]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from rich.table import Table

    from ptmkernels.inference import Prediction


@app.command()
def fill_mask(
    folder: Annotated[str, typer.Argument(help="A folder of a model.")],
    texts: Annotated[list[str], typer.Argument(help="Texts with [MASK] in them.")],
    top: Annotated[int, typer.Option(help="Predictions for each [MASK].")] = 5,
) -> None:
    """Predict the masked words of texts: a table with probabilities."""
    from rich.console import Console

    from ptmkernels.inference import MaskFiller

    console = Console()
    filler = MaskFiller.load(folder)
    for text in texts:
        for number, predictions in enumerate(filler(text, top), start=1):
            console.print(table(text, number, predictions))


def table(text: str, number: int, predictions: list[Prediction]) -> Table:
    """The predictions for the `number`-th [MASK] of a text."""
    from rich.markup import escape
    from rich.table import Table

    result = Table("word piece", "probability", title=f"{escape(text)}  (mask {number})")
    for prediction in predictions:
        result.add_row(escape(prediction.token), f"{prediction.probability:.1%}")
    return result
