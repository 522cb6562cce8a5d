"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ptmkernels.training.optimizers import OPTIMIZERS
from ptmkernels.training.schedules import SCHEDULES

__all__ = ["TrainingConfig"]

PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a run; the defaults follow BERT (Devlin et al. 2019, appendix A.2).

    Args:
        steps: updates of the weights.
        batch_size: examples in a batch of one process.
        accumulation: batches that one update sums over.
        learning_rate: the peak.
        optimizer: "adamw", "lamb" or "adafactor".
        schedule: "linear", "polynomial", "inverse-sqrt" or "constant".
        warmup: updates over which the rate climbs.
        power: of the polynomial schedule.
        weight_decay: of all but biases and norms.
        betas, epsilon: of Adam and LAMB.
        max_gradient_norm: gradients are scaled down to it; None = never.
        precision: "no" (float32), "bf16" or "fp16" (on a GPU).
        checkpoint_activations: keep only each layer's input, compute the rest again.
        seed: of dropout; the data have theirs.
        log_every, evaluate_every, save_every: updates between reports, evaluations and checkpoints; 0 = only
            at the end.
        keep: checkpoints that are kept, the newest.
        workers: processes that prepare batches ahead.

    Raises:
        ValueError: a setting is out of range; names it.
    """

    steps: int
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-4
    optimizer: str = "adamw"
    schedule: str = "linear"
    warmup: int = 0
    power: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    max_gradient_norm: float | None = 1.0
    precision: str = "no"
    checkpoint_activations: bool = False
    seed: int = 0
    log_every: int = 50
    evaluate_every: int = 0
    save_every: int = 0
    keep: int = 3
    workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list where it comes from JSON
        for name in ("steps", "batch_size", "accumulation", "log_every", "keep"):
            self._expect(name, getattr(self, name) >= 1, "a number >= 1")
        for name in ("evaluate_every", "save_every", "workers", "weight_decay", "epsilon"):
            self._expect(name, getattr(self, name) >= 0, "a number >= 0")
        rate = self.learning_rate
        self._expect("learning_rate", rate > 0 and math.isfinite(rate), "a finite number > 0")
        self._expect(
            "betas", all(0 <= beta < 1 for beta in self.betas), "two numbers 0 <= beta < 1"
        )
        norm = self.max_gradient_norm
        self._expect("max_gradient_norm", norm is None or norm > 0, "a number > 0, or None")
        self._expect("warmup", 0 <= self.warmup <= self.steps, f"0 to {self.steps}, the steps")
        self._expect("seed", 0 <= self.seed < 2**63, "0 <= seed < 2**63")
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            self._expect(name, getattr(self, name) in known, f"one of {', '.join(known)}")

    def _expect(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise ValueError(f"{name} is {getattr(self, name)!r}; expected {expected}")
