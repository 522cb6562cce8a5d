"""Models from folders and from the Hugging Face hub, and back."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from ptmkernels.checkpoint import (
    CONFIG,
    FLOATING,
    INDEX,
    MAX_SHARD_BYTES,
    SINGLE,
    Entry,
    read_entries,
    read_json,
    read_tensors,
    write_checkpoint,
)
from ptmkernels.config import Config, nearest
from ptmkernels.files import settle
from ptmkernels.models.base import Architecture, Model
from ptmkernels.registry import architectures, empty_model

__all__ = ["from_pretrained", "local_folder", "save_pretrained"]

# What a folder of a model may hold that we or a tokeniser read; pickles are not even downloaded.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def from_pretrained(
    source: str | Path,
    head: str | None = None,
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Model:
    """The model in a folder, or on the hub, in evaluation mode.

    Args:
        source: a folder with config.json and model.safetensors (or its shards and index), as Transformers
            and :func:`save_pretrained` write it; or a name on the Hugging Face hub.
        head: the task; None = the one that config.json names; "backbone" = none. Weights of a head that the
            checkpoint was not saved with start fresh, with a warning; heads that are not asked for are left.
        revision: branch, tag or commit on the hub.
        device, dtype: of the weights; None = torch's defaults, whatever the file holds.
        overrides: values of the configuration, such as `num_labels=3`.

    Raises:
        OSError: the folder, a file or the hub cannot be reached.
        ValueError: config.json asks for something unknown; a tensor is missing, unexpected or of another
            shape or kind; a file is damaged; only a pickle is there. The message names file and tensor.
    """
    folder = local_folder(source, revision)
    settle(folder)
    published = read_json(folder / CONFIG)
    architecture = _architecture(published, folder / CONFIG)
    saved = _saved_head(published, architecture)
    head = _wanted_head(head, saved, published, architecture, folder / CONFIG)
    try:
        config = architecture.config.from_dict(published).replace(**overrides)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from None
    entries = read_entries(folder)
    with torch.device("meta"):
        skeleton = architecture.build(head, config)
    matched = _match(skeleton, entries, saved or head, folder)
    model = empty_model(architecture, head, config, device, dtype)
    parameters = model.state_dict()
    fresh = set(parameters) - set(matched)
    if fresh:
        model.initialise(fresh)
        warnings.warn(
            f"{folder} has no weights for {', '.join(sorted(fresh))}; they start fresh",
            stacklevel=2,
        )
    names = {entry: name for name, entry in matched.items()}
    with torch.no_grad():
        for entry, tensor in read_tensors(list(names)):
            parameters[names[entry]].copy_(tensor)
    return model.eval()


def save_pretrained(
    model: Model, folder: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write config.json and model.safetensors under published names; Transformers reads them.

    Args:
        model: any model of the zoo.
        folder: is made where it does not exist; its files are replaced together, or not at all.
        max_shard_bytes: more than this goes into several files with an index.

    Raises:
        OSError: the disk is full, or the folder cannot be written; what was there before stays.
    """
    config = model.config.to_dict() | {
        "architectures": [model.architecture.heads[model.head].published],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    write_checkpoint(folder, model.published_weights(), config, max_shard_bytes)


def local_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder itself, or the one that the hub's files were put into."""
    path = Path(source)
    if path.is_dir():
        return path
    text = os.fspath(source)
    if path.exists():
        raise NotADirectoryError(f"{path} is a file; expected the folder with {CONFIG} in it")
    if (
        isinstance(source, Path)
        or path.is_absolute()
        or text[:1] in (".", "~")
        or text.count("/") > 1
    ):
        raise FileNotFoundError(f"{path} does not exist")
    return _download(text, revision)


def _download(name: str, revision: str | None) -> Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=HUB_FILES
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"{name!r} is no folder here and could not be had from the Hugging Face hub: {error}"
        ) from None
    return Path(folder)


