"""`ptmkernels pretrain MODEL`: train a model from the start on a text."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from ptmkernels.training import PretrainingConfig, TrainingResult

_DATA, _MODEL, _LOOP, _RUN = "Text", "Model", "Training", "Run"
# Options that are no setting of the run itself.
_OUTSIDE = (
    "model",
    "preset",
    "overrides",
    "output",
    "resume",
    "threads",
    "static",
    "held_out_text",
)

_OBJECTIVES = {"transformer-xl": "lm", "xlnet": "plm"}  # of a model, where it is not BERT's


def _option(text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


@app.command()
def pretrain(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="bert, transformer-xl, xlnet; `ptmkernels zoo` lists the models."),
    ],
    output: Annotated[Path, _option("Folder of the run.", _RUN)],
    resume: Annotated[bool, _option("Go on from the newest checkpoint.", _RUN, "--resume")] = False,
    save_every: Annotated[int, _option("Steps between checkpoints; 0: at the end.", _RUN)] = 1000,
    keep: Annotated[int, _option("Checkpoints that are kept.", _RUN)] = 3,
    log_every: Annotated[int, _option("Steps between reports.", _RUN)] = 50,
    evaluate_every: Annotated[
        int, _option("Steps between evaluations; 0: at the end.", _RUN)
    ] = 1000,
    threads: Annotated[int, _option("CPU threads; 0: as torch chooses.", _RUN)] = 0,
    workers: Annotated[int, _option("Processes that prepare batches ahead.", _RUN)] = 0,
    preset: Annotated[str, _option("Size of the model: tiny, base, …", _MODEL)] = "tiny",
    overrides: Annotated[
        list[str] | None, _option("name=value of the configuration; repeatable.", _MODEL, "--set")
    ] = None,
    start: Annotated[
        str, _option("First weights: paper, or local (for small corpora).", _MODEL)
    ] = "paper",
    corpus: Annotated[
        list[str] | None, _option("A file or a folder of *.txt; repeatable. [python-topics]", _DATA)
    ] = None,
    layout: Annotated[
        str, _option("sentences (one a line, blank line between documents), text, auto.", _DATA)
    ] = "auto",
    held_out: Annotated[float, _option("Share of the documents for evaluation.", _DATA)] = 0.05,
    held_out_text: Annotated[
        str | None, _option("A text for evaluation, in place of a share.", _DATA)
    ] = None,
    tokenizer: Annotated[
        str | None, _option("Folder to read it from; otherwise one is learnt.", _DATA)
    ] = None,
    vocab_size: Annotated[int, _option("Word pieces to learn.", _DATA)] = 30522,
    lowercase: Annotated[
        bool, _option("Drop case and accents.", _DATA, "--lowercase/--cased")
    ] = True,
    max_length: Annotated[int, _option("Tokens in an example.", _DATA)] = 128,
    objective: Annotated[
        str | None,
        _option("mlm+nsp, mlm (on full sentences), lm, plm. [as the model's paper]", _DATA),
    ] = None,
    static: Annotated[
        bool, _option("Mask once, as BERT did, or anew.", _DATA, "--static/--dynamic")
    ] = False,
    duplicates: Annotated[int, _option("Replicas of the text with --static.", _DATA)] = 10,
    mask_probability: Annotated[float, _option("Share of the tokens to predict.", _DATA)] = 0.15,
    max_predictions: Annotated[int | None, _option("In an example at most.", _DATA)] = None,
    whole_words: Annotated[bool, _option("Hide whole words.", _DATA, "--whole-words")] = False,
    short_probability: Annotated[float, _option("Share of shorter pairs.", _DATA)] = 0.1,
    steps: Annotated[int, _option("Updates of the weights.", _LOOP)] = 10_000,
    batch_size: Annotated[int, _option("Examples in a batch of each process.", _LOOP)] = 32,
    accumulation: Annotated[int, _option("Batches in an update.", _LOOP)] = 1,
    learning_rate: Annotated[float, _option("The peak.", _LOOP)] = 1e-4,
    warmup: Annotated[
        int | None, _option("Steps of warm-up. [a tenth of the steps]", _LOOP)
    ] = None,
    schedule: Annotated[
        str, _option("linear, polynomial, inverse-sqrt, constant.", _LOOP)
    ] = "linear",
    power: Annotated[float, _option("Of the polynomial schedule.", _LOOP)] = 1.0,
    optimizer: Annotated[str, _option("adamw, lamb, adafactor.", _LOOP)] = "adamw",
    weight_decay: Annotated[float, _option("Not of biases and norms.", _LOOP)] = 0.01,
    max_gradient_norm: Annotated[float, _option("Gradients are scaled down to it.", _LOOP)] = 1.0,
    precision: Annotated[str, _option("no (float32), bf16, fp16 (on a GPU).", _LOOP)] = "no",
    checkpoint_activations: Annotated[
        bool, _option("Less memory, more time.", _LOOP, "--checkpoint-activations")
    ] = False,
    seed: Annotated[int, _option("Of everything random.", _LOOP)] = 0,
) -> None:
    """Train a model from the start on a text; `torchrun --nproc-per-node N -m ptmkernels …` for several.

    Ctrl-C saves a checkpoint; --resume goes on from there, to the same weights.
    """
    given = dict(context.params)
    _set_threads(threads)
    if resume:
        config = _stored(output, _explicit(context), given)
    else:
        _refuse_overwriting(output)
        config = _config(given)
    result = run(config, output, resume=resume)
    if result.interrupted:
        raise typer.Exit(130)


def run(config: PretrainingConfig, output: Path, *, resume: bool = False) -> TrainingResult:
    """Prepare and train; says where the model lies, or how to go on."""
    from ptmkernels.registry import model_card
    from ptmkernels.training import prepare_pretraining

    guesses: list[str] = []
    trainer = prepare_pretraining(config, output, resume=resume, say=guesses.append)
    main_process = trainer.accelerator.is_main_process
    if main_process:
        for guess in guesses:
            typer.echo(f"{guess} (a guess; say otherwise with --layout)", err=True)
        config.write(output)
    result = trainer.run()
    if main_process and result.interrupted:
        typer.echo(
            f"Stopped after step {result.step} of {config.training.steps}; {result.checkpoint} is whole. "
            f"Go on with: ptmkernels pretrain {model_card(config.model).name} --output {output} --resume",
            err=True,
        )
    elif main_process:
        hint = f"; try: ptmkernels fill-mask {output} 'A [MASK] text'"
        hint = hint if config.objective[:3] == "mlm" else ""
        typer.echo(f"The model lies in {output}{hint}", err=True)
    # A process that ends while its group is open may be aborted by the threads of the group.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return result


def _set_threads(threads: int) -> None:
    if threads < 0:
        raise ValueError(f"threads is {threads}; expected a number >= 0")
    if threads:
        import torch

        torch.set_num_threads(threads)


def _config(given: dict[str, Any]) -> PretrainingConfig:
    """The settings that the options say."""
    from ptmkernels.registry import resolve
    from ptmkernels.training import PretrainingConfig, TrainingConfig

    given = dict(given)
    if given["warmup"] is None:
        given["warmup"] = given["steps"] // 10
    settings = _settings(given)
    loop = {f.name for f in fields(TrainingConfig)}
    return PretrainingConfig(
        model=resolve(given["model"], given["preset"]),
        overrides=parse_overrides(given["overrides"]),
        training=TrainingConfig(**{n: v for n, v in settings.items() if n in loop}),
        **{n: v for n, v in settings.items() if n not in loop},
    )


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Options as settings of the run."""
    settings = {name: value for name, value in given.items() if name not in _OUTSIDE}
    settings["corpus"] = given["corpus"] or ["python-topics"]
    settings["objective"] = given["objective"] or _OBJECTIVES.get(given["model"], "mlm+nsp")
    settings["duplicates"] = given["duplicates"] if given["static"] else None
    if given["held_out_text"] is not None:
        settings["held_out"] = given["held_out_text"]
    return settings


