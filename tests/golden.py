"""Golden data: in shared/golden of the checkout, or of a folder that the checkout lies in."""

from pathlib import Path


def golden(name: str) -> Path:
    """The folder of that name; in the checkout where there is none."""
    folders = [parent / "shared" / "golden" / name for parent in Path(__file__).parents[1:]]
    return next((folder for folder in folders if folder.exists()), folders[0])
