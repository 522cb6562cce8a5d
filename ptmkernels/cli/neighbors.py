"""`ptmkernels neighbors VECTORS WORD`: the nearest words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptmkernels.cli import app
from ptmkernels.cli._text_options import VECTORS, Errors, Limit


@app.command()
def neighbors(
    vectors: Annotated[Path, typer.Argument(help=VECTORS)],
    words: Annotated[list[str], typer.Argument(help="Words; one with a leading ~ is subtracted.")],
    count: Annotated[int, typer.Option(help="How many neighbours.")] = 10,
    limit: Limit = None,
    errors: Errors = "strict",
) -> None:
    """Print the words nearest to a word, or to a sum of words such as: king woman ~man."""
    from ptmkernels.models.shallow.files import load_any

    positive = [w for w in words if not w.startswith("~")]
    negative = [w[1:] for w in words if w.startswith("~")]
    try:
        found = load_any(vectors, limit, errors).most_similar(positive, negative, count)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    for word, cosine in found:
        readable = word.encode("utf-8", "replace").decode()  # bytes that are not UTF-8 become ?
        typer.echo(f"{cosine:7.4f}  {readable}")
