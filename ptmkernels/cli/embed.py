"""`ptmkernels embed CORPUS`: word vectors from a text file."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ptmkernels.cli import app
from ptmkernels.cli._text_options import Errors
from ptmkernels.compressed import compression
from ptmkernels.files import check_writable
from ptmkernels.interrupts import sigterm_interrupts


@app.command()
def embed(
    corpus: Annotated[
        Path,
        typer.Argument(
            help="Text in UTF-8, a sentence a line, words by spaces; .gz and .bz2: compressed."
        ),
    ],
    model: Annotated[str, typer.Option(help="word2vec, fasttext or glove.")] = "word2vec",
    architecture: Annotated[str, typer.Option(help="skip-gram or cbow (not glove).")] = "skip-gram",
    loss: Annotated[
        str, typer.Option(help="negative-sampling or hierarchical-softmax (not glove).")
    ] = "negative-sampling",
    dim: Annotated[int, typer.Option(help="Numbers in a vector.")] = 100,
    window: Annotated[
        int | None, typer.Option(help="Most words to either side; default 5, glove 15.")
    ] = None,
    negative: Annotated[int, typer.Option(help="Negatives for each window.")] = 5,
    sample: Annotated[
        float | None,
        typer.Option(help="Sub-sampling threshold, 0 = none; default 1e-3, fasttext 1e-4."),
    ] = None,
    min_count: Annotated[int, typer.Option(help="Rarer words are left out.")] = 5,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the text; default 5, glove 25.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    initial_range: Annotated[
        float | None,
        typer.Option(help="Rows start in +- this / dim (not glove); default 1.5."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda (not glove).")] = "cpu",
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            help="With cuda: stretches of text trained at once; default: what keeps quality."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            help="Vectors: .txt, .bin (fasttext: its own form), .txt.gz, .bin.bz2, or .safetensors."
        ),
    ] = Path("vectors.txt"),
    errors: Errors = "strict",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it was stopped.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw a map of the words.")] = None,
) -> None:
    """Train word vectors. Ctrl-C or SIGTERM saves what there is; the same command with --resume goes on."""
    options = {"vector_size": dim, "window": window, "min_count": min_count, "seed": seed}
    if model == "glove":
        if device != "cpu":
            raise ValueError(f"--device is {device!r}; glove trains on cpu only")
        if max_in_flight is not None:
            raise ValueError(f"--max-in-flight is {max_in_flight}; glove trains on cpu only")
    else:
        options |= {"architecture": architecture, "loss": loss}
        options |= {"negative": negative, "sample": sample, "initial_range": initial_range}
    if output.is_dir():
        raise ValueError(f"--output is {output}, a folder; expected a file")
    if model == "fasttext" and _kind(output) == ".bin" and compression(output):
        raise ValueError(f"--output is {output}; fastText's own form is not compressed")
    state = _state_of(output)
    trained = _model(model, {k: v for k, v in options.items() if v is not None}, state, resume)
    fit_options = {"threads": threads, "errors": errors}
    if epochs is not None:
        fit_options["epochs"] = epochs
    if model != "glove":
        fit_options |= {"device": device, "max_in_flight": max_in_flight}
    for path in filter(None, (output, state, plot)):
        check_writable(path)  # before the hours of training
    with sigterm_interrupts():
        _fit(trained, corpus, output, fit_options)
        _save(trained, output)
    state.unlink(missing_ok=True)
    if plot:
        trained.wv.plot(plot)
    typer.echo(f"{len(trained.wv)} vectors of {dim} numbers: {output}")


def _model(name: str, options: dict, state: Path, resume: bool):
    """A new model, or the one whose training goes on."""
    from ptmkernels.models import FastText, GloVe, Word2Vec

    kinds = {"word2vec": Word2Vec, "fasttext": FastText, "glove": GloVe}
    if name not in kinds:
        raise ValueError(f"--model is {name!r}; expected word2vec, fasttext or glove")
    asked = kinds[name](**options)
    if not resume:
        return asked
    if not state.exists():
        raise ValueError(f"--resume: there is no {state}; training was not stopped, or it is done")
    found = kinds[name].load(state)
    for field in dataclasses.fields(asked.config):
        mine, other = (getattr(m.config, field.name) for m in (asked, found))
        if mine != other:
            raise ValueError(
                f"--resume: {field.name} is {mine!r}, but {state} was trained with {other!r}"
            )
    return found


def _state_of(output: Path) -> Path:
    return output.with_name(output.name + ".state.safetensors")


def _keep_state(model, output: Path) -> str:
    """Save the training beside the output or where else there is room; says where, and how to go on."""
    folders = dict.fromkeys((output.parent, Path.cwd(), Path(tempfile.gettempdir()), Path.home()))
    for folder in folders:
        place = folder / output.name
        try:
            model.save(_state_of(place))
        except (OSError, ValueError):  # no room here, either
            continue
        same = "the same command" if place == output else f"the same command with --output {place}"
        joint = " with" if place == output else " and"
        return f"saved to {_state_of(place)}: {same}{joint} --resume goes on"
    return f"the training could not be saved in any of {', '.join(map(str, folders))}"


def _fit(model, corpus: Path, output: Path, options: dict) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[news]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task("training", total=None, news="")

        def report(p) -> None:
            news = f"{p.words_per_second / 1e3:.0f} k {p.unit}/s, loss {p.loss:.4f}"
            bar.update(task, completed=p.done, total=p.total, news=news)

        try:
            model.fit(corpus, progress=report, **options)
        except KeyboardInterrupt:
            bar.stop()
            if model.done == 0:
                typer.echo("stopped before training began; nothing to save", err=True)
            else:
                typer.echo(f"stopped; {_keep_state(model, output)}", err=True)
            raise typer.Exit(130) from None


def _save(model, output: Path) -> None:
    """Write the vectors or, where that fails or is stopped, the state."""
    try:
        _write(model, output)
    except OSError as error:
        raise OSError(f"{error}; {_keep_state(model, output)}") from None
    except KeyboardInterrupt:
        typer.echo(f"stopped; {_keep_state(model, output)}", err=True)
        raise typer.Exit(130) from None


def _write(model, output: Path) -> None:
    if output.suffix == ".safetensors":
        model.save(output)
    elif output.suffix == ".bin" and hasattr(model, "save_fasttext"):
        model.save_fasttext(output)
    else:
        model.wv.save_word2vec(output, binary=_kind(output) == ".bin")


def _kind(output: Path) -> str:
    """The ending of a name, that of a compression aside."""
    return Path(output.name.removesuffix(compression(output))).suffix
