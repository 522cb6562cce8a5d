"""Models from folders and from the Hugging Face hub, and back."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from ptmkernels.checkpoint import (
    CONFIG,
    MAX_SHARD_BYTES,
    read_entries,
    read_json,
    read_tensors,
    write_checkpoint,
)
from ptmkernels.config import nearest
from ptmkernels.files import settle
from ptmkernels.matching import Match, match_weights
from ptmkernels.models.base import Architecture, Model
from ptmkernels.registry import architectures, empty_model

__all__ = ["from_pretrained", "local_folder", "save_pretrained"]

# What a folder of a model may hold that we or a tokeniser read; pickles are not even downloaded.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def from_pretrained(
    source: str | Path,
    head: str | None = None,
    *,
    model_type: str | None = None,
    ignore_mismatched_sizes: bool = False,
    output_loading_info: bool = False,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Model | tuple[Model, dict[str, Any]]:
    """The model in a folder, or on the hub, in evaluation mode.

    Tensors that are no weights of any head are left, with a warning; weights of a head that the file does not
    hold start fresh, with a warning. `module.`, `_orig_mod.` and `model.` before names are what wrappers put
    there, and are left away.

    Args:
        source: a folder with config.json and model.safetensors (or its shards and index), as Transformers
            and :func:`save_pretrained` write it; or a name on the Hugging Face hub.
        head: the task; None = the one that config.json names, or none; "backbone" = none. Heads that are not
            asked for are left.
        model_type: what the model is, such as "bert"; None = as config.json says.
        ignore_mismatched_sizes: weights of another shape in the file, such as a classifier of other labels,
            start fresh, with a warning, instead of an error.
        output_loading_info: also return what happened, as Transformers does: a dictionary with the published
            names of the fresh weights (`missing_keys`), of the tensors that were left (`unexpected_keys`) and
            of those of another shape, with both shapes (`mismatched_keys`).
        revision: branch, tag or commit on the hub.
        device, dtype: of the weights; None = torch's defaults, whatever the file holds.
        overrides: values of the configuration, such as `num_labels=3`.

    Raises:
        OSError: the folder, a file or the hub cannot be reached.
        ValueError: config.json asks for something unknown; a tensor of the backbone is missing; one is there
            twice or of another shape or kind; a file is damaged, a pointer of git-lfs, or a pickle. The
            message names file and tensor.
    """
    folder = local_folder(source, revision)
    settle(folder)
    published = read_json(folder / CONFIG)
    architecture = _architecture(published, model_type, folder / CONFIG)
    saved = _saved_head(published, architecture)
    head = _wanted_head(head, saved, published, architecture, folder / CONFIG)
    try:
        config = architecture.config.from_dict(published).replace(**overrides)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from None
    entries = read_entries(folder)
    with torch.device("meta"):
        skeleton = architecture.build(head, config)
    match = match_weights(skeleton, entries, ignore_mismatched_sizes)
    model = empty_model(architecture, head, config, device, dtype)
    if match.fresh:
        model.initialise(match.fresh)
    _warn(match, folder)
    parameters = model.state_dict()
    names = {entry: name for name, entry in match.found.items()}
    with torch.no_grad():
        for entry, tensor in read_tensors(list(names)):
            parameters[names[entry]].copy_(tensor)
    model.eval()
    return (model, match.as_loading_info(model)) if output_loading_info else model


def _warn(match: Match, folder: Path) -> None:
    """Says what a user may not expect; heads that were not asked for are none of it."""
    said = []
    fresh = match.fresh - set(match.reshaped)
    if fresh:
        said.append(f"has no weights for {', '.join(sorted(fresh))}; they start fresh")
    for name, (was, wanted) in sorted(match.reshaped.items()):
        said.append(f"has {name} of shape {was}; expected {wanted}; it starts fresh")
    if match.strangers:
        said.append(f"has tensors that no head knows, which are left: {', '.join(match.strangers)}")
    for text in said:
        warnings.warn(f"{folder} {text}", stacklevel=3)


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


def _architecture(published: dict[str, Any], given: str | None, path: Path) -> Architecture:
    known = architectures()
    model_type = published.get("model_type") if given is None else given
    if not isinstance(model_type, str) or model_type not in known:
        where = f"{path}: " if given is None else ""
        hint = nearest(str(model_type), list(known))
        if model_type is None:
            hint = f"give the argument model_type, one of {', '.join(known)}"
        raise ValueError(f"{where}model_type is {model_type!r}; {hint}")
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