def _architecture(published: dict[str, Any], path: Path) -> Architecture:
    known = architectures()
    model_type = published.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        hint = nearest(str(model_type), list(known))
        raise ValueError(f"{path}: model_type is {model_type!r}; {hint}")
    return known[model_type]


def _published_architectures(published: dict[str, Any]) -> list[str]:
    names = published.get("architectures")
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def _saved_head(published: dict[str, Any], architecture: Architecture) -> str | None:
    """The head that the checkpoint was saved with, or None where it does not say, or names a stranger."""
    heads = map(architecture.head_of, _published_architectures(published))
    return next((head for head in heads if head is not None), None)


def _wanted_head(
    head: str | None, saved: str | None, published: dict, architecture: Architecture, path: Path
) -> str:
    if head is not None:
        architecture.head(head)
        return head
    named = _published_architectures(published)
    if saved is None and named:
        raise ValueError(
            f"{path}: architectures is {named}; expected one of "
            f"{', '.join(h.published for h in architecture.heads.values())}, or say which `head` to build"
        )
    return saved or "backbone"


def _match(model: Model, entries: list[Entry], saved_head: str, folder: Path) -> dict[str, Entry]:
    """The entry of each of our parameters; those that a new head starts fresh have none.

    Raises:
        ValueError: a tensor is missing, unexpected, there twice, or does not fit.
    """
    architecture = model.architecture
    wanted = {architecture.published_name(name): name for name in model.state_dict()}
    found = _by_full_name(entries, architecture, set(wanted))
    saved = architecture.weight_names(saved_head, model.config)
    where = folder / (SINGLE if (folder / SINGLE).is_file() else INDEX)
    for published in wanted:
        if published in saved and published not in found:
            raise ValueError(f"{where}: tensor {published!r} is missing")
    _refuse_strangers(found, set(wanted) | saved, architecture, model.config)
    state = model.state_dict()
    matched = {wanted[p]: found[p] for p in wanted if p in found}
    for name, entry in matched.items():
        _check_entry(entry, tuple(state[name].shape))
    return matched


def _by_full_name(
    entries: list[Entry], architecture: Architecture, wanted: set[str]
) -> dict[str, Entry]:
    """The entries by the names that they would have beside a head, in today's spelling."""
    prefix = architecture.prefix
    bare = not any(entry.name.startswith(prefix) for entry in entries)
    found: dict[str, Entry] = {}
    for entry in entries:
        name = modern_name(entry.name)
        if bare and name not in wanted:
            name = prefix + name
        if name in found:
            raise ValueError(
                f"{entry.path}: tensors {found[name].name!r} and {entry.name!r} are the same weight"
            )
        found[name] = entry
    for second, first in architecture.aliases.items():
        if second in found:
            found[first] = found.pop(second)
    return found


def modern_name(name: str) -> str:
    """Early checkpoints, made from TensorFlow's, call the two weights of a norm gamma and beta."""
    stem, _, last = name.rpartition(".")
    renamed = {"gamma": "weight", "beta": "bias"}.get(last)
    return f"{stem}.{renamed}" if stem and renamed else name


def _refuse_strangers(
    found: dict[str, Entry], known: set[str], architecture: Architecture, config: Config
) -> None:
    """Tensors of other heads, and tied copies, are left alone; any other is an error."""
    strangers = {name for name in set(found) - known if not architecture.is_redundant(name)}
    if strangers:
        strangers -= {
            name for head in architecture.heads for name in architecture.weight_names(head, config)
        }
    if strangers:
        entry = found[min(strangers)]
        raise ValueError(f"{entry.path}: unexpected tensor {entry.name!r}")


def _check_entry(entry: Entry, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise ValueError(
            f"{entry.path}: tensor {entry.name!r} has shape {entry.shape}; expected {shape} by {CONFIG}"
        )
    if entry.dtype not in FLOATING:
        raise ValueError(
            f"{entry.path}: tensor {entry.name!r} has dtype {entry.dtype}; expected one of "
            f"{', '.join(sorted(FLOATING))}"
        )
