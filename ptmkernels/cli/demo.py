"""`ptmkernels demo`: the main job on real text, from corpus to report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from rich.table import Table

    from ptmkernels.benchmarks.report import Row
    from ptmkernels.inference import MaskFiller
    from ptmkernels.training import PretrainingConfig, Trainer, TrainingResult

GOAL = 1.5  # nats that the held-out loss is to lie below the unigram entropy
SENTENCES = (
    "the [MASK] statement is used for conditional execution",
    "the value of the [MASK] is returned",
    "a function [MASK] is an object",
)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of model and report.")] = Path("out/demo"),
    steps: Annotated[int, typer.Option(help="Updates of the weights.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Train a small BERT on the English text that Python carries, and show what it learnt."""
    from rich.console import Console

    from ptmkernels.benchmarks.masked_attention import quick_attention_benchmark
    from ptmkernels.cli.fill_mask import table
    from ptmkernels.inference import MaskFiller
    from ptmkernels.training import prepare_pretraining

    console = Console()
    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    trainer = prepare_pretraining(_config(steps, seed), output / "model")
    entropy = unigram_entropy(trainer)
    console.print(f"Training a BERT of {_millions(trainer)} weights; unigram entropy {entropy:.3f}")
    result = trainer.run()
    if result.interrupted:
        raise typer.Exit(130)
    filler = MaskFiller.load(output / "model")
    for text in SENTENCES:
        console.print(table(text, 1, filler(text)[0]))
    console.print("Attention beside PyTorch's own, forward + backward:")
    speed = quick_attention_benchmark()
    console.print(_speed_table(speed))
    _plot(result, entropy, output / "loss.png")
    seconds = time.perf_counter() - started
    report = output / "report.md"
    report.write_text(_report(result, entropy, filler, speed, seconds), encoding="utf-8")
    gap = entropy - result.history.evaluation[-1]["mlm_loss"]
    console.print(f"Held-out loss {gap:.2f} nats below the unigram entropy (goal: {GOAL}).")
    console.print(f"Report: {report}, plot: {output / 'loss.png'}, model: {output / 'model'}")


def _config(steps: int, seed: int) -> PretrainingConfig:
    """A BERT small enough for minutes on two cores, on a vocabulary small enough for the text."""
    from ptmkernels.registry import resolve
    from ptmkernels.training import PretrainingConfig, TrainingConfig

    return PretrainingConfig(
        model=resolve("bert", "tiny"),
        overrides={
            "num_attention_heads": 4,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.05,
        },
        vocab_size=1000,
        max_length=64,
        start="local",
        training=TrainingConfig(
            steps=steps,
            batch_size=16,
            learning_rate=2e-3,
            warmup=steps // 10,
            betas=(0.9, 0.98),
            seed=seed,
            evaluate_every=max(steps // 8, 1),
        ),
    )


def unigram_entropy(trainer: Trainer) -> float:
    """Entropy of the word pieces of the training text, in nats: what word frequencies alone reach."""
    import numpy as np

    counts = np.bincount(trainer.data.source.corpus.tokens)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _millions(trainer: Trainer) -> str:
    return f"{sum(p.numel() for p in trainer.bare_model.parameters()) / 1e6:.1f} M"


def _speed_rows(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Mask, our time, and how many times as fast as SDPA that is."""
    ours = {row.series: row for row in rows if row.provider == "ptmkernels"}
    peers = [row for row in rows if row.provider != "ptmkernels" and row.speedup is not None]
    return [(p.series, f"{ours[p.series].q50_ms:.1f}", f"{p.speedup:.2f}") for p in peers]


def _speed_table(rows: list[Row]) -> Table:
    from rich.table import Table

    result = Table("mask", "milliseconds", "times as fast as SDPA")
    for cells in _speed_rows(rows):
        result.add_row(*cells)
    return result


def _plot(result: TrainingResult, entropy: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, rows in (
        ("training", result.history.training),
        ("held out", result.history.evaluation),
    ):
        axis.plot([r["step"] for r in rows], [r["mlm_loss"] for r in rows], label=name)
    axis.axhline(entropy, color="gray", linestyle="--", label="unigram entropy")
    axis.axhline(entropy - GOAL, color="gray", linestyle=":", label=f"{GOAL} nats below")
    axis.set(xlabel="step", ylabel="masked-LM loss, nats")
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _report(
    result: TrainingResult, entropy: float, filler: MaskFiller, speed: list[Row], seconds: float
) -> str:
    last = result.history.evaluation[-1]
    lines = [
        "# A small BERT on the text that Python carries",
        "",
        f"- unigram entropy of the text: {entropy:.3f} nats",
        f"- held-out masked-LM loss: {last['mlm_loss']:.3f} nats, "
        f"{entropy - last['mlm_loss']:.3f} below (goal: {GOAL})",
        f"- steps: {result.step}; seconds in all: {seconds:.0f}",
        "",
        "![loss](loss.png)",
        "",
        "| text | predictions |",
        "|---|---|",
    ]
    for text in SENTENCES:
        words = ", ".join(f"{p.token} ({p.probability:.0%})" for p in filler(text)[0])
        lines.append(f"| {text} | {words} |")
    lines += ["", "| mask | milliseconds | times as fast as SDPA |", "|---|---|---|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _speed_rows(speed)]
    return "\n".join(lines) + "\n"
