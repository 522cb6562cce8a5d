"""`ptmkernels classify train|test|predict|quantize`: fastText's classifier of lines."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ptmkernels.cli import app
from ptmkernels.cli._text_options import Errors
from ptmkernels.compressed import open_bytes
from ptmkernels.files import check_writable
from ptmkernels.interrupts import sigterm_interrupts
from ptmkernels.undecodable import check_errors

classify = typer.Typer(
    help="Labels for lines of text: fastText's classifier.", no_args_is_help=True
)
app.add_typer(classify, name="classify")

LABELLED = "Lines with labels (.gz and .bz2: compressed)"
ModelFile = Annotated[Path, typer.Argument(help="A .bin or .ftz file of fastText's form.")]
Count = Annotated[int, typer.Argument(help="How many labels, at most.")]
Threshold = Annotated[float, typer.Argument(help="Leave out labels that are less likely.")]


@classify.command()
def train(
    text: Annotated[Path, typer.Argument(help=f"{LABELLED}: __label__good a fine day")],
    output: Annotated[Path, typer.Argument(help="The model, in fastText's form (.bin).")],
    loss: Annotated[
        str,
        typer.Option(help="softmax, hierarchical-softmax, negative-sampling or one-vs-all."),
    ] = "softmax",
    dim: Annotated[int, typer.Option(help="Numbers in a vector.")] = 100,
    epochs: Annotated[int, typer.Option("--epochs", "--epoch", help="Passes over the text.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.1,
    word_ngrams: Annotated[int, typer.Option(help="Longest n-gram of words.")] = 1,
    min_count: Annotated[int, typer.Option(help="Rarer words are left out.")] = 1,
    minn: Annotated[int, typer.Option(help="Shortest n-gram of characters.")] = 0,
    maxn: Annotated[int, typer.Option(help="Longest n-gram of characters; 0 = none.")] = 0,
    bucket: Annotated[int, typer.Option(help="Rows for n-grams.")] = 2_000_000,
    neg: Annotated[int, typer.Option(help="Negatives for each line.")] = 5,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 1,
    errors: Errors = "strict",
) -> None:
    """Train a classifier on a text with labels."""
    from ptmkernels.models import FastTextClassifier

    model = FastTextClassifier(
        loss=loss, vector_size=dim, learning_rate=lr, word_ngrams=word_ngrams, min_count=min_count,
        min_n=minn, max_n=maxn, bucket=bucket, negative=neg, seed=seed,
    )  # fmt: skip
    check_writable(output)
    with _stoppable():
        model.fit(text, epochs, errors=errors)
        model.save_fasttext(output)
    typer.echo(f"{len(model.words)} words, {len(model.labels)} labels: {output}", err=True)


@classify.command("test")
def evaluate(
    model: ModelFile,
    text: Annotated[Path, typer.Argument(help=LABELLED)],
    k: Count = 1,
    threshold: Threshold = 0.0,
    errors: Errors = "strict",
) -> None:
    """Print the number of lines, and precision and recall of the k likeliest labels."""
    count, precision, recall = _load(model).test(text, k, threshold, errors)
    typer.echo(f"N\t{count}\nP@{k}\t{precision:.3f}\nR@{k}\t{recall:.3f}")


@classify.command()
def predict(
    model: ModelFile,
    text: Annotated[
        str,
        typer.Argument(help="Lines of text (.gz and .bz2: compressed); - is standard input."),
    ],
    k: Count = 1,
    threshold: Threshold = 0.0,
    prob: Annotated[bool, typer.Option("--prob", help="Print probabilities, too.")] = False,
    errors: Errors = "strict",
) -> None:
    """Print the likeliest labels of each line, a line each."""
    with _lines_of(text, errors) as lines:
        for found in _load(model).predict_lines(lines, k, threshold):
            typer.echo(" ".join(f"{label} {p:.6g}" if prob else label for label, p in found))


@classify.command()
def quantize(
    model: ModelFile,
    output: Annotated[Path, typer.Argument(help="The small model, in fastText's form (.ftz).")],
    cutoff: Annotated[int, typer.Option(help="Keep so many words and n-grams; 0 = all.")] = 0,
    dsub: Annotated[int, typer.Option(help="Numbers that share a code.")] = 2,
    qnorm: Annotated[bool, typer.Option("--qnorm", help="Quantise norms apart.")] = False,
    qout: Annotated[bool, typer.Option("--qout", help="Quantise the output, too.")] = False,
) -> None:
    """Make a model small: its rows become codes."""
    check_writable(output)
    with _stoppable():
        _load(model).quantize(cutoff, dsub, qnorm, qout).save_fasttext(output)
    sizes = (f"{path.stat().st_size / 1e6:.2f} MB" for path in (model, output))
    typer.echo(f"{' -> '.join(sizes)}: {output}", err=True)


def _load(path: Path):
    from ptmkernels.models import FastTextClassifier

    return FastTextClassifier.load_fasttext(path)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the command with a message; files that were begun are removed."""
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was saved", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _lines_of(text: str, errors: str) -> Iterator[TextIO]:
    check_errors(errors)
    if text == "-":
        sys.stdin.reconfigure(encoding="utf-8-sig", errors=errors, newline="\n")
        yield sys.stdin
        return
    with (
        open_bytes(text) as file,
        io.TextIOWrapper(file, "utf-8-sig", errors, newline="\n") as lines,
    ):
        yield lines
