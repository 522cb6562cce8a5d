"""What a run found, on one page: what failed, ratios that miss their goals, those that reach them, the rest.

The goals are those of the benchmarks (`goal` in each file), written into every row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from short_run.results import FAILED, OK, SKIPPED, WRONG, read
from short_run.settings import Settings

LINES = (40, 20, 12, 8, 5, 3)  # of a section
CHARACTERS = 10_000  # of the page, which may be all that is seen of a run


def write_summary(settings: Settings) -> str:
    """The page, as text and in its file."""
    records = read(settings.results)
    pages = (summary(records, settings.commit, lines) for lines in LINES)
    text = next((page for page in pages if len(page) <= CHARACTERS), "")
    text = text or summary(records, settings.commit, LINES[-1])
    settings.summary.write_text(text, encoding="utf-8")
    return text


def summary(records: list[dict], commit: str, most: int = LINES[0]) -> str:
    """The page for these records, with at most so many lines in a section."""
    rows = [record["row"] for record in records if "row" in record]
    ratios = [row for row in rows if row.get("goal") is not None and row["speedup"] is not None]
    sections = [
        ("failed or wrong", failures(records)),
        ("below the goal", [ratio(row) for row in ratios if not row["goal_met"]]),
        ("at the goal", [ratio(row) for row in ratios if row["goal_met"]]),
        ("other times", other_times(rows)),
        ("tiles, fastest first", tiles(records)),
        ("found", [found(record) for record in records if "note" in record]),
        ("skipped", skipped(records)),
    ]
    counts = Counter(record["status"] for record in records)
    listed = ", ".join(f"{counts[name]} {name}" for name in (OK, WRONG, FAILED, SKIPPED))
    lines = [f"commit {commit or 'unknown'}: {listed}"]
    for title, entries in sections:
        if not entries:
            continue
        lines += ["", f"{title} ({len(entries)})"]
        lines += [f"  {entry}" for entry in entries[:most]]
        if len(entries) > most:
            lines.append(f"  and {len(entries) - most} more in results.jsonl")
    return "\n".join(lines) + "\n"


def failures(records: Iterable[dict]) -> list[str]:
    """Ours first: a peer that fails is a missing ratio, not a fault of the kernels."""
    bad = [r for r in records if r["status"] in (WRONG, FAILED)]
    bad.sort(key=is_peer)
    return [f"{r['step']}: {r['name']}: {r['status']}: {r['reason']}"[:300] for r in bad]


def is_peer(record: dict) -> bool:
    """Whether a row is that of a peer."""
    return "row" in record and not record["row"]["provider"].startswith("ptmkernels")


def case(row: dict) -> str:
    return f"{row['op']} {row['series']} {row['size']} {row['mode']}"


def ratio(row: dict) -> str:
    """How many times as fast as a peer."""
    return f"{case(row)}: {row['speedup']:.2f} of {row['provider']} (goal {row['goal']:.2f})"


def other_times(rows: Iterable[dict]) -> list[str]:
    """One line a case: our time, and how many times as fast as each provider without a goal."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row["q50_ms"] is None:
            continue
        parts = lines.setdefault(case(row), [])
        if row["provider"] == "ptmkernels":
            share = f", {row['of_floor']:.0%} of the floor" if row["of_floor"] else ""
            if tokens := re.search(r"\btokens=(\d+)", row["shape"]):
                share += f", {int(tokens[1]) / row['q50_ms'] * 1e3:.3g} tokens/s"
            if row["peak_bytes"]:
                share += f", {row['peak_bytes'] / 2**20:.0f} MiB"
            host = f", host {row['host_ms']:.3f} ms" if row.get("host_ms") else ""
            parts.insert(0, f"{row['q50_ms']:.3f} ms{share}{host}")
        elif row["goal"] is None and row["speedup"] is not None:
            parts.append(f"{row['speedup']:.2f} of {row['provider']}")
        if row["quality"]:
            parts.append(f"{row['provider']}: {row['quality']}")
    return [f"{name}: {'; '.join(parts)}" for name, parts in lines.items() if parts]


def tiles(records: Iterable[dict]) -> list[str]:
    """The times of a sweep, one line for each kernel and length."""
    by_kernel: dict[str, list[tuple[float, str]]] = {}
    for record in records:
        if "tile" in record and record["status"] == OK:
            place = f"{record['kernel']} L {record['length']}"
            by_kernel.setdefault(place, []).append((record["ms"], record["tile"]))
    return [
        f"{place}: " + ", ".join(f"{tile} {ms:.3f} ms" for ms, tile in sorted(times))
        for place, times in by_kernel.items()
    ]


def found(record: dict) -> str:
    return f"{record['step']}: {record['name']}: {record['note']}"


def skipped(records: Iterable[dict]) -> list[str]:
    return [f"{r['step']}: {r['name']} ({r['reason']})" for r in records if r["status"] == SKIPPED]
