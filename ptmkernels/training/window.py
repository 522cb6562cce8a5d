"""The numbers of a training between two reports."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from ptmkernels.objectives.base import Mean

__all__ = ["Sums", "Window"]


class Sums:
    """Sums of metrics, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Mean], weight: float = 1.0) -> None:
        for name, mean in metrics.items():
            pair = torch.stack([mean.total.double(), mean.count.double()]) * weight
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes."""
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name] for name in names])
        totals, counts = accelerator.reduce(sums, "sum").unbind(1)
        return dict(zip(names, (totals / counts.clamp(min=1)).tolist(), strict=True))


class Window:
    """What happened since the last report; nothing is read from the device before :meth:`close`."""

    def __init__(self, accelerator: Accelerator, step: int) -> None:
        self._accelerator = accelerator
        self._start(step)

    def _start(self, step: int) -> None:
        self._first = step + 1
        self._losses: list[Tensor] = []
        self._loss: Tensor | float = 0.0
        self._norm: Tensor | None = None
        self._tokens = 0
        self._metrics = Sums()

    def add(self, loss: Tensor, metrics: Mapping[str, Mean]) -> None:
        """One batch; its loss is a share of the step's."""
        self._loss = self._loss + loss
        self._metrics.add(metrics)

    def end_step(self, norm: Tensor | None, tokens: int) -> None:
        self._losses.append(self._loss)
        self._loss = 0.0
        self._norm = norm
        self._tokens += tokens

    def close(self, learning_rate: float) -> tuple[int, dict[str, float]]:
        """Tokens seen and the numbers of the window; the next begins.

        Raises:
            RuntimeError: the loss of a step is not finite; names the step.
        """
        losses = self._accelerator.reduce(torch.stack(self._losses), "sum").tolist()
        for number, loss in enumerate(losses, start=self._first):
            if not math.isfinite(loss):
                raise RuntimeError(
                    f"the loss is {loss} at step {number} (learning rate {learning_rate:.3g}); the "
                    "weights are lost, an earlier checkpoint is not. A lower learning rate, a longer "
                    "warm-up or another precision may help"
                )
        numbers = {"loss": sum(losses) / len(losses)}
        numbers |= self._metrics.means(self._accelerator)
        numbers["learning_rate"] = learning_rate
        if self._norm is not None:
            numbers["gradient_norm"] = float(self._norm)
        tokens = self._tokens
        self._start(self._first + len(losses) - 1)
        return tokens, numbers
