"""Next-sentence prediction (Devlin et al. 2019): does the second segment follow the first?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ptmkernels.objectives.base import Batch, Mean, Outcome, classification

__all__ = ["NextSentencePrediction", "next_sentence_terms"]


def next_sentence_terms(
    logits: Tensor, labels: Tensor, count: Tensor
) -> tuple[Tensor, dict[str, Mean]]:
    """Loss and metrics of the pairs.

    Args:
        logits: (B, 2).
        labels: (B,), 0 = it follows, 1 = it does not.
        count: the divisor of the loss.
    """
    return classification("nsp", logits, labels, count)


class NextSentencePrediction:
    """-log p(label | the pair), averaged over the pairs.

    The batch has `input_ids`, `attention_mask`, `token_type_ids` (B, L) and `next_sentence_label` (B,);
    other labels are left alone.
    """

    head = "next-sentence"

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch["next_sentence_label"]
        return {"nsp": torch.tensor(labels.shape[0], device=labels.device)}

    def __call__(
        self, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor] | None = None
    ) -> Outcome:
        counts = self.counts(batch) if counts is None else counts
        inputs = {n: batch[n] for n in ("input_ids", "attention_mask", "token_type_ids")}
        labels = batch["next_sentence_label"]
        return Outcome(*next_sentence_terms(model(**inputs).logits, labels, counts["nsp"]))
