"""The command line: `ptmkernels COMMAND`. Each command has a file of its own here."""

import io
import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated

import typer

from ptmkernels._version import __version__

app = typer.Typer(
    name="ptmkernels",
    help="Fused kernels, modules and models for the classic pre-trained language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ptmkernels {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say it and exit."),
    ] = False,
) -> None:
    """Keeps the sub-command form, however many commands there are."""


def main() -> None:
    """Entry point: errors that a user can mend are one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows another
    try:
        app()
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise SystemExit(1) from None


for _command in iter_modules(__path__):
    import_module(f"{__name__}.{_command.name}")
