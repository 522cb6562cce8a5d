"""The safetensors files of word vectors: matrices, words and counts, options, and how far training came."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptmkernels.data.word_stream import Vocabulary
from ptmkernels.files import atomic_file


@dataclasses.dataclass(frozen=True)
class State:
    """What a file holds.

    Attributes:
        model: name of the class.
        config: its options.
        progress: numbers of its training, by name.
        tensors: by name.
    """

    model: str
    config: dict[str, Any]
    progress: dict[str, int]
    vocabulary: Vocabulary
    tensors: dict[str, Tensor]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of a name. Raises ValueError where it is not there or has another shape."""
        found = tuple(self.tensors[name].shape) if name in self.tensors else None
        if found != shape:
            raise ValueError(f"tensor {name!r} has shape {found}; expected {shape}")
        return self.tensors[name]


@contextmanager
def damage_named(path: str | os.PathLike) -> Iterator[None]:
    """Whatever does not fit while a file is read becomes a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def write_state(path: str | os.PathLike, state: State) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: it cannot be written, or is no plain file: safetensors would put one in its place.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f"{path} is a folder, a device or a pipe; expected a file")
    words = "\n".join(state.vocabulary.words).encode("utf-8", "surrogateescape")
    tensors = {
        **state.tensors,
        "words": torch.frombuffer(bytearray(words), dtype=torch.uint8),
        "counts": torch.from_numpy(state.vocabulary.counts),
    }
    header = {
        "model": state.model,
        "config": json.dumps(state.config),
        "progress": json.dumps(state.progress),
    }
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from None


def model_of(path: str | os.PathLike) -> str:
    """The name of the class that wrote a file.

    Raises:
        ValueError: it is no safetensors file, or holds no word vectors.
    """
    try:
        with safe_open(path, "pt") as file:
            name = (file.metadata() or {}).get("model")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    if name is None:
        raise ValueError(f"{path} holds no word vectors: its header names no model")
    return name


def read_state(path: str | os.PathLike, model: str) -> State:
    """Read what a model of this name wrote.

    Raises:
        ValueError: the file holds something else, or is damaged.
    """
    found = model_of(path)
    if found != model:
        raise ValueError(f"{path} holds {found!r}; expected {model!r}")
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with damage_named(path):
        text = tensors.pop("words").numpy().tobytes()
        words = text.decode("utf-8", "surrogateescape").split("\n")
        vocabulary = Vocabulary(words, tensors.pop("counts").numpy())
        config, progress = json.loads(header["config"]), json.loads(header["progress"])
        return State(model, config, progress, vocabulary, tensors)
