"""Draws the figures of the documentation, checks its links and runs the examples of the README."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib
import torch

import ptmkernels as ptm

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
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.4))
    for axis, (name, mask) in zip(axes.flat, masks.items(), strict=True):
        mask.plot(ax=axis)
        axis.set(title=name, xlabel="", ylabel="", xticks=[], yticks=[])
    figure.supxlabel("key")
    figure.supylabel("query")
    figure.tight_layout()
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / "masks.png"
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
    """Runs every Python block of a page, each for itself; returns how many there were."""
    text = page.read_text(encoding="utf-8")
    blocks = list(EXAMPLE.finditer(text))
    for block in blocks:
        above = text.count("\n", 0, block.start(1))  # so that a traceback names the page's own line
        exec(compile("\n" * above + block[1], str(page), "exec"), {})
    return len(blocks)


if __name__ == "__main__":
    print(f"drawn: {draw_masks().relative_to(ROOT)}")
    if broken := broken_links():
        sys.exit("broken links:\n  " + "\n  ".join(broken))
    print(f"links: whole in {len(pages())} pages")
    print(f"examples: {run_examples(ROOT / 'README.md')} of README.md ran")
