"""The one training loop."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor

from ptmkernels.data.dataset import MaskedDataset, load_batches
from ptmkernels.data.segments import SegmentDataset
from ptmkernels.models.base import Model
from ptmkernels.objectives.base import Objective
from ptmkernels.objectives.recurrent import Recurrent
from ptmkernels.training import checkpoints
from ptmkernels.training.checkpoints import RunState
from ptmkernels.training.config import TrainingConfig
from ptmkernels.training.optimizers import create_optimizer
from ptmkernels.training.reporting import History, Reporter
from ptmkernels.training.schedules import create_schedule
from ptmkernels.training.window import Sums, Window

__all__ = ["Trainer", "TrainingResult", "count_processes"]

# Settings that may differ when a run goes on: none of them changes a weight.
FREE_SETTINGS = ("log_every", "evaluate_every", "save_every", "keep", "workers")


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Args:
        step: updates done.
        interrupted: it was stopped before its end, by Ctrl-C or a SIGTERM.
        checkpoint: the last one; None without an output folder.
        history: the numbers reported.
    """

    step: int
    interrupted: bool
    checkpoint: Path | None
    history: History


class Trainer:
    """Trains a model: one process, or several by `torchrun` or `accelerate launch`.

    A step sums over `accumulation` batches of every process and has the gradients of one batch of all of
    them. Everything random is either a function of the place in the data, or drawn from torch's generator,
    whose state is part of a checkpoint: so a run that goes on from a checkpoint gives the same weights.

    Args:
        model: of the zoo, with the head that the objective needs; the same weights in every process.
        objective: gives loss and metrics of a batch.
        data: training examples.
        config: settings.
        output: folder of checkpoints and TensorBoard's files; None = nothing is written.
        held_out: examples for evaluation, of which the first epoch is used; None = none.
        files: small files to go with each checkpoint, text by name (the tokenizer's).

    Raises:
        ValueError: fp16 was asked for without a GPU.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        data: MaskedDataset | SegmentDataset,
        config: TrainingConfig,
        *,
        output: str | Path | None = None,
        held_out: MaskedDataset | SegmentDataset | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        if config.precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("precision is 'fp16', which needs a GPU; expected 'no' or 'bf16' here")
        self.config = config
        self.objective = objective
        self.data = data
        self.held_out = held_out
        self.output = None if output is None else Path(output)
        self.files = dict(files or {})
        self.accelerator = _create_accelerator(config.precision)
        self.schedule = create_schedule(config.schedule, config.warmup, config.steps, config.power)
        if config.checkpoint_activations:
            model.gradient_checkpointing_enable()
        optimizer = create_optimizer(
            config.optimizer,
            model,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=config.betas,
            epsilon=config.epsilon,
        )
        self.bare_model = model
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.state = RunState(
            num_processes=self.accelerator.num_processes,
            config=asdict(config),
            data=data.fingerprint(),
        )
        # Dropout differs between processes.
        torch.manual_seed(config.seed + self.accelerator.process_index)
        self._stop = threading.Event()

    def resume(self, checkpoint: str | Path) -> None:
        """Go on from a checkpoint.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or from other data or settings; names what differs.
        """
        path = Path(checkpoint)
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        state, random_states = checkpoints.read_checkpoint(path, self.bare_model, inner)
        self._refuse_other_run(path, state)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        if state.num_processes == self.accelerator.num_processes:
            rank = self.accelerator.process_index
            own = {name: t[rank] for name, t in random_states.items()}
            checkpoints.set_random_states(own)
            if isinstance(self.objective, Recurrent):
                self.objective.load_state(own, self.accelerator.device)
        self.state = replace(
            state, num_processes=self.accelerator.num_processes, config=asdict(self.config)
        )

    def _refuse_other_run(self, path: Path, state: RunState) -> None:
        """A run goes on with its own data and settings only."""
        if state.data != self.state.data:
            raise ValueError(
                f"{path} was trained on other data: {state.data}, not {self.state.data}"
            )
        for name, value in self.state.config.items():
            before = state.config.get(name)
            before = tuple(before) if isinstance(before, list) else before
            if name not in FREE_SETTINGS and before != value:
                raise ValueError(f"{path} was trained with {name} = {before!r}, not {value!r}")

    def run(self) -> TrainingResult:
        """Train to the last step.

        Raises:
            RuntimeError: the loss is NaN or infinite; names the step. The last checkpoint, from
                before, stays.
            OSError: a checkpoint could not be written; earlier ones stay.
        """
        config = self.config
        folder = None if self.output is None else self.output / "tensorboard"
        reporter = Reporter(
            folder, self.state.step, config.steps, visible=self.accelerator.is_main_process
        )
        window = Window(self.accelerator, self.state.step)
        batches = self._batches()
        interrupted = False
        try:
            with self._signals():
                while self.state.step < config.steps and not interrupted:
                    stop = self._step([next(batches) for _ in range(config.accumulation)], window)
                    interrupted = stop and self.state.step < config.steps
                    reporter.advance()
                    self._punctuate(reporter, window, interrupted)
        finally:
            reporter.close()
        checkpoint = None if self.output is None else checkpoints.latest_checkpoint(self.output)
        return TrainingResult(self.state.step, interrupted, checkpoint, reporter.history)

    def _punctuate(self, reporter: Reporter, window: Window, interrupted: bool) -> None:
        """Report, evaluate and save where it is time to."""
        config, step = self.config, self.state.step

        def due(every: int) -> bool:
            return step == config.steps or (every > 0 and step % every == 0)

        saves = interrupted or due(config.save_every)
        # A checkpoint holds no NaN: the losses are looked at before.
        if saves or due(config.log_every):
            rate = self.optimizer.param_groups[0]["lr"]
            reporter.training(step, *window.close(rate))
        if due(config.evaluate_every) and self.held_out is not None:
            started = time.perf_counter()
            reporter.evaluation(step, self.evaluate(), started)
        if saves and self.output is not None:
            self.save()

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        return load_batches(
            self.data,
            self.state.cursor,
            self.config.batch_size,
            rank=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            workers=self.config.workers,
        )

    def _on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch where the model is, but for what the objective looks at in every step."""
        device, here = self.accelerator.device, getattr(self.objective, "read_on_host", ())
        return {
            name: tensor if name in here else tensor.to(device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def _step(self, batches: list[dict[str, Tensor]], window: Window) -> bool:
        """One update of the weights; true where the run is to stop after it."""
        config, processes = self.config, self.accelerator.num_processes
        counts, tokens, stop = self._totals(batches)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self.schedule(self.state.step)
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                outcome = self.objective(self.model, self._on_device(batch), counts)
                # Gradients are averaged over processes; the loss is a share of the whole already.
                self.accelerator.backward(outcome.loss * processes)
            window.add(outcome.loss.detach(), outcome.metrics)
        norm = None
        if config.max_gradient_norm is not None:
            norm = self.accelerator.clip_grad_norm_(
                self.model.parameters(), config.max_gradient_norm
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        window.end_step(norm, tokens)
        seen = config.batch_size * config.accumulation * processes
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            cursor=self.data.advance(self.state.cursor, seen),
            tokens=self.state.tokens + tokens,
        )
        return stop

    def _totals(self, batches: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], int, bool]:
        """Over all batches of all processes: the terms of each mean, the tokens; and whether to stop.

        Counted before the batches go to the device, so that one process never waits for its GPU here.
        """
        rows = [self.objective.counts(batch) for batch in batches]
        sums = {name: sum(row[name] for row in rows) for name in rows[0]}
        tokens = sum(batch["attention_mask"].sum() for batch in batches)
        totals = torch.stack([*sums.values(), tokens, torch.tensor(int(self._stop.is_set()))])
        if self.accelerator.num_processes > 1:
            totals = self.accelerator.reduce(totals.to(self.accelerator.device), "sum").cpu()
        *counts, tokens, stop = totals.unbind()
        on_device = (count.to(self.accelerator.device) for count in counts)
        return dict(zip(sums, on_device, strict=True)), int(tokens), bool(stop)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The objective's metrics on the held-out examples, all of them, without dropout."""
        if self.held_out is None:
            raise ValueError("held_out is None; there is nothing to evaluate on")
        size = self.config.batch_size
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        sums = Sums()
        training = self.model.training
        self.model.eval()
        try:
            batches = math.ceil(self.held_out.epoch_length(0) / size)
            for turn in range(math.ceil(batches / processes)):
                number = turn * processes + rank
                batch = self.held_out.epoch_batch(min(number, batches - 1), size)
                with self.accelerator.autocast():
                    outcome = self.objective(self.bare_model, self._on_device(batch))
                # The last turn may have too few batches; who has none counts nothing.
                sums.add(outcome.metrics, weight=float(number < batches))
        finally:
            self.model.train(training)
        return sums.means(self.accelerator)

    def save(self) -> Path:
        """Write a checkpoint, and show its model in the run's own folder.

        Raises:
            OSError: it could not be written; earlier ones stay.
            ValueError: there is no output folder.
        """
        if self.output is None:
            raise ValueError("output is None; there is nowhere to save to")
        own = checkpoints.random_states()
        if isinstance(self.objective, Recurrent):
            own |= self.objective.state()
        random_states = {name: self._of_all_processes(state) for name, state in own.items()}
        scaler = self.accelerator.scaler
        state = replace(self.state, scaler=scaler.state_dict() if scaler is not None else {})
        path = self.output / checkpoints.FOLDER / f"step-{state.step:08d}"
        if self.accelerator.is_main_process:
            inner = getattr(self.optimizer, "optimizer", self.optimizer)
            path = checkpoints.write_checkpoint(
                self.output,
                state,
                self.bare_model,
                inner,
                random_states,
                keep=self.config.keep,
                extra=self.files,
            )
            checkpoints.publish(path, self.output)
        self.accelerator.wait_for_everyone()
        return path

    def _of_all_processes(self, state: Tensor) -> Tensor:
        """(processes, ...), the state of each."""
        if self.accelerator.num_processes == 1:
            return state[None].clone()
        return self.accelerator.gather(state[None].to(self.accelerator.device)).cpu()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint; twice: at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def count_processes() -> int:
    """How many processes train together."""
    return PartialState(cpu=_on_cpu()).num_processes


def _create_accelerator(precision: str) -> Accelerator:
    # Accelerate keeps one precision for all of a process, and refuses another one later. With a state of its
    # own, each trainer has the precision that it was made with.
    AcceleratorState._shared_state = {}
    return Accelerator(mixed_precision=precision, cpu=_on_cpu())


def _on_cpu() -> bool:
    # Unless it is told so first, Accelerate lets processes on a machine with no GPU run each for itself.
    return not torch.accelerator.is_available()
