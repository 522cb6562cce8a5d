"""`ptmkernels convert`: an old pickled checkpoint to safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptmkernels.cli import app


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="A folder with pytorch_model.bin, or one .bin or .pt file.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="The folder to write; that of the source by default.")
    ] = None,
) -> None:
    """Make model.safetensors of pytorch_model.bin, without unpickling anything but tensors."""
    from ptmkernels import conversion

    names = conversion.convert(source, output)
    folder = output or (source if source.is_dir() else source.parent)
    typer.echo(f"{len(names)} tensors written to {folder / 'model.safetensors'}", err=True)
