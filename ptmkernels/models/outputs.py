"""What the forward of each kind of model returns; names as in Transformers.

Every output is a dictionary of what is there, too, and its values have places, the loss first:
`output.logits`, `output["logits"]`, `output[1]`. As Transformers' outputs, for which its Trainer takes them.
Shapes: B batch, L length, E hidden size, H heads, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound=type)


def output(cls: T) -> T:
    """A dataclass that passes through torch.export and through hooks that look for tensors."""
    cls = dataclass(kw_only=True, eq=False)(cls)
    of_fields = cls.__init__

    def __init__(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), **given: Any
    ) -> None:
        of_fields(self, **dict(values), **given)  # tools that copy an output give a dictionary

    cls.__init__ = __init__
    names = [field.name for field in fields(cls)]
    first = [name for name in names if name == "loss"]
    last = [name for name in names if name in Output.__annotations__] if cls is not Output else []
    cls.order = (*first, *(n for n in names if n not in first + last), *last)
    torch.export.register_dataclass(cls, serialized_type_name=f"ptmkernels.{cls.__name__}")
    return cls


class Output(dict):
    """What every output has.

    Args:
        hidden_states: the embeddings and each layer's output (B, L, E), where asked for.
        attentions: each layer's weights (B, H, L, L), where asked for.
        mems: each layer's memory (B, M, E) for the next segment, where the model has any.

    Attributes:
        order: the names of the values by their places.
    """

    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mems: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for name in self.order:
            value = getattr(self, name)
            if value is not None:
                dict.__setitem__(self, name, value)

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict.__getitem__(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        dict.__setitem__(self, name, value)

    def to_tuple(self) -> tuple:
        """What is there, by its place."""
        return tuple(self.values())


Output = output(Output)


@output
class EncoderOutput(Output):
    """`last_hidden_state` (B, L, E), `pooler_output` (B, E)."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None


@output
class PreTrainingOutput(Output):
    """`prediction_logits` (B, L, V), `seq_relationship_logits` (B, 2), `loss` the sum of both."""

    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    loss: Tensor | None = None


@output
class LogitsOutput(Output):
    """`logits`, and `loss` where labels were given."""

    logits: Tensor
    loss: Tensor | None = None


@output
class CausalLMOutput(Output):
    """`logits` (B, L, V), or where labels are given `losses` (B, L - 1 or L) and `loss`, their mean."""

    logits: Tensor | None = None
    losses: Tensor | None = None
    loss: Tensor | None = None


@output
class QuestionAnsweringOutput(Output):
    """`start_logits` and `end_logits` (B, L), `loss` the mean of both."""

    start_logits: Tensor
    end_logits: Tensor
    loss: Tensor | None = None


@output
class AnswerSpanOutput(Output):
    """The K best first tokens, the K' best last tokens for each, and whether there is no answer.

    Args:
        loss: where positions were given; the others where they were not.
        start_top_log_probs, start_top_index: (B, K) probabilities (the published name says log) and columns.
        end_top_log_probs, end_top_index: (B, K' * K), the last tokens by first token within rank.
        cls_logits: (B,), above 0 = no answer.
    """

    loss: Tensor | None = None
    start_top_log_probs: Tensor | None = None
    start_top_index: Tensor | None = None
    end_top_log_probs: Tensor | None = None
    end_top_index: Tensor | None = None
    cls_logits: Tensor | None = None
