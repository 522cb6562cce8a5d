"""The command line: `ptmkernels COMMAND`. Each command has a file of its own here."""

from importlib import import_module
from pkgutil import iter_modules

import typer

app = typer.Typer(
    name="ptmkernels",
    help="Fused kernels, modules and models for the classic pre-trained language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def options() -> None:
    """Keeps the sub-command form, however many commands there are."""


def main() -> None:
    """Entry point: errors that a user can mend are one line, without a traceback."""
    try:
        app()
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise SystemExit(1) from None


for _command in iter_modules(__path__):
    import_module(f"{__name__}.{_command.name}")
