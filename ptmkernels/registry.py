"""Which models there are: cards and presets, filled by the files of :mod:`ptmkernels.models`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from ptmkernels.config import Config, nearest

if TYPE_CHECKING:
    from ptmkernels.models.base import Architecture, Model

__all__ = ["Card", "create_model", "list_models", "model_card", "register", "resolve"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What there is to know of a model.

    Args:
        name: the stem of its presets, "bert".
        family: folder of the survey's taxonomy, "denoising".
        title: as the paper writes it.
        authors, paper, year, link: who wrote the paper, its title, when, and where it is to be found.
        encoder: what turns tokens into vectors, in a few words.
        objective: what it is trained on, in a few words.
        architecture: what builds it; or
        build: for a model that learns from a text of its own, with its vocabulary, what makes it from the
            values of a preset.
        presets: published sizes; each gives the values in which it differs from the defaults.
        aliases: other short names of presets.
    """

    name: str
    family: str
    title: str
    authors: str
    paper: str
    year: int
    link: str
    encoder: str
    objective: str
    architecture: Architecture | None = field(default=None, repr=False)
    build: Callable[..., Any] | None = field(default=None, repr=False)
    presets: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def preset_names(self) -> list[str]:
        """The full names, as :func:`create_model` takes them."""
        return [f"{self.name}-{preset}" for preset in self.presets]

    @property
    def heads(self) -> tuple[str, ...]:
        """The tasks by name; none for a model that learns from a text of its own."""
        return () if self.architecture is None else tuple(self.architecture.heads)

    def values(self, preset: str) -> Mapping[str, Any]:
        """In what a preset, by its full name, differs from the defaults."""
        return self.presets[preset.removeprefix(f"{self.name}-")]

    def config(self, preset: str) -> Config:
        """The configuration of a preset, by its full name."""
        return self.architecture.config(**self.values(preset))

    def num_parameters(self, preset: str) -> int | None:
        """How many weights the bare backbone of a preset has; None where the vocabulary decides."""
        if self.architecture is None:
            return None
        with torch.device("meta"):
            return self.architecture.build("backbone", self.config(preset)).num_parameters()


_CARDS: dict[str, Card] = {}


def register(card: Card) -> None:
    """Make a model known; called by its file.

    Raises:
        ValueError: the name is taken, or it is not clear what builds the model.
    """
    if (card.architecture is None) == (card.build is None):
        raise ValueError(f"exactly one of architecture and build is needed for {card.name!r}")
    if card.name in _CARDS:
        raise ValueError(f"a model named {card.name!r} is registered already")
    _CARDS[card.name] = card


def cards() -> list[Card]:
    """Every card, by family and name."""
    importlib.import_module("ptmkernels.models")
    return sorted(_CARDS.values(), key=lambda card: (card.family, card.year, card.name))


def architectures() -> dict[str, Architecture]:
    """Every architecture by its `model_type`."""
    found = (card.architecture for card in cards())
    return {architecture.model_type: architecture for architecture in found if architecture}


def list_models(pattern: str = "*") -> list[str]:
    """The full names of the presets.

    Args:
        pattern: shell-style, matched against the name and against "family/name": "bert-*", "denoising/*".
    """
    return [
        name
        for card in cards()
        for name in card.preset_names()
        if fnmatchcase(name, pattern) or fnmatchcase(f"{card.family}/{name}", pattern)
    ]


def resolve(model: str, preset: str) -> str:
    """The full name of a preset by its short name: ("bert", "tiny") gives "bert-tiny".

    Raises:
        ValueError: there is no such model or preset; the nearest names are given.
    """
    known = {card.name: card for card in cards()}
    if model not in known:
        raise ValueError(f"unknown model {model!r}; {nearest(model, list(known))}")
    card = known[model]
    preset = card.aliases.get(preset, preset)
    if preset not in card.presets:
        raise ValueError(f"{model} has no preset {preset!r}; {nearest(preset, list(card.presets))}")
    return f"{model}-{preset}"


def _find(name: str) -> tuple[Card, str]:
    """The card and the full name of the preset that is called `name`, perhaps by an alias."""
    full = {}
    for card in cards():
        for preset in (*card.presets, *card.aliases):
            meant = card.aliases.get(preset, preset)
            full[f"{card.name}-{preset}"] = (card, f"{card.name}-{meant}")
    if name not in full:
        raise ValueError(f"unknown model {name!r}; {nearest(name, list(full))}")
    return full[name]


def model_card(name: str) -> Card:
    """The card of a model, or of the model that a preset belongs to.

    Raises:
        ValueError: the name is neither; the nearest names are given.
    """
    known = {card.name: card for card in cards()}
    return known[name] if name in known else _find(name)[0]


def create_model(
    name: str,
    head: str | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Any:
    """A new model with starting weights as its paper gives them.

    A :class:`~ptmkernels.models.base.Model`; for the shallow family an object of its class, such as
    :class:`~ptmkernels.models.Word2Vec`.

    Args:
        name: full name of a preset, such as "bert-base-uncased" (:func:`list_models`).
        head: the task, such as "masked-lm"; None = the bare backbone.
        device, dtype: of the weights; None = torch's defaults.
        overrides: values of the configuration, such as `num_hidden_layers=4`; those without a default,
            such as the `vocab_size` of "nnlm", must be there.

    Raises:
        ValueError: the name, the head or an override is unknown (the nearest names are given), or a value
            cannot be.
    """
    card, preset = _find(name)
    if card.build is not None:
        if (head, device, dtype) != (None, None, None):
            raise ValueError(f"{name} has no head, device or dtype to choose")
        values = {**card.values(preset), **overrides}
        _check_complete(name, card.build, values)
        return card.build(**values)
    config = card.config(preset).replace(**overrides)
    model = empty_model(card.architecture, head or "backbone", config, device, dtype)
    model.initialise()
    return model


def _check_complete(name: str, build: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raises ValueError where a value without a default is missing."""
    given = inspect.signature(build).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in given if p.default is p.empty and p.kind in kinds]
    if missing := [n for n in needed if n not in values]:
        example = ", ".join(f"{n}=…" for n in missing)
        raise ValueError(
            f"{name} needs {' and '.join(missing)}, which no preset can know: "
            f"create_model({name!r}, {example})"
        )


def empty_model(
    architecture: Architecture,
    head: str,
    config: Any,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """A model in training mode whose weights hold anything; nothing is initialised twice.

    Modules that share a parameter share it still, of which `to_empty` would give each its own.

    Raises:
        TypeError: `dtype` is not a floating one of torch's.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is {dtype!r}; expected a floating torch.dtype")
    device = torch.get_default_device() if device is None else device
    with torch.device("meta"):
        model = architecture.build(head, config)
    if dtype is not None:
        model = model.to(dtype)
    names: dict[torch.nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    model = model.to_empty(device=device)
    for first, *others in names.values():
        for owner, _, leaf in (other.rpartition(".") for other in others):
            setattr(model.get_submodule(owner), leaf, model.get_parameter(first))
    return model
