"""Draws the figures of the documentation, checks its links and runs its examples."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import matplotlib
import torch

import ptmkernels as ptm
from ptmkernels.ops import StreamOrder
from ptmkernels.ops.attention.options import AttentionOptions
from ptmkernels.ops.attention.reference import relative_rows

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Every Markdown page of the project."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def draw_masks() -> Path:
    """One small picture for each kind of interval mask."""
    length = 24
    order = torch.randperm(length, generator=torch.Generator().manual_seed(1))
    real = torch.arange(length)[None] < 16
    masks = {
        "full": ptm.AttentionMask.full(length),
        "causal": ptm.AttentionMask.causal(length),
        "prefix": ptm.AttentionMask.prefix([10], length),
        "padded keys": ptm.AttentionMask.keys(real),
        "packed documents": ptm.AttentionMask.documents(torch.arange(length)[None] // 7),
        "window": ptm.AttentionMask.window(length, length, 4, 2),
        "recurrence": ptm.AttentionMask.recurrence(length // 2, length // 2, 12),
        "permutation": ptm.AttentionMask.permutation(order[None]),
    }
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
    for axis, (name, mask) in zip(axes.flat, masks.items(), strict=True):
        mask.plot(ax=axis)
        axis.set(title=name, xlabel="", ylabel="", xticks=[], yticks=[])
    figure.supxlabel("key")
    figure.supylabel("query")
    return _saved(figure, "masks.png")


def draw_streams() -> Path:
    """Distances, the band of a tile, and XLNet's two streams as one mask."""
    length, tile = 16, (4, 8)  # the first query and the first key of a tile of 4 x 4
    shape = torch.zeros(1, 1, length, 4)
    rows = torch.zeros(1, 1, 2 * length, 4)
    options = AttentionOptions.of(shape, None, None, None, 0.0, None, relative_key=rows)
    distance = relative_rows(options._replace(relative_offset=length), length, length)[0]
    band = torch.zeros(4, 2 * length)
    for query in range(4):
        band[query, distance[tile[0] + query, tile[1] : tile[1] + 4]] = 1
    order = torch.randperm(length, generator=torch.Generator().manual_seed(3))[None]
    targets = order >= length - 4
    index = targets[0].nonzero()[:, 0]
    content = ptm.AttentionMask.permutation(order, targets)
    stream = ptm.AttentionMask.permutation(order, targets, "query", query_index=index[None])
    rows = StreamOrder.of(content, stream, index[None], sizes=(1, length, 4), key_len=length)
    predicted = rows.order[0, :, None] >= length
    seen = rows.mask.to_dense()[0] * torch.where(predicted, 1.0, 0.6)

    figure, axes = plt.subplots(
        1, 3, figsize=(11, 4.2), width_ratios=(1, 1.5, 0.9), layout="constrained"
    )
    axes[0].imshow(distance, cmap="viridis")
    axes[0].add_patch(
        plt.Rectangle((tile[1] - 0.5, tile[0] - 0.5), 4, 4, fill=False, ec="white", lw=2)
    )
    axes[0].set(title="row of r for query i, key j", xlabel="key", ylabel="query")
    axes[1].imshow(band, cmap="Blues", aspect="auto")
    axes[1].set(title="what the tile's queries read of (q + v) rᵀ", xlabel="row of r", yticks=[])
    axes[2].imshow(seen, cmap="Blues", vmin=0, vmax=1)
    axes[2].set(title="two streams, one call", xlabel="key")
    axes[2].set_yticks(predicted[:, 0].nonzero()[:, 0], ["predicted"] * 4)
    return _saved(figure, "streams.png")


def _saved(figure, name: str) -> Path:
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / name
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def broken_links() -> list[str]:
    """Links to files that are not there."""
    found = []
    for page in pages():
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                found.append(f"{page.relative_to(ROOT)}: {target}")
    return found


def run_examples(page: Path) -> int:
    """Runs every Python block of a page, each for itself in an empty folder; returns how many there were."""
    text = page.read_text(encoding="utf-8")
    blocks = list(EXAMPLE.finditer(text))
    for block in blocks:
        above = text.count("\n", 0, block.start(1))  # so that a traceback names the page's own line
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                exec(compile("\n" * above + block[1], str(page), "exec"), {})
            finally:
                os.chdir(ROOT)
    return len(blocks)


if __name__ == "__main__":
    for draw in (draw_masks, draw_streams):
        print(f"drawn: {draw().relative_to(ROOT)}")
    if broken := broken_links():
        sys.exit("broken links:\n  " + "\n  ".join(broken))
    print(f"links: whole in {len(pages())} pages")
    for page in pages():
        if count := run_examples(page):
            print(f"examples: {count} of {page.relative_to(ROOT)} ran")
