"""The main job: BERT's pre-training on the English that every Python carries, measured and reported.

A corpus of some seventy thousand tokens and a few minutes ask for a small vocabulary, so that each piece is
seen often, and for starting weights that know of neighbours (:mod:`ptmkernels.training.local_start`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ptmkernels._environment import processor, versions
from ptmkernels.data import IGNORED, MaskedDataset
from ptmkernels.inference import MaskFiller, Prediction
from ptmkernels.training import PretrainingConfig, TrainingConfig, prepare_pretraining
from ptmkernels.training.pretraining import SETTINGS
from ptmkernels.training.reporting import History

if TYPE_CHECKING:
    from ptmkernels.benchmarks.report import Row

__all__ = ["GOAL", "DemoResult", "demo_config", "run_demo", "unigram_entropy", "write_report"]

GOAL = 1.5  # nats below the unigram entropy
STEPS = 1000

SENTENCES = (
    "the [MASK] statement is used for conditional execution.",
    "a function [MASK] is an object that has a name.",
    "the expression list is [MASK] once.",
    "if the exception is not [MASK], it is raised again.",
    "this method is [MASK] when the instance is about to be destroyed.",
)


def demo_config(seed: int = 0, steps: int | None = None) -> PretrainingConfig:
    """The settings of the demo: BERT of 2 layers of 128, 1,000 word pieces, 64 tokens, MLM + NSP."""
    steps = STEPS if steps is None else steps
    training = TrainingConfig(
        steps=steps,
        batch_size=16,
        learning_rate=2e-3,
        warmup=steps // 10,
        betas=(0.9, 0.98),
        seed=seed,
        log_every=max(1, steps // 60),
        evaluate_every=max(1, steps // 6),
        keep=1,
    )
    overrides = {
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return PretrainingConfig(
        model="bert-tiny",
        training=training,
        overrides=overrides,
        vocab_size=1000,
        max_length=64,
        held_out=0.1,
        start="local",
    )


def masked_tokens(data: MaskedDataset) -> np.ndarray:
    """(N,) the tokens to be predicted in the first epoch of a dataset."""
    parts = []
    for number in range(-(-len(data) // 64)):
        labels = data.epoch_batch(number, 64)["labels"]
        parts.append(labels[labels != IGNORED].numpy())
    return np.concatenate(parts)


def unigram_entropy(tokens: np.ndarray) -> float:
    """-sum p log p of the tokens' own frequencies, in nats.

    No predictor that ignores the context does better on these tokens, not even one that knew their
    frequencies beforehand.
    """
    counts = np.bincount(tokens)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Args:
        entropy: of the masked held-out tokens, nats.
        loss, accuracy: of the masked held-out tokens.
        next_sentence_accuracy: on held-out pairs.
        predictions: for each of a few sentences, for each [MASK].
        benchmark: rows of the attention benchmark.
        history: of the run.
        seconds: of preparing and training; of the rest.
        facts: of the run, in words, for the report.
    """

    entropy: float
    loss: float
    accuracy: float
    next_sentence_accuracy: float
    predictions: dict[str, list[list[Prediction]]]
    benchmark: Sequence[Row]
    history: History
    seconds: dict[str, float]
    facts: dict[str, str]

    @property
    def reached(self) -> bool:
        """Whether the goal was reached."""
        return self.entropy - self.loss >= GOAL

    def verdict(self) -> str:
        """The main result in a sentence."""
        return (
            f"Held-out MLM loss {self.loss:.3f} nats, {self.entropy - self.loss:.2f} below the unigram "
            f"entropy of {self.entropy:.3f}; the goal of {GOAL} is {'reached' if self.reached else 'missed'}."
        )

    def benchmark_lines(self) -> list[str]:
        """Our attention beside PyTorch's, a line for each mask."""
        return [
            f"attention, {row.series} {row.size}, {row.mode}: {row.speedup:.2f} times as fast as "
            f"{row.provider}"
            for row in self.benchmark
            if row.speedup is not None and row.provider != "ptmkernels"
        ]


