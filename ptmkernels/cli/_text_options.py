"""Options that several commands have: what of a file of vectors or of a text is read."""

from __future__ import annotations

from typing import Annotated

import typer

VECTORS = "Word vectors, or a model that has them; .gz and .bz2: compressed."
Limit = Annotated[int | None, typer.Option(help="Read so many words only, the first ones.")]
Errors = Annotated[
    str, typer.Option(help="Of bytes that are not UTF-8: strict (refused), ignore or replace.")
]
