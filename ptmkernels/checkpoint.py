"""Weights in safetensors files, one or several with an index, as Hugging Face lays them out.

Nothing is ever unpickled. A file is trusted in nothing: names, shapes and dtypes are compared with the
model's before memory is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptmkernels.files import atomic_files, read_utf8, refuse_lfs_pointer

__all__ = [
    "Entry",
    "plain_names",
    "read_entries",
    "read_json",
    "read_tensors",
    "write_checkpoint",
]

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATING = {"F64", "F32", "F16", "BF16"}
MAX_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: where it is, its shape and its dtype as safetensors names it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it does not hold a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    text = read_utf8(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def read_entries(folder: Path) -> list[Entry]:
    """Every tensor of the checkpoint in a folder, from the headers alone.

    Raises:
        OSError: there are no weights, or a file is missing.
        ValueError: a file is damaged, or only a pickle is there.
    """
    if (folder / SINGLE).is_file():
        return _entries_of(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    entries = []
    weight_map = plain_names(folder / INDEX, (".safetensors",))
    for shard in sorted(set(weight_map.values())):
        entries += _entries_of(folder / shard)
    found = {entry.name: entry.path.name for entry in entries}
    for name, shard in weight_map.items():
        if found.get(name) != shard:
            raise ValueError(
                f"{folder / shard}: tensor {name!r} is missing, which {INDEX} promises"
            )
    return entries


def plain_names(index: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Which file holds each tensor, from an index; plain names, so that none leads out of the folder.

    Raises:
        ValueError: a file is named in any other way, or by another suffix.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map from tensors to files")
    for name, file in weight_map.items():
        plain = isinstance(file, str) and Path(file).name == file and "\\" not in file
        if not plain or not file.endswith(suffixes):
            raise ValueError(
                f"{index} puts tensor {name!r} into {file!r}; expected the name of a "
                f"{' or '.join(suffixes)} file in the same folder"
            )
    return weight_map


def _no_weights(folder: Path) -> Exception:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        return ValueError(
            f"{folder} holds {', '.join(pickles[:3])}, which is a pickle and is never loaded; "
            f"`ptmkernels convert {folder}` makes {SINGLE} of it"
        )
    return FileNotFoundError(f"{folder} holds neither {SINGLE} nor {INDEX}")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    refuse_lfs_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}{_guess(path)}") from None


def _guess(path: Path) -> str:
    start = path.open("rb").read(2)
    return (
        " (it looks like a pickle, which is never loaded)" if start in (b"PK", b"\x80\x02") else ""
    )


def _entries_of(path: Path) -> list[Entry]:
    with _opened(path) as file:
        slices = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118  not a dict
        return [Entry(path, n, tuple(s.get_shape()), s.get_dtype()) for n, s in slices]


def read_tensors(entries: list[Entry]) -> Iterator[tuple[Entry, Tensor]]:
    """The tensors of some entries, file by file, one in memory at a time."""
    for path in dict.fromkeys(entry.path for entry in entries):
        with _opened(path) as file:
            for entry in entries:
                if entry.path == path:
                    yield entry, file.get_tensor(entry.name)


def write_checkpoint(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write model.safetensors (or shards and their index) and config.json, all or nothing.

    Args:
        folder: is made where it does not exist.
        tensors: those that share memory are written one by one.
        config: entries of config.json; None = leave what is there.
        max_shard_bytes: more than this goes into several files.

    Raises:
        OSError: the disk is full, or the folder cannot be written; what was there before stays.
    """
    folder = Path(folder)
    tensors = _unshared(tensors)
    shards = _shards(tensors, max_shard_bytes)
    # Weights of an earlier save in the other form would be read in place of the new ones.
    stale = SINGLE if len(shards) > 1 else INDEX
    with atomic_files(folder, remove=(stale,)) as at:
        for file_name, names in shards.items():
            _save({name: tensors[name] for name in names}, at(file_name), folder / file_name)
        if len(shards) > 1:
            _write_json(at(INDEX), _index(tensors, shards))
        if config is not None:
            _write_json(at(CONFIG), config)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, as safetensors wants it."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        result[name] = tensor if whole and address not in seen else tensor.clone()
        seen.add(address)
    return result


def _save(tensors: dict[str, Tensor], path: Path, final: Path) -> None:
    try:
        save_file({n: t.contiguous() for n, t in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{final} could not be written: {error}") from None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> dict[str, list[str]]:
    """The names of the tensors of each file, filled in order."""
    groups, room = [[]], max_bytes
    for name, tensor in tensors.items():
        if groups[-1] and tensor.nbytes > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(name)
        room -= tensor.nbytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    count = len(groups)
    return {f"model-{i:05}-of-{count:05}.safetensors": g for i, g in enumerate(groups, 1)}


def _index(tensors: Mapping[str, Tensor], shards: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: shard for shard, names in shards.items() for name in names},
    }
