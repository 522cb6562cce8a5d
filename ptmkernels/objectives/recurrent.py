"""Objectives of models with memory, which is handed on from batch to batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptmkernels.data.masking import IGNORED
from ptmkernels.objectives.base import Batch, Mean, Outcome, classification

__all__ = ["CausalLanguageModelling", "PermutationLanguageModelling", "Recurrent"]


class Recurrent:
    """Keeps a model's memory: one for training, one for evaluation, each forgotten where rows begin.

    Attributes:
        read_on_host: names of what is looked at in every step. A trainer leaves them on the CPU, since
            whoever reads them from a device waits for all that it has still to do.
    """

    read_on_host = ("continues",)

    def __init__(self) -> None:
        self._memory: dict[bool, tuple[Tensor, ...]] = {}

    def run(self, model: nn.Module, batch: Batch, **options: Any) -> Any:
        """The model's output for a batch, after those that it continues.

        Args:
            batch: with `continues`, (B,) booleans, the same for all rows, best on the CPU; it and
                `attention_mask`, in which nothing is padding, are kept from the model.
        """
        inputs = {n: t for n, t in batch.items() if n not in ("continues", "attention_mask")}
        mems = self._memory.get(model.training) if bool(batch["continues"].all()) else None
        output = model(**inputs, mems=mems, **options)
        self._memory[model.training] = output.mems
        return output

    def state(self) -> dict[str, Tensor]:
        """The memory of training, for a checkpoint: one tensor (layers, B, M, E), or none yet."""
        memory = self._memory.get(True)
        return {} if memory is None else {"memory": torch.stack(memory)}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on with the memory that :meth:`state` gave."""
        if "memory" in state:
            self._memory = {True: state["memory"].to(device).unbind()}


class CausalLanguageModelling(Recurrent):
    """-log p(next token | segment, memory), averaged over the tokens (Transformer-XL).

    The batch has `input_ids` and `labels` (B, L), the next tokens, and what :meth:`Recurrent.run` reads.
    """

    head = "causal-lm"

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"lm": (batch["labels"] != IGNORED).sum()}

    def __call__(
        self, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor] | None = None
    ) -> Outcome:
        own = self.counts(batch)["lm"]
        count = own if counts is None else counts["lm"]
        total = self.run(model, batch, shift_labels=False).losses.sum()
        return Outcome(total / count.clamp(min=1), {"lm_loss": Mean(total.detach(), own)})


class PermutationLanguageModelling(Recurrent):
    """-log p(token | its position, the tokens before it in the order), averaged over them (XLNet).

    The batch has `input_ids`, `token_type_ids`, `perm_rank` (B, L), `target_mapping` and `labels` (B, P),
    -100 = no prediction, and what :meth:`Recurrent.run` reads.
    """

    head = "permutation-lm"

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"plm": (batch["labels"] != IGNORED).sum()}

    def __call__(
        self, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor] | None = None
    ) -> Outcome:
        counts = self.counts(batch) if counts is None else counts
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = self.run(model, inputs, use_mems=True).logits
        real = batch["labels"] != IGNORED
        return Outcome(*classification("plm", logits[real], batch["labels"][real], counts["plm"]))
