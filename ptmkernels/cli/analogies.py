"""`ptmkernels analogies VECTORS QUESTIONS`: how many questions "a is to b as c to d" word vectors answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptmkernels.cli import app
from ptmkernels.cli._text_options import VECTORS, Errors, Limit


@app.command()
def analogies(
    vectors: Annotated[Path, typer.Argument(help=VECTORS)],
    questions: Annotated[Path, typer.Argument(help="A file as questions-words.txt of word2vec.c.")],
    restrict_vocab: Annotated[
        int, typer.Option(help="Look at so many of the most frequent words.")
    ] = 300_000,
    case: Annotated[bool, typer.Option("--case", help="Tell capitals from small letters.")] = False,
    count_unknown: Annotated[
        bool, typer.Option("--count-unknown", help="Questions with unknown words count as wrong.")
    ] = False,
    limit: Limit = None,
    errors: Errors = "strict",
) -> None:
    """Print the share of right answers in per cent, of each section and of all questions."""
    from ptmkernels.models.shallow.files import load_vectors

    found = load_vectors(vectors, limit, errors)
    _, sections = found.evaluate_word_analogies(questions, restrict_vocab, not case, count_unknown)
    for section in sections:
        right, wrong = len(section["correct"]), len(section["incorrect"])
        share = 100 * right / (right + wrong) if right + wrong else 0.0
        typer.echo(f"{share:5.1f} % {right:6}/{right + wrong:<6} {section['section']}")
