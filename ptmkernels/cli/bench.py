"""`ptmkernels bench OP...`: ops beside their peers, on the device at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmkernels.cli import app

if TYPE_CHECKING:
    from rich.console import Console

    from ptmkernels.benchmarks.harness import Benchmark, Options
    from ptmkernels.benchmarks.report import Row

_DTYPES = ("float32", "bfloat16", "float16")


@app.command()
def bench(
    ops: Annotated[list[str] | None, typer.Argument(help="What to measure; see --list.")] = None,
    list_ops: Annotated[bool, typer.Option("--list", help="List what can be measured.")] = False,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or auto (a GPU where there is one).")
    ] = "auto",
    threads: Annotated[str, typer.Option(help="CPU threads, several by commas.")] = "",
    dtype: Annotated[str, typer.Option(help=f"Of {', '.join(_DTYPES)}; several by commas.")] = "",
    mode: Annotated[
        str, typer.Option(help="Of forward, backward, forward+backward; several by commas.")
    ] = "forward,forward+backward",
    series: Annotated[str, typer.Option(help="Only these cases, by commas.")] = "",
    size: Annotated[str, typer.Option(help="Only these sizes, by commas.")] = "",
    provider: Annotated[str, typer.Option(help="Only these peers, separated by ';'.")] = "",
    seconds: Annotated[float, typer.Option(help="Timing of each case and mode.")] = 3.0,
    quick: Annotated[bool, typer.Option(help="A small selection.")] = False,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out/bench"),
) -> None:
    """Measure ops beside their peers: table, CSV, JSON and plot.

    Every answer is checked first. Exits with 1 where one of ours is wrong or missing.
    """
    from ptmkernels.benchmarks import OPS, load

    if list_ops or not ops:
        for name, text in OPS.items():
            typer.echo(f"{name:20} {text}")
        return
    chosen = [load(op) for op in ops]
    options = _options(device, threads, dtype, mode, series, size, provider, seconds, quick)
    right = [_measure(benchmark, options, output) for benchmark in chosen]
    if not all(right):
        raise typer.Exit(1)


def _options(
    device: str,
    threads: str,
    dtype: str,
    mode: str,
    series: str,
    size: str,
    provider: str,
    seconds: float,
    quick: bool,
) -> Options:
    import torch

    from ptmkernels._environment import usable_cores
    from ptmkernels.benchmarks.harness import MODES, Options

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = torch.device(device).type == "cuda"
    if gpu and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch {torch.__version__} sees no CUDA device")
    default_threads = str(torch.get_num_threads()) if gpu or quick else f"1,{usable_cores()}"
    default_dtypes = "float32" if quick and not gpu else "bfloat16" if quick else "float32,bfloat16"
    return Options(
        device=torch.device(device),
        dtypes=tuple(
            getattr(torch, name) for name in _words("dtype", dtype or default_dtypes, _DTYPES)
        ),
        threads=tuple(dict.fromkeys(_numbers("threads", threads or default_threads))),
        modes=_words("mode", mode, MODES),
        series=_split(series),
        sizes=_numbers("size", size),
        providers=_split(provider, ";"),
        quick=quick,
        budget=seconds if not quick else min(seconds, 1.0),
    )


def _split(text: str, separator: str = ",") -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(separator) if word.strip())


def _words(name: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = _split(text)
    for word in words:
        if word not in known:
            raise ValueError(f"{name} is {word!r}; expected one of {', '.join(known)}")
    return words


def _numbers(name: str, text: str) -> tuple[int, ...]:
    words = _split(text)
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"{name} is {text!r}; expected numbers above 0, separated by commas")
    return tuple(int(word) for word in words)


def _measure(benchmark: Benchmark, options: Options, output: Path) -> bool:
    """Run one benchmark and show it; False where an answer of ours is wrong or missing."""
    from rich.console import Console

    from ptmkernels.benchmarks import report

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    messages = Console(stderr=True)
    rows, finished = _run(benchmark, options, messages)
    if not rows and finished:
        raise ValueError(f"{benchmark.op} has no case for these options")
    if not rows:
        raise typer.Exit(130)
    console.print(report.table(rows))
    for remark in report.remarks(rows):
        console.print(remark, style="dim", markup=False)
    stem = f"{benchmark.op}-{options.device.type}"
    written = report.write(rows, output, stem)
    written.append(report.plot(rows, benchmark.peer, output / f"{stem}.png"))
    for path in filter(None, written):
        messages.print(f"written: {path}", markup=False, soft_wrap=True)
    if not finished:
        raise typer.Exit(130)
    return not any(row.status != "ok" and row.provider.startswith("ptmkernels") for row in rows)


def _run(benchmark: Benchmark, options: Options, messages: Console) -> tuple[list[Row], bool]:
    """The rows, and whether all of them were measured; Ctrl-C leaves those that were."""
    from rich.progress import Progress

    from ptmkernels.benchmarks import harness

    rows: list[Row] = []
    with Progress(console=messages) as progress:
        task = progress.add_task(benchmark.op, total=harness.count(benchmark, options))

        def show(text: str) -> None:
            progress.update(task, description=text)

        try:
            for group in harness.run(benchmark, options, on_start=show):
                rows += group
                progress.advance(task)
        except KeyboardInterrupt:
            messages.print(f"interrupted after {len(rows)} rows, which follow")
            return rows, False
    return rows, True
