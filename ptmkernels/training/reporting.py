"""What a run says about itself: a progress bar, TensorBoard curves, and the numbers for the caller."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

__all__ = ["History", "Reporter"]


@dataclass
class History:
    """The numbers of a run, by step.

    Args:
        training: one row each report: `step`, `loss`, metrics, `learning_rate`, `gradient_norm`,
            `tokens_per_second`; means since the report before.
        evaluation: one row each evaluation: `step` and metrics.
    """

    training: list[dict[str, float]] = field(default_factory=list)
    evaluation: list[dict[str, float]] = field(default_factory=list)


class Reporter:
    """Shows and records the numbers; silent but for the record where `visible` is false.

    Args:
        folder: TensorBoard's files go here; None = none are written.
        start, total: steps done, and at the end.
        visible: whether this process is the one that speaks.
    """

    def __init__(self, folder: Path | None, start: int, total: int, *, visible: bool) -> None:
        self.history = History()
        self._writer = None
        if visible and folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run wrote beyond its last checkpoint is not shown twice.
            self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        self._shown = visible and sys.stderr.isatty()
        self._lines = visible and not self._shown
        self._bar = tqdm(
            total=total, initial=start, unit="step", disable=not self._shown, dynamic_ncols=True
        )
        self._total = total
        self._clock = time.perf_counter()

    def advance(self) -> None:
        """One step more."""
        self._bar.update()

    def training(self, step: int, tokens: int, numbers: Mapping[str, float]) -> None:
        """Report the steps since the last report.

        Args:
            step: the last of them.
            tokens: seen in them, padding not counted.
            numbers: their means, by name.
        """
        now = time.perf_counter()
        rate = tokens / (now - self._clock)
        self._clock = now
        row = {"step": step, **numbers, "tokens_per_second": rate}
        self.history.training.append(row)
        self._write("training", row)
        self._bar.set_postfix_str(f"loss {numbers['loss']:.3f}, {rate:,.0f} tokens/s")
        if self._lines:
            print(
                f"step {step}/{self._total}: loss {numbers['loss']:.4f}, "
                f"learning rate {numbers['learning_rate']:.2e}, {rate:,.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )

    def evaluation(self, step: int, numbers: Mapping[str, float], started: float) -> None:
        """Report an evaluation.

        Args:
            step: after which it was made.
            numbers: the metrics, by name.
            started: when, by `time.perf_counter`; the time does not count as training.
        """
        self._clock += time.perf_counter() - started
        row = {"step": step, **numbers}
        self.history.evaluation.append(row)
        self._write("evaluation", row)
        words = ", ".join(
            f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items()
        )
        self.say(f"step {step}: held-out {words}")

    def say(self, text: str) -> None:
        """A line of its own, above the progress bar."""
        if self._shown or self._lines:
            self._bar.write(text, file=sys.stderr)

    def _write(self, kind: str, row: Mapping[str, float]) -> None:
        with self._without_curves_at_worst():
            if self._writer is not None:
                for name, value in row.items():
                    if name != "step":
                        self._writer.add_scalar(f"{kind}/{name}", value, int(row["step"]))
                self._writer.flush()

    @contextmanager
    def _without_curves_at_worst(self) -> Iterator[None]:
        """A full disk ends the curves, not the run."""
        try:
            yield
        except OSError as error:
            folder, self._writer = self._writer.log_dir, None
            self.say(f"no more curves: TensorBoard's files in {folder} cannot be written ({error})")

    def close(self) -> None:
        """Put everything on the disk."""
        self._bar.close()
        with self._without_curves_at_worst():
            if self._writer is not None:
                self._writer.close()
