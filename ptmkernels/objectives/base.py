"""What an objective is: a callable on (model, batch) that gives a loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Mean", "Objective", "Outcome", "classification"]

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Mean:
    """A sum and the number of its terms, so that means over several batches are exact."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class Outcome:
    """What an objective gives.

    Args:
        loss: scalar, to be differentiated.
        metrics: what to report, by name; detached.
    """

    loss: Tensor
    metrics: dict[str, Mean] = field(default_factory=dict)


class Objective(Protocol):
    """A training objective.

    Its loss is a sum of means. `counts` says what each is taken over, so that a loop which spreads one step
    over several batches or processes can give the counts of all of them, and get the gradients of one
    large batch.
    """

    head: str  # the head that its model needs

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of terms of each mean in a batch, int64 scalars by name."""

    def __call__(
        self, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor] | None = None
    ) -> Outcome:
        """The loss of a batch.

        Args:
            model: called with the inputs of the batch.
            batch: tensors by name.
            counts: the divisors of the means; None = those of this batch.
        """


def classification(
    name: str, logits: Tensor, targets: Tensor, count: Tensor
) -> tuple[Tensor, dict[str, Mean]]:
    """Cross-entropy and accuracy.

    Args:
        name: goes before the names of the metrics.
        logits: (N, C).
        targets: (N,) classes.
        count: the divisor of the loss.

    Returns:
        sum of the cross-entropies / count, in float32; metrics `<name>_loss` and `<name>_accuracy`.
    """
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    terms = targets.new_tensor(targets.numel())
    hits = (logits.detach().argmax(-1) == targets).sum()
    metrics = {
        f"{name}_loss": Mean(total.detach(), terms),
        f"{name}_accuracy": Mean(hits, terms),
    }
    # A step without a single prediction has loss 0, not 0 / 0.
    return total / count.clamp(min=1), metrics