def _explicit(context: typer.Context) -> list[str]:
    """The options that were given on the command line."""
    return [
        name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"
    ]


def _stored(output: Path, explicit: list[str], given: dict[str, Any]) -> PretrainingConfig:
    """The settings that a run was started with, and the few that may be changed when it goes on.

    Raises:
        ValueError: there is nothing to go on from, or another option is given than the run was started with.
    """
    from ptmkernels.training import PretrainingConfig, latest_checkpoint
    from ptmkernels.training.trainer import FREE_SETTINGS

    config = PretrainingConfig.read(output)
    if latest_checkpoint(output) is None:
        raise ValueError(f"{output} has no checkpoint to go on from; start without --resume")
    settings = _settings(given)
    before = config.flat()
    for name in explicit:
        if name in settings and name not in FREE_SETTINGS and settings[name] != before[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} is {settings[name]!r}, but the run in {output} was started "
                f"with {before[name]!r}"
            )
    return config.changed(**{n: settings[n] for n in explicit if n in FREE_SETTINGS})


def _refuse_overwriting(output: Path) -> None:
    from ptmkernels.training import checkpoints_of

    if checkpoints_of(output):
        raise ValueError(
            f"{output} holds a run already; go on with --resume, or choose another folder"
        )


def parse_overrides(texts: list[str] | None) -> dict[str, Any]:
    """`name=value` texts; values as in JSON, anything else is a string."""
    overrides: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set is {text!r}; expected name=value")
        try:
            overrides[name] = json.loads(value)
        except json.JSONDecodeError:
            overrides[name] = value
    return overrides
