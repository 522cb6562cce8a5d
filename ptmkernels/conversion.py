"""Old pickled checkpoints to safetensors, by torch's weights-only reader and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptmkernels.checkpoint import CONFIG, PICKLES, plain_names, read_json, write_checkpoint
from ptmkernels.files import refuse_lfs_pointer
from ptmkernels.matching import plain_name
from ptmkernels.registry import architectures

__all__ = ["convert"]

BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # keys under which training scripts put the weights
BESIDE = (".json", ".txt", ".model")  # configuration and tokeniser files go along


def convert(source: str | Path, output: str | Path | None = None) -> list[str]:
    """Write model.safetensors for a folder with pytorch_model.bin, or for one pickled file.

    Names take today's spelling: nothing before them that wrappers put there (`module.`, `_orig_mod.`,
    `model.`), norms have weight and bias in place of gamma and beta. Tied copies that the model makes itself
    are left out.

    Args:
        source: the folder, or the file.
        output: the folder to write; None = the folder of the source.

    Returns:
        The names of the tensors written.

    Raises:
        OSError: there is no such file, or the disk is full.
        ValueError: a file holds more than tensors, or damaged ones; it is not unpickled then.
    """
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    output = folder if output is None else Path(output)
    tensors: dict[str, Tensor] = {}
    for path in _pickles(source):
        for name, tensor in _read(path).items():
            name = plain_name(name)
            if name in tensors:
                raise ValueError(f"{path}: tensor {name!r} is there twice")
            tensors[name] = tensor
    if not tensors:
        raise ValueError(f"{source} holds no tensors")
    _drop_redundant(tensors, folder / CONFIG)
    write_checkpoint(output, tensors)
    if output.resolve() != folder.resolve():
        _copy_beside(folder, output)
    return list(tensors)


def _pickles(source: Path) -> list[Path]:
    """The files to read: the one named, or those of the folder."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"{source} does not exist")
    if (source / BIN_INDEX).is_file():
        shards = plain_names(source / BIN_INDEX, PICKLES).values()
        return [source / name for name in sorted(set(shards))]
    if (source / BIN).is_file():
        return [source / BIN]
    found = sorted(path for path in source.iterdir() if path.suffix in PICKLES)
    if len(found) != 1:
        raise FileNotFoundError(
            f"{source} holds neither {BIN} nor one other file of {', '.join(PICKLES)}; "
            "name the file to convert"
        )
    return found


def _read(path: Path) -> Mapping[str, Tensor]:
    """The named tensors of one file.

    `weights_only` builds tensors and plain containers; anything else in the pickle is refused by torch.
    """
    refuse_lfs_pointer(path)
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file makes the reader fail in any way
            reason = str(error).strip().split("\n")[0][:200]
            raise ValueError(
                f"{path} is damaged, or holds more than tensors, which is never unpickled: {reason}"
            ) from None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected tensors by name")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {name!r} is a {type(value).__name__}; expected a tensor")
    return content


def _drop_redundant(tensors: dict[str, Tensor], path: Path) -> None:
    """Leave out what the model ties or makes itself, where config.json says which model it is."""
    if not path.is_file():
        return
    published: dict[str, Any] = read_json(path)
    architecture = architectures().get(str(published.get("model_type")))
    if architecture is None:
        return
    config = architecture.config.from_dict(published)
    weights = {n for head in architecture.heads for n in architecture.weight_names(head, config)}
    for name in tensors.keys() - weights:
        if architecture.is_redundant(name):
            del tensors[name]


def _copy_beside(folder: Path, output: Path) -> None:
    for path in folder.iterdir():
        if path.suffix in BESIDE and path.is_file() and not path.name.endswith(".index.json"):
            shutil.copyfile(path, output / path.name)
