"""Tasks on a bidirectional encoder: language modelling, classification, tagging, question answering.

Every forward takes the arguments of :meth:`ptmkernels.backbones.encoder.Encoder.forward` and labels, and
computes losses as Transformers does: means over the labels that are not -100. Heads run on the tokens as
they lay in the layers; logits at padded positions are those of a zero state.
Arguments with "label" in their names that hold no labels are taken from the keywords: Transformers' Trainer
reads the names of the labels from the signature.
Shapes: B batch, L length, E hidden size, V vocabulary, C labels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptmkernels.backbones.encoder import Encoded
from ptmkernels.backbones.linear import Linear, linear
from ptmkernels.backbones.transformer import ACTIVATIONS
from ptmkernels.config import Config
from ptmkernels.models.base import Architecture, Model
from ptmkernels.models.outputs import (
    EncoderOutput,
    LogitsOutput,
    PreTrainingOutput,
    QuestionAnsweringOutput,
)

IGNORED = -100  # a label that takes no part in the loss


class LanguageModelHead(nn.Module):
    """decoder(norm(activation(dense(h)))) + bias; the decoder is the token embedding where it is tied."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, width)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder = None
        if not config.tie_word_embeddings:
            self.decoder = Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(..., E) and the token embedding (V, width) to logits (..., V)."""
        hidden = self.norm(self.activation(self.dense(hidden)))
        weight = embedding if self.decoder is None else self.decoder.weight
        return linear(hidden, weight, self.bias)


class EncoderModel(Model):
    """The bare encoder."""

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, **inputs: Any
    ) -> EncoderOutput:
        """Returns `last_hidden_state` (B, L, E), zeros at padded positions, and `pooler_output` (B, E)."""
        encoded = self.backbone(input_ids, attention_mask, token_type_ids, **inputs)
        return EncoderOutput(
            last_hidden_state=encoded.layout.scatter(encoded.hidden),
            pooler_output=encoded.pooled,
            **kept(encoded),
        )


class MaskedLM(Model):
    """Predict the masked tokens."""

    with_pooler = False

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.lm_head = LanguageModelHead(config, self.backbone.embeddings.tokens.embedding_dim)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> LogitsOutput:
        """
        Args:
            labels: (B, L) token ids; -100 = not predicted.
            labelled_only: compute the vocabulary projection where there is a label only, which saves most
                of it in training; `logits` are (N, V) then, N labels row by row.

        Returns:
            `logits` (B, L, V) and `loss`.
        """
        labelled_only = inputs.pop("labelled_only", False)
        encoded = self.backbone(
            input_ids, attention_mask, token_type_ids, needed=_labelled(labels), **inputs
        )
        logits, loss = self._predict(encoded, labels, labelled_only)
        return LogitsOutput(logits=logits, loss=loss, **kept(encoded))

    def _predict(
        self, encoded: Encoded, labels: Tensor | None, labelled_only: bool
    ) -> tuple[Tensor, Tensor | None]:
        embedding = self.backbone.embeddings.tokens.weight
        if labels is None:
            if labelled_only:
                raise ValueError("labels is None; labelled_only needs labels")
            return encoded.layout.scatter(self.lm_head(encoded.hidden, embedding)), None
        labels = encoded.layout.gather(labels)
        if labelled_only:
            chosen = labels != IGNORED
            logits = self.lm_head(encoded.hidden[chosen], embedding)
            return logits, F.cross_entropy(logits, labels[chosen])
        logits = self.lm_head(encoded.hidden, embedding)
        return encoded.layout.scatter(logits), cross_entropy(logits, labels)


class PreTraining(MaskedLM):
    """BERT's pre-training: masked tokens and next sentence."""

    with_pooler = True

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.next_sentence = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        **inputs: Any,
    ) -> PreTrainingOutput:
        """
        Args:
            labels: (B, L) token ids; -100 = not predicted.
            next_sentence_label: (B,), 0 = the second segment follows the first, 1 = it does not.
            labelled_only: as in :meth:`MaskedLM.forward`.

        Returns:
            Both logits; `loss`, the sum, where both labels are given.
        """
        labelled_only = inputs.pop("labelled_only", False)
        encoded = self.backbone(
            input_ids, attention_mask, token_type_ids, needed=_labelled(labels), **inputs
        )
        logits, loss = self._predict(encoded, labels, labelled_only)
        relation = self.next_sentence(encoded.pooled)
        if loss is not None and next_sentence_label is not None:
            loss = loss + cross_entropy(relation, next_sentence_label)
        else:
            loss = None
        return PreTrainingOutput(
            loss=loss,
            prediction_logits=logits,
            seq_relationship_logits=relation,
            **kept(encoded),
        )


