"""`ptmkernels fill-mask FOLDER TEXT`: what a model puts in the place of [MASK]."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from ptmkernels.inference import Filler


@app.command()
def fill_mask(
    folder: Annotated[str, typer.Argument(help="A folder of a model, or a name on the hub.")],
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
