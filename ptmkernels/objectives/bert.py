"""BERT's pre-training (Devlin et al. 2019): masked tokens and next sentence, the two losses added."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ptmkernels.objectives.base import Batch, Outcome
from ptmkernels.objectives.mlm import MaskedLanguageModelling, masked_lm_terms
from ptmkernels.objectives.nsp import NextSentencePrediction, next_sentence_terms

__all__ = ["BertPretraining"]


class BertPretraining:
    """Both means, of the predicted tokens and of the pairs, with weight 1 each.

    The batch has what :class:`MaskedLanguageModelling` and :class:`NextSentencePrediction` need.
    """

    head = "pretraining"

    def __init__(self) -> None:
        self.parts = (MaskedLanguageModelling(), NextSentencePrediction())

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {name: n for part in self.parts for name, n in part.counts(batch).items()}

    def __call__(
        self, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor] | None = None
    ) -> Outcome:
        counts = self.counts(batch) if counts is None else counts
        output = model(**batch, labelled_only=True)
        mlm, mlm_metrics = masked_lm_terms(output.prediction_logits, batch["labels"], counts["mlm"])
        nsp, nsp_metrics = next_sentence_terms(
            output.seq_relationship_logits, batch["next_sentence_label"], counts["nsp"]
        )
        return Outcome(mlm + nsp, mlm_metrics | nsp_metrics)
