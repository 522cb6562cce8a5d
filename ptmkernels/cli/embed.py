"""`ptmkernels embed CORPUS`: word vectors from a text file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptmkernels.cli import app


@app.command()
def embed(
    corpus: Annotated[
        Path, typer.Argument(help="Text in UTF-8, a sentence a line, words by spaces.")
    ],
    model: Annotated[str, typer.Option(help="word2vec, fasttext or glove.")] = "word2vec",
    architecture: Annotated[str, typer.Option(help="skip-gram or cbow.")] = "skip-gram",
    loss: Annotated[
        str, typer.Option(help="negative-sampling or hierarchical-softmax.")
    ] = "negative-sampling",
    dim: Annotated[int, typer.Option(help="Numbers in a vector.")] = 100,
    window: Annotated[int, typer.Option(help="Most words to either side.")] = 5,
    negative: Annotated[int, typer.Option(help="Negatives for each window.")] = 5,
    sample: Annotated[float, typer.Option(help="Sub-sampling threshold; 0 = none.")] = 1e-3,
    min_count: Annotated[int, typer.Option(help="Rarer words are left out.")] = 5,
    epochs: Annotated[int, typer.Option(help="Passes over the text.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda (not glove).")] = "cpu",
    output: Annotated[Path, typer.Option(help="Vectors: .txt, .bin or .safetensors.")] = Path(
        "vectors.txt"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on where Ctrl-C stopped.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw a map of the words.")] = None,
) -> None:
    """Train word vectors. Ctrl-C saves what there is; the same command with --resume goes on."""
    from ptmkernels.models import FastText, GloVe, Word2Vec

    common = {"vector_size": dim, "window": window, "min_count": min_count, "seed": seed}
    state = output.with_name(output.name + ".state.safetensors")
    if model == "glove":
        if resume:
            raise ValueError("--resume: glove counts first and trains in memory; it starts anew")
        if device != "cpu":
            raise ValueError(f"--device is {device!r}; glove trains on cpu only")
        trained = GloVe(**common)
    elif model in ("word2vec", "fasttext"):
        kind = FastText if model == "fasttext" else Word2Vec
        options = {
            "architecture": architecture,
            "loss": loss,
            "negative": negative,
            "sample": sample,
        }
        trained = kind.load(state) if resume else kind(**common, **options)
    else:
        raise ValueError(f"--model is {model!r}; expected word2vec, fasttext or glove")
    _fit(trained, corpus, state, epochs, threads, device)
    _write(trained, output)
    state.unlink(missing_ok=True)
    if plot:
        trained.wv.plot(plot)
    typer.echo(f"{len(trained.wv)} vectors of {dim} numbers: {output}")


def _fit(model, corpus: Path, state: Path, epochs: int, threads: int, device: str) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ptmkernels.models import GloVe

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[news]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, transient=False) as bar:
        task = bar.add_task("training", total=None, news="")
        if isinstance(model, GloVe):

            def seen(done: int, total: int, loss: float) -> None:
                bar.update(task, completed=done, total=total, news=f"loss {loss:.4f}")

            model.fit(corpus, epochs=epochs, threads=threads, progress=seen)
            return

        def report(p) -> None:
            news = f"{p.words_per_second / 1e3:.0f} k words/s, loss {p.loss:.4f}"
            bar.update(task, completed=p.done, total=p.total, news=news)

        try:
            model.fit(corpus, epochs=epochs, threads=threads, device=device, progress=report)
        except KeyboardInterrupt:
            if model.vocabulary is None:
                raise
            model.save(state)
            bar.stop()
            typer.echo(f"stopped; saved to {state}: the same command with --resume goes on")
            raise typer.Exit(130) from None


def _write(model, output: Path) -> None:
    if output.suffix == ".safetensors":
        if not hasattr(model, "save"):
            raise ValueError(f"--output is {output}; glove vectors are written as .txt or .bin")
        model.save(output)
    elif output.suffix == ".bin" and hasattr(model, "save_fasttext"):
        model.save_fasttext(output)
    else:
        model.wv.save_word2vec(output, binary=output.suffix == ".bin")
