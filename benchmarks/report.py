"""Rows of measurements, and what is made of them: CSV, JSON, a table, a plot."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path

from rich.table import Table

_SHORT = {"forward": "fwd", "backward": "bwd", "forward+backward": "fwd+bwd"}


@dataclass
class Row:
    """One measurement. Times are of one call; what was not measured is None."""

    op: str
    provider: str
    mode: str
    series: str
    size: int
    shape: str
    dtype: str
    device: str
    device_name: str
    threads: int
    status: str  # ok, wrong (answer) or failed (does not run)
    reason: str = ""
    error: float | None = None  # RMS of the answer's deviation, relative
    q20_ms: float | None = None
    q50_ms: float | None = None
    q80_ms: float | None = None
    samples: int = 0
    peak_bytes: int | None = None  # torch's allocator, beyond the start
    peak_resident_bytes: int | None = None  # the same of the process, on Linux hosts
    floor_ms: float | None = None
    of_floor: float | None = None  # floor / median: 1 is the most that is possible
    speedup: float | None = None  # how many times as fast as this provider ours is
    goal: float | None = None  # what that should be
    goal_met: bool | None = None
    quality: str = ""  # of what was trained
    versions: str = ""
    commit: str = ""
    timing: str = ""  # on a GPU: of the replays of a graph, or of calls
    host_ms: float | None = None  # on a GPU: until a call returns


def write(rows: Sequence[Row], folder: Path, stem: str) -> list[Path]:
    """`stem`.csv and `stem`.json in `folder`, one record a row; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [asdict(row) for row in rows]
    csv_path = folder / f"{stem}.csv"
    with csv_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(records)
    return [csv_path, write_json(rows, folder / f"{stem}.json")]


def write_json(rows: Sequence[Row], path: Path) -> Path:
    """The rows as a list of records; returns the path."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return path


def table(rows: Sequence[Row]) -> Table:
    """One line for each case, mode and thread count; a column for each peer with our speed-up over it."""
    ours, peers = _ours(rows), _peers(rows)
    devices = ", ".join(sorted({row.device_name for row in rows}))
    title = f"{rows[0].op} on {devices}: how many times as fast as each peer"
    result = Table(title=title, caption="✓ or ✗: against the goal in brackets")
    for heading in ("case", "dtype", "threads", "mode"):
        result.add_column(heading)
    for heading in (f"{ours}, ms", "of floor", "memory", *peers):
        result.add_column(heading, justify="right")
    for key, group in groupby(rows, key=_case_key):
        by_name = {row.provider: row for row in group}
        own = by_name[ours]
        series, size, dtype, threads, mode = key
        result.add_row(
            *(f"{series} {size}", dtype, str(threads), _SHORT.get(mode, mode)),
            _milliseconds(own),
            "" if own.of_floor is None else f"{own.of_floor:.0%}",
            "" if own.peak_bytes is None else f"{own.peak_bytes / 2**20:.1f} MiB",
            *(_peer_cell(by_name.get(peer)) for peer in peers),
        )
    return result


def remarks(rows: Iterable[Row]) -> list[str]:
    """The quality of trainings; and why some providers have no time, each reason once with its cases."""
    cases: dict[tuple[str, str, str], list[str]] = {}
    qualities: list[str] = []
    for row in rows:
        if row.status != "ok":
            text = f"{row.series} {row.size} {row.dtype} {row.mode}"
            cases.setdefault((row.provider, row.status, row.reason), []).append(text)
        if row.quality:
            threads = f"threads: {row.threads}"
            qualities.append(f"{row.provider}, {row.series} {row.size}, {threads}: {row.quality}")
    return qualities + [
        f"{provider} {status}: {reason} ({_shortened(texts)})"
        for (provider, status, reason), texts in cases.items()
    ]


def plot(rows: Sequence[Row], peer: str, path: Path) -> Path | None:
    """Draw our speed-up over `peer` by size: a line a series, a panel a mode, dtype and thread count.

    Returns the path of the PNG, or None where nothing can be drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [row for row in rows if row.provider == peer and row.speedup is not None]
    panels = sorted({_panel(row) for row in drawn}, key=str)
    if not drawn:
        return None
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 3.4 * lines), squeeze=False, sharey=True
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    series = list(dict.fromkeys(row.series for row in drawn))
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, [row for row in drawn if _panel(row) == panel], series)
        axis.set_title(", ".join(str(part) for part in panel), fontsize=9)
    axes[0, 0].legend(fontsize=7)
    figure.suptitle(f"{drawn[0].op}: times as fast as {peer} ({drawn[0].device_name}); × goal")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _draw_panel(axis, rows: list[Row], series: list[str]) -> None:
    axis.axhline(1.0, color="black", linewidth=0.8)
    for index, name in enumerate(series):
        own = sorted((row for row in rows if row.series == name), key=lambda row: row.size)
        color = f"C{index}"
        axis.plot([r.size for r in own], [r.speedup for r in own], "o-", color=color, label=name)
        goals = [row for row in own if row.goal is not None]
        axis.plot([r.size for r in goals], [r.goal for r in goals], "x", color=color)
    axis.set(xscale="log", yscale="log", xlabel="size")
    sizes = sorted({row.size for row in rows})
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axis.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16, 32])
    axis.grid(alpha=0.3)


def _panel(row: Row) -> tuple[str, str, str]:
    threads = f"{row.threads} threads" if row.threads > 1 else "1 thread"
    return (row.dtype, threads, row.mode)


def _case_key(row: Row) -> tuple:
    return (row.series, row.size, row.dtype, row.threads, row.mode)


def _ours(rows: Sequence[Row]) -> str:
    return rows[0].provider


def _peers(rows: Sequence[Row]) -> list[str]:
    return [name for name in dict.fromkeys(row.provider for row in rows) if name != _ours(rows)]


def _milliseconds(row: Row) -> str:
    if row.q50_ms is None:
        return f"[red]{row.status}[/red]"
    return f"{row.q50_ms:.3g} ({row.q20_ms:.3g}–{row.q80_ms:.3g})"


def _peer_cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.speedup is None:
        return f"[red]{row.status}[/red]" if row.status != "ok" else "no ratio"
    text = f"{row.speedup:.2f}×"
    if row.goal is None:
        return text
    mark = "[green]✓[/green]" if row.goal_met else "[red]✗[/red]"
    return f"{text} {mark} ({row.goal:.2g})"


def _shortened(texts: list[str]) -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return ", ".join(texts[:3]) + more