def run_demo(
    output: Path, seed: int = 0, steps: int | None = None, *, say: Callable[[str], None] = print
) -> DemoResult:
    """Train, evaluate, predict, measure.

    Args:
        output: folder; the run lies in `output`/run, where it replaces an earlier one.
        seed: of everything random.
        steps: updates; None = as many as the demo takes.
        say: is told what goes on.

    Raises:
        ValueError: `output`/run holds something else than a run.
        KeyboardInterrupt: it was interrupted.
    """
    run = output / "run"
    _clear(run)
    started = time.perf_counter()
    config = demo_config(seed, steps)
    trainer = prepare_pretraining(config, run)
    config.write(run)
    corpus = trainer.data.source.corpus
    entropy = unigram_entropy(masked_tokens(trainer.held_out))
    facts = {
        "text": f"{corpus.num_documents} documents, {corpus.num_sentences:,} sentences, "
        f"{corpus.num_tokens:,} tokens of {config.vocab_size:,} pieces; held out: "
        f"{trainer.held_out.source.corpus.num_tokens:,} tokens of other documents",
        "model": f"BERT, {trainer.bare_model.num_parameters():,} parameters, MLM + NSP, local start",
        "machine": f"{processor()}, {torch.get_num_threads()} threads; "
        + ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    for name, text in facts.items():
        say(f"{name}: {text}")
    say(f"unigram entropy of the masked held-out tokens: {entropy:.3f} nats")
    result = trainer.run()
    if result.interrupted:
        say(f"Stopped after step {result.step} of {config.training.steps}.")
        raise KeyboardInterrupt
    trained = time.perf_counter()
    final = result.history.evaluation[-1]
    filler = MaskFiller.load(run)
    predictions = {text: filler(text) for text in SENTENCES}
    benchmark = quick_benchmark()
    return DemoResult(
        entropy=entropy,
        loss=final["mlm_loss"],
        accuracy=final["mlm_accuracy"],
        next_sentence_accuracy=final["nsp_accuracy"],
        predictions=predictions,
        benchmark=benchmark,
        history=result.history,
        seconds={"training": trained - started, "the rest": time.perf_counter() - trained},
        facts=facts,
    )


def _clear(run: Path) -> None:
    """Remove an earlier run, and nothing else that may lie there."""
    if run.exists() and not (run / SETTINGS).is_file():
        raise ValueError(f"{run} is there and holds no run; choose another output")
    shutil.rmtree(run, ignore_errors=True)


def quick_benchmark() -> Sequence[Row]:
    """Our attention beside PyTorch's own."""
    from ptmkernels.benchmarks.masked_attention import quick_attention_benchmark

    return quick_attention_benchmark()


def write_report(result: DemoResult, folder: Path) -> list[Path]:
    """report.md, loss.png and history.json in `folder`; returns their paths, the report first."""
    folder.mkdir(parents=True, exist_ok=True)
    report, plot, history = (folder / n for n in ("report.md", "loss.png", "history.json"))
    rows = {"training": result.history.training, "evaluation": result.history.evaluation}
    history.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    _plot(result, plot)
    report.write_text(_markdown(result, plot.name), encoding="utf-8")
    return [report, plot, history]


def _plot(result: DemoResult, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    for rows, style, label in (
        (result.history.training, "-", "training"),
        (result.history.evaluation, "o-", "held out"),
    ):
        axis.plot([r["step"] for r in rows], [r["mlm_loss"] for r in rows], style, label=label)
    axis.axhline(result.entropy, color="black", label="unigram entropy, held out")
    axis.axhline(result.entropy - GOAL, color="black", linestyle=":", label=f"goal: {GOAL} below")
    axis.set(xlabel="step", ylabel="MLM loss, nats", title="BERT on the English of Python's manual")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _markdown(result: DemoResult, plot: str) -> str:
    lines = ["# A small BERT on the English of Python's manual", "", result.verdict(), ""]
    lines += [f"![Loss by step]({plot})", ""]
    lines += [f"- {name}: {text}" for name, text in result.facts.items()]
    lines += [
        f"- held out: accuracy of the masked tokens {result.accuracy:.1%}, of the next sentence "
        f"{result.next_sentence_accuracy:.1%}",
        "- seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in result.seconds.items()),
        "",
        "## Predictions",
        "",
    ]
    for text, predictions in result.predictions.items():
        for best in predictions:
            words = ", ".join(f"{p.token} ({p.probability:.2f})" for p in best)
            lines.append(f"- {text} {words}")
    lines += ["", "## Attention beside PyTorch's own", ""]
    lines += [f"- {line}" for line in result.benchmark_lines()]
    return "\n".join(lines) + "\n"
