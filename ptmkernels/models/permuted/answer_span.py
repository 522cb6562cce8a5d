"""XLNet's answer span: the last token given the first, by beam search, and whether there is an answer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptmkernels.config import Config
from ptmkernels.models.base import Architecture, Model
from ptmkernels.models.outputs import AnswerSpanOutput
from ptmkernels.models.tasks import kept

HIDDEN = -1e30  # the logit of a token that cannot be in an answer


class StartLogits(nn.Module):
    """dense(h): is this the first token?"""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, E) to (B, L)."""
        return self.dense(hidden).squeeze(-1)


class EndLogits(nn.Module):
    """dense_1(norm(tanh(dense_0([h, h_start])))): is this the last token, if that is the first?"""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense_1 = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, start: Tensor) -> Tensor:
        """(..., E) and (..., E) to (...)."""
        both = torch.cat([hidden, start.expand_as(hidden)], -1)
        return self.dense_1(self.norm(torch.tanh(self.dense_0(both)))).squeeze(-1)


class AnswerClass(nn.Module):
    """dense_1(tanh(dense_0([h_start, h_cls]))): is the question without an answer?"""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.dense_1 = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, start: Tensor, classifier: Tensor) -> Tensor:
        """(B, E) and (B, E) to (B,)."""
        both = torch.cat([start, classifier], -1)
        return self.dense_1(torch.tanh(self.dense_0(both))).squeeze(-1)


class AnswerSpan(Model):
    """The first and the last token of the answer, and whether there is one (the released code for SQuAD)."""

    with_pooler = False

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.start_logits = StartLogits(config)
        self.end_logits = EndLogits(config)
        self.answer_class = AnswerClass(config)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        is_impossible: Tensor | None = None,
        cls_index: Tensor | None = None,
        p_mask: Tensor | None = None,
        **inputs: Any,
    ) -> AnswerSpanOutput:
        """
        Args:
            start_positions, end_positions: (B,) columns. With them the loss is computed, without a search.
            is_impossible: (B,) 1 = the question has no answer; its loss counts half.
            cls_index: (B,) the column of the class token; None = the last.
            p_mask: (B, L), 1 = cannot be in an answer.
        """
        encoded = self.backbone(input_ids, attention_mask, token_type_ids, **inputs)
        hidden = encoded.hidden
        barred = hidden.new_zeros(hidden.shape[:2]) if p_mask is None else p_mask.to(hidden.dtype)
        start = _barred(self.start_logits(hidden), barred)
        classifier = hidden[:, -1:].sum(1) if cls_index is None else _at(hidden, cls_index)
        if start_positions is None or end_positions is None:
            found = self._search(hidden, start, classifier, barred)
            return AnswerSpanOutput(**found, **kept(encoded))
        first = _at(hidden, start_positions)
        end = _barred(self.end_logits(hidden, first[:, None]), barred)
        loss = (F.cross_entropy(start, start_positions) + F.cross_entropy(end, end_positions)) / 2
        if cls_index is not None and is_impossible is not None:
            logits = self.answer_class(first, classifier)
            impossible = is_impossible.to(logits.dtype)
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(logits, impossible)
        return AnswerSpanOutput(loss=loss, **kept(encoded))

    def _search(
        self, hidden: Tensor, start: Tensor, classifier: Tensor, barred: Tensor
    ) -> dict[str, Tensor]:
        """The best first tokens, and for each of them the best last ones; of a short text all."""
        weights = start.softmax(-1)
        length = hidden.shape[1]
        start_probs, start_index = weights.topk(min(self.config.start_n_top, length), dim=-1)
        rows = start_index[..., None].expand(-1, -1, hidden.shape[2])
        first = hidden.gather(1, rows)[:, None]  # (B, 1, K, E)
        columns = hidden[:, :, None].expand(-1, -1, first.shape[2], -1)  # (B, L, K, E)
        end = _barred(self.end_logits(columns, first), barred[..., None]).softmax(1)
        end_probs, end_index = end.topk(min(self.config.end_n_top, length), dim=1)
        mean_first = torch.einsum("ble,bl->be", hidden, weights)
        return {
            "start_top_log_probs": start_probs,
            "start_top_index": start_index,
            "end_top_log_probs": end_probs.flatten(1),
            "end_top_index": end_index.flatten(1),
            "cls_logits": self.answer_class(mean_first, classifier),
        }


def _at(hidden: Tensor, columns: Tensor) -> Tensor:
    """(B, L, E) at (B,) or (B, 1) columns, (B, E)."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, columns.flatten()]


def _barred(logits: Tensor, barred: Tensor) -> Tensor:
    return logits * (1 - barred) + HIDDEN * barred
