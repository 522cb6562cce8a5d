"""Masked language modelling (Devlin et al. 2019): predict the tokens that were hidden."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ptmkernels.data.masking import IGNORED
from ptmkernels.objectives.base import Batch, Mean, Outcome, classification

__all__ = ["MaskedLanguageModelling", "masked_lm_terms"]


def masked_lm_terms(
    logits: Tensor, labels: Tensor, count: Tensor
) -> tuple[Tensor, dict[str, Mean]]:
    """Loss and metrics of the predicted tokens.

    Args:
        logits: (N, V), the labelled tokens row by row.
        labels: (B, L), -100 = not predicted; N labels otherwise.
        count: the divisor of the loss.
    """
    return classification("mlm", logits, labels[labels != IGNORED], count)


class MaskedLanguageModelling:
    """-log p(token | the corrupted text), averaged over the predicted tokens (RoBERTa's only objective).

    The batch has `input_ids`, `attention_mask`, `token_type_ids` and `labels`, (B, L) each.
    """

    head = "masked-lm"

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"mlm": (batch["labels"] != IGNORED).sum()}

    def __call__(
        self, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor] | None = None
    ) -> Outcome:
        counts = self.counts(batch) if counts is None else counts
        output = model(**batch, labelled_only=True)
        return Outcome(*masked_lm_terms(output.logits, batch["labels"], counts["mlm"]))
