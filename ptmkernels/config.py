"""Model configurations: dataclasses whose fields bear the names of Transformers' config.json."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["Config", "choice", "dropout", "positive", "size"]

Self = TypeVar("Self", bound="Config")


def _checked(default: Any, test: Callable[[Any], bool], expected: str) -> Any:
    return field(default=default, metadata={"check": (test, expected)})


def size(default: int, least: int = 1, most: int = 2**24) -> Any:
    """A field that counts something: an integer from `least` to `most`."""
    return _checked(default, lambda n: least <= n <= most, f"an integer from {least} to {most}")


def positive(default: float) -> Any:
    """A field for a finite number above zero."""
    return _checked(default, lambda x: 0 < x < math.inf, "a finite number > 0")


def dropout(default: float | None) -> Any:
    """A field for a dropout probability."""
    return _checked(default, lambda p: 0.0 <= p <= 1.0, "a probability p, 0 <= p <= 1")


def choice(default: str | None, names: Mapping[str, Any] | tuple[str, ...]) -> Any:
    """A field for one of a few names."""
    return _checked(default, lambda name: name in names, f"one of {', '.join(names)}")


@dataclass(kw_only=True)
class Config:
    """What every model has: labels for its task heads, and how its weights start.

    Subclasses add the fields of their architecture and set `model_type`. `extra` keeps entries of a
    config.json that mean nothing here, so that saving gives them back.

    Raises:
        ValueError, TypeError: a field has a value that it cannot have; the message names it.
    """

    model_type: ClassVar[str]
    # What Transformers' Trainer does not gather in an evaluation.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["mems"]
    # Entries of a config.json that change what a model computes, with the only value that we can serve.
    only: ClassVar[Mapping[str, Any]] = {}

    initializer_range: float = positive(0.02)
    tie_word_embeddings: bool = True
    num_labels: int = size(2)
    id2label: dict[int, str] | None = None
    problem_type: str | None = choice(
        None, ("regression", "single_label_classification", "multi_label_classification")
    )
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            value = _typed(entry.name, getattr(self, entry.name), kinds[entry.name])
            setattr(self, entry.name, value)
            test, expected = entry.metadata.get("check", (None, ""))
            if test is not None and value is not None and not test(value):
                raise ValueError(f"{entry.name} is {value!r}; expected {expected}")
        self.validate()

    def validate(self) -> None:
        """Checks between fields; subclasses add theirs."""
        if self.id2label is not None and len(self.id2label) != self.num_labels:
            raise ValueError(
                f"id2label names {len(self.id2label)} labels; expected num_labels = {self.num_labels}"
            )

    @classmethod
    def names(cls) -> list[str]:
        """The fields that a caller may set."""
        return [f.name for f in dataclasses.fields(cls) if f.name != "extra"]

    def replace(self: Self, **overrides: Any) -> Self:
        """A copy with other values.

        Raises:
            ValueError: an override is no field of this configuration; the nearest names are given.
        """
        for name in overrides:
            if name not in self.names():
                raise ValueError(f"unknown override {name!r}; {nearest(name, self.names())}")
        if "num_labels" in overrides and "id2label" not in overrides:
            overrides["id2label"] = None
        elif overrides.get("id2label") is not None:
            overrides.setdefault("num_labels", len(overrides["id2label"]))
        return dataclasses.replace(self, **overrides)

    @classmethod
    def from_dict(cls: type[Self], published: Mapping[str, Any]) -> Self:
        """From the entries of a config.json.

        Raises:
            ValueError: an entry asks for something that this architecture does not have here.
        """
        for name, value in cls.only.items():
            if published.get(name, value) not in (value, None):
                raise ValueError(f"{name} is {published[name]!r}; only {value!r} is supported")
        known = {n: published[n] for n in cls.names() if n in published}
        labels = known.get("id2label")
        if isinstance(labels, Mapping):
            labels = _labels(labels)
            known["id2label"] = None if labels == _default_labels(len(labels)) else labels
            known["num_labels"] = len(labels)
        extra = {n: v for n, v in published.items() if n not in known and n not in _DERIVED}
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The entries of a config.json."""
        values = {name: getattr(self, name) for name in self.names()}
        del values["num_labels"]  # id2label says it
        labels = self.id2label or _default_labels(self.num_labels)
        values["id2label"] = {str(i): label for i, label in labels.items()}
        values["label2id"] = {label: i for i, label in labels.items()}
        return {**self.extra, **values, "model_type": self.model_type}


_DERIVED = ("label2id", "model_type", "architectures", "torch_dtype", "dtype", "_name_or_path")


def nearest(name: str, valid: list[str]) -> str:
    """A word on what was perhaps meant."""
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"expected one of {', '.join(valid)}"


def _default_labels(count: int) -> dict[int, str]:
    return {i: f"LABEL_{i}" for i in range(count)}


def _labels(labels: Mapping[Any, Any]) -> dict[int, str]:
    try:
        return {int(i): str(label) for i, label in labels.items()}
    except ValueError:
        raise ValueError(
            f"id2label has the keys {list(labels)[:5]}; expected whole numbers"
        ) from None


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value`, checked against the annotation; a whole number may stand for a float."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    plain = tuple(get_origin(k) or k for k in kinds)
    if float in plain and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and bool not in plain:
        raise TypeError(f"{name} is {value!r}; expected {_kind_name(plain)}")
    if not isinstance(value, plain):
        raise TypeError(
            f"{name} is {value!r} ({type(value).__name__}); expected {_kind_name(plain)}"
        )
    return value


def _kind_name(kinds: tuple) -> str:
    return " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
