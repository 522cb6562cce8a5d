"""From the lines of a run to the files of benchmarks/results, one for each op and device."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

from ptmkernels.benchmarks.report import Row, write_json
from short_run.results import read


def convert(results: Path, folder: Path) -> list[Path]:
    """Writes the rows as `ptmkernels bench` does; returns the paths."""
    rows = [Row(**record["row"]) for record in read(results) if "row" in record]
    rows.sort(key=stem)
    folder.mkdir(parents=True, exist_ok=True)
    return [write_json(list(some), folder / f"{name}.json") for name, some in groupby(rows, stem)]


def stem(row: Row) -> str:
    """As "masked_attention-nvidia-h100-1a2b3c4"."""
    device = re.sub(r"[^a-z0-9]+", "-", row.device_name.lower()).strip("-")
    return "-".join(filter(None, (row.op, device, row.commit)))


if __name__ == "__main__":
    for path in convert(Path(sys.argv[1]), Path(sys.argv[2])):
        print(f"written: {path}")
