"""Checkpoints of a run: whole or not there, and enough in them to go on bit by bit.

A checkpoint is a folder `checkpoints/step-00001000` with the model as :func:`ptmkernels.from_pretrained`
reads it, the optimizer's tensors, the states of the random generators, and state.json. It is written beside
its final place, flushed to the disk and renamed, so a run that is killed at any moment leaves the last whole
one. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ptmkernels.checkpoint import read_json
from ptmkernels.data.dataset import Cursor
from ptmkernels.files import flush, flush_tree, share_as

__all__ = ["RunState", "checkpoints_of", "latest_checkpoint", "read_checkpoint", "write_checkpoint"]

FOLDER = "checkpoints"
STATE, OPTIMIZER, RANDOM = "state.json", "optimizer.safetensors", "random.safetensors"
_NAME = re.compile(r"step-(\d{8,})$")


@dataclass(frozen=True)
class RunState:
    """Where a run stands, beside its tensors.

    Args:
        step: updates done.
        cursor: place of the next example of all processes.
        tokens: seen so far, padding not counted.
        num_processes: that wrote the checkpoint.
        config: settings of the run.
        data: what the examples are drawn from, by :meth:`MaskedDataset.fingerprint`.
        scaler: state of the fp16 loss scaler; empty without one.
    """

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    tokens: int = 0
    num_processes: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)


def checkpoints_of(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.match(path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    return next(reversed(checkpoints_of(run)), None)


def write_checkpoint(
    run: Path,
    state: RunState,
    model: nn.Module,
    optimizer: Optimizer,
    random_states: Mapping[str, Tensor],
    *,
    keep: int,
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Write one checkpoint; then remove the oldest beyond `keep`.

    Args:
        run: folder of the run.
        state: where the run stands.
        model: has `save_pretrained`.
        optimizer: of the model's parameters.
        random_states: of the generators, uint8 by name, and what else a process carries from step to step.
        keep: how many checkpoints stay.
        extra: small files beside the model, text by name (the tokenizer's).

    Raises:
        OSError: it could not be written, as on a full disk; earlier ones stay. Names the newest of them.
    """
    folder = run / FOLDER
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        _sweep(folder)
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        tensors, scalars = _optimizer_state(model, optimizer)
        save_file(tensors, temporary / OPTIMIZER)
        save_file(dict(random_states), temporary / RANDOM)
        content = asdict(state) | {"optimizer": scalars}
        for name, text in (extra or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / STATE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        share_as(temporary / STATE, temporary / OPTIMIZER, temporary / RANDOM)
        flush_tree(temporary)
        if final.exists():  # a run that goes on from an older checkpoint comes by again
            shutil.rmtree(final)
        os.replace(temporary, final)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = latest_checkpoint(run)
        kept = f"{last} is kept" if last else "there is no earlier one"
        raise OSError(f"checkpoint {final} could not be written: {error}; {kept}") from None
    for old in checkpoints_of(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def read_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer
) -> tuple[RunState, dict[str, Tensor]]:
    """Put a checkpoint's weights and optimizer state into place.

    Returns:
        Where the run stood, and the states of the generators.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged, or of another model or optimizer; names it.
    """
    from ptmkernels.hub import from_pretrained

    loaded = from_pretrained(path, head=model.head)
    model.load_state_dict(loaded.state_dict())
    content = read_json(path / STATE)
    try:
        scalars = content.pop("optimizer")
        cursor = Cursor(**content.pop("cursor"))
        state = RunState(cursor=cursor, **content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path / STATE} is no state of a run: {error}") from None
    _restore_optimizer(path / OPTIMIZER, _load(path / OPTIMIZER), scalars, model, optimizer)
    return state, _load(path / RANDOM)


def publish(checkpoint: Path, run: Path) -> None:
    """Have the run's own folder show the model of a checkpoint, without a second copy on the disk."""
    for path in checkpoint.iterdir():
        if path.name in (STATE, OPTIMIZER, RANDOM):
            continue
        temporary = run / f".{path.name}.{os.getpid()}.tmp"
        with suppress(FileNotFoundError):
            temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
        os.replace(temporary, run / path.name)


def _sweep(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


def _optimizer_state(
    model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Tensors by "parameter|entry", and what is no tensor by parameter and entry."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, float]] = {}
    for parameter, entries in optimizer.state.items():
        name = names[parameter]
        for entry, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{entry}"] = value.detach().contiguous()
            elif value is not None:
                scalars.setdefault(name, {})[entry] = value
    return tensors, scalars


def _restore_optimizer(
    path: Path,
    tensors: dict[str, Tensor],
    scalars: Mapping[str, Mapping[str, float]],
    model: nn.Module,
    optimizer: Optimizer,
) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    states: dict[str, dict[str, Any]] = {n: dict(entries) for n, entries in scalars.items()}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("|")
        states.setdefault(name, {})[entry] = tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    strangers = set(states) - {names[p] for p in parameters}
    if strangers:
        raise ValueError(f"{path} has state of {min(strangers)!r}, which the model does not train")
    content = optimizer.state_dict()
    content["state"] = {
        index: states[names[parameter]]
        for index, parameter in enumerate(parameters)
        if names[parameter] in states
    }
    optimizer.load_state_dict(content)


def random_states() -> dict[str, Tensor]:
    """The generators that a step draws from: torch's, and the current GPU's."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """The reverse of :func:`random_states`."""
    # Copies: torch misreads a state that does not begin where its storage does.
    torch.set_rng_state(states["cpu"].clone())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].clone())