class NextSentence(Model):
    """Does the second segment follow the first?"""

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.next_sentence = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> LogitsOutput:
        """`labels` (B,), 0 = it follows. Returns `logits` (B, 2) and `loss`."""
        encoded = self.backbone(input_ids, attention_mask, token_type_ids, **inputs)
        logits = self.next_sentence(encoded.pooled)
        return LogitsOutput(logits=logits, loss=cross_entropy(logits, labels), **kept(encoded))


class SequenceClassification(Model):
    """One label, several labels, or a number for each text."""

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> LogitsOutput:
        """
        Args:
            labels: (B,) classes; (B, C) floats 0..1 for several labels at once; (B,) or (B, C) floats for a
                regression. `config.problem_type` says which; None = by C and the dtype of the labels.

        Returns:
            `logits` (B, C) and `loss`: cross-entropy, binary cross-entropy, or squared error.
        """
        encoded = self.backbone(input_ids, attention_mask, token_type_ids, **inputs)
        logits = self.classifier(self.dropout(encoded.pooled))
        return LogitsOutput(
            logits=logits, loss=sequence_loss(self.config, logits, labels), **kept(encoded)
        )


class MultipleChoice(Model):
    """Which of several texts is right?"""

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = Linear(config.hidden_size, 1)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> LogitsOutput:
        """Inputs are (B, choices, L); `labels` (B,), the right choice. Returns `logits` (B, choices)."""
        choices = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
        given = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        *ids, embeds = (None if values is None else values.flatten(0, 1) for values in given)
        inputs = {
            name: value.flatten(0, 1) if isinstance(value, Tensor) and value.dim() > 2 else value
            for name, value in inputs.items()
        }
        encoded = self.backbone(*ids, inputs_embeds=embeds, **inputs)
        logits = self.classifier(self.dropout(encoded.pooled)).view(-1, choices)
        return LogitsOutput(logits=logits, loss=cross_entropy(logits, labels), **kept(encoded))


class TokenClassification(Model):
    """A label for each token."""

    with_pooler = False

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.tagger = Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> LogitsOutput:
        """`labels` (B, L), -100 = none. Returns `logits` (B, L, C) and `loss`."""
        encoded = self.backbone(
            input_ids, attention_mask, token_type_ids, needed=_labelled(labels), **inputs
        )
        logits = self.tagger(self.dropout(encoded.hidden))
        labels = None if labels is None else encoded.layout.gather(labels)
        loss = cross_entropy(logits, labels)
        return LogitsOutput(logits=encoded.layout.scatter(logits), loss=loss, **kept(encoded))


class QuestionAnswering(Model):
    """The first and the last token of the answer."""

    with_pooler = False

    def __init__(self, config: Config, architecture: Architecture) -> None:
        if config.num_labels != 2:
            raise ValueError(
                f"num_labels is {config.num_labels}; question answering has 2, the first and last token"
            )
        super().__init__(config, architecture)
        self.span = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **inputs: Any,
    ) -> QuestionAnsweringOutput:
        """
        The published loss is a softmax over all L columns, padded ones too, so those are computed as well.

        Args:
            start_positions, end_positions: (B,) columns; L or beyond = no part in the loss.

        Returns:
            `start_logits`, `end_logits` (B, L) and `loss`, the mean of both.
        """
        tokens = input_ids if input_ids is not None else inputs["inputs_embeds"]
        every = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        encoded = self.backbone(input_ids, attention_mask, token_type_ids, needed=every, **inputs)
        start, end = self.span(encoded.hidden).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (_place_loss(start, start_positions) + _place_loss(end, end_positions)) / 2
        return QuestionAnsweringOutput(
            loss=loss, start_logits=start, end_logits=end, **kept(encoded)
        )


def kept(encoded: Encoded) -> dict[str, Any]:
    """What an output holds beside its own."""
    return {name: getattr(encoded, name) for name in ("hidden_states", "attentions", "mems")}


def _labelled(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else labels != IGNORED


def cross_entropy(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Mean over the labels that are not -100."""
    if labels is None:
        return None
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def sequence_loss(config: Config, logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """The loss of :class:`SequenceClassification`."""
    if labels is None:
        return None
    problem = config.problem_type or _problem_type(config.num_labels, labels)
    if problem == "regression":
        return F.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return cross_entropy(logits, labels)


def _place_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy of one column (B,) among the L of `logits` (B, L); L or beyond takes no part."""
    length = logits.shape[1]
    return F.cross_entropy(logits, places.flatten().clamp(0, length), ignore_index=length)


def _classifier_dropout(config: Config) -> float:
    given = config.classifier_dropout
    return config.hidden_dropout_prob if given is None else given


def _problem_type(num_labels: int, labels: Tensor) -> str:
    if num_labels == 1:
        return "regression"
    if labels.is_floating_point():
        return "multi_label_classification"
    return "single_label_classification"
