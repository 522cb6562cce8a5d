"""`ptmkernels word-pairs VECTORS PAIRS`: word vectors beside people's judgements of pairs of words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptmkernels.cli import app
from ptmkernels.cli._text_options import VECTORS, Errors, Limit


@app.command()
def word_pairs(
    vectors: Annotated[Path, typer.Argument(help=VECTORS)],
    pairs: Annotated[
        Path, typer.Argument(help="A file as WordSim-353's: two words and a number, by tabs.")
    ],
    restrict_vocab: Annotated[
        int, typer.Option(help="Look at so many of the most frequent words.")
    ] = 300_000,
    case: Annotated[bool, typer.Option("--case", help="Tell capitals from small letters.")] = False,
    count_unknown: Annotated[
        bool, typer.Option("--count-unknown", help="Pairs with unknown words count as unlike.")
    ] = False,
    limit: Limit = None,
    errors: Errors = "strict",
) -> None:
    """Print the correlations of cosines with the numbers, and the share of pairs with unknown words."""
    from ptmkernels.models.shallow.files import load_vectors

    found = load_vectors(vectors, limit, errors).evaluate_word_pairs(
        pairs, restrict_vocab=restrict_vocab, case_insensitive=not case, dummy4unknown=count_unknown
    )
    typer.echo(
        f"Spearman {found.spearman:.4f}  Pearson {found.pearson:.4f}  unknown {found.unknown:.1f} %"
    )
