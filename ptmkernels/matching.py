"""Which tensor of a checkpoint is which weight of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptmkernels.checkpoint import CONFIG, FLOATING, Entry
from ptmkernels.models.base import Architecture, Model

__all__ = ["Match", "match_weights", "plain_name"]

# What DataParallel, torch.compile and training scripts put before every name.
WRAPPERS = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Match:
    """What came of a comparison.

    Args:
        found: the entry of each of our parameters that is to be read.
        fresh: our parameters that are not.
        reshaped: those of them that the checkpoint has in another shape, (its shape, ours).
        left: names in the file of the tensors that are not read, tied copies and buffers aside.
        strangers: those of them that are weights of no head.
    """

    found: dict[str, Entry]
    fresh: set[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    left: list[str]
    strangers: list[str]

    def as_loading_info(self, model: Model) -> dict[str, Any]:
        """The same under the names that Transformers gives it."""
        published = model.published_names()
        missing = self.fresh - set(self.reshaped)
        return {
            "missing_keys": sorted(published[name] for name in missing),
            "unexpected_keys": self.left,
            "mismatched_keys": sorted((published[n], *s) for n, s in self.reshaped.items()),
            "error_msgs": [],
        }


def match_weights(model: Model, entries: list[Entry], ignore_shapes: bool) -> Match:
    """The entry of each of our parameters.

    Args:
        model: on any device; its weights are not looked at.
        ignore_shapes: a tensor of another shape is left, and its weight starts fresh.

    Raises:
        ValueError: a tensor of the backbone is missing; one is there twice, or does not fit.
    """
    architecture = model.architecture
    wanted = {architecture.published_name(name): name for name in model.state_dict()}
    found = _by_full_name(entries, architecture, wanted)
    left = sorted(p for p in set(found) - set(wanted) if not architecture.is_redundant(p))
    missing = set(wanted) - set(found)
    backbone, known = set(), set()
    if left or missing:
        of_heads = [architecture.weight_names(h, model.config) for h in architecture.heads]
        backbone, known = set.intersection(*of_heads), set.union(*of_heads)
    _refuse_missing(missing & backbone, entries)
    state = model.state_dict()
    matched = {wanted[p]: found[p] for p in wanted if p in found}
    reshaped = {}
    for name, entry in list(matched.items()):
        shape = tuple(state[name].shape)
        if entry.shape != shape and ignore_shapes:
            reshaped[name] = (entry.shape, shape)
            del matched[name]
        else:
            _check_entry(entry, shape)
    return Match(
        matched,
        set(state) - set(matched),
        reshaped,
        [found[p].name for p in left],
        [found[p].name for p in left if p not in known],
    )


def plain_name(name: str) -> str:
    """A tensor's name without what wrappers put before it, in today's spelling.

    Early checkpoints, made from TensorFlow's, call the two weights of a norm gamma and beta.
    """
    while wrapper := next((w for w in WRAPPERS if name.startswith(w) and name != w), None):
        name = name.removeprefix(wrapper)
    stem, _, last = name.rpartition(".")
    renamed = {"gamma": "weight", "beta": "bias"}.get(last)
    return f"{stem}.{renamed}" if stem and renamed else name


def _by_full_name(
    entries: list[Entry], architecture: Architecture, wanted: Mapping[str, str]
) -> dict[str, Entry]:
    """The entries by the names that they would have beside a head.

    Args:
        wanted: our names of the weights by the published ones; a file may have either, since Transformers'
            Trainer saves a module's weights under its own names.
    """
    prefix = architecture.prefix
    published = {ours: name for name, ours in wanted.items()}
    plain = [plain_name(entry.name) for entry in entries]
    plain = [published.get(name, name) for name in plain]
    bare = not any(name.startswith(prefix) for name in plain)
    found: dict[str, Entry] = {}
    for entry, name in zip(entries, plain, strict=True):
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


def _refuse_missing(missing: set[str], entries: list[Entry]) -> None:
    """Weights that every head has may not be missing: nothing would be left of the model."""
    for name in sorted(missing):
        where = f"{entries[0].path}: " if entries else ""
        raise ValueError(f"{where}tensor {name!r} is missing")


def _check_entry(entry: Entry, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise ValueError(
            f"{entry.path}: tensor {entry.name!r} has shape {entry.shape}; expected {shape} by {CONFIG} "
            "(with ignore_mismatched_sizes=True it starts fresh)"
        )
    if entry.dtype not in FLOATING:
        raise ValueError(
            f"{entry.path}: tensor {entry.name!r} has dtype {entry.dtype}; expected one of "
            f"{', '.join(sorted(FLOATING))}"
        )
