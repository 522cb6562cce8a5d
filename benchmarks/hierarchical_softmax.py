"""`hierarchical_softmax_loss` beside padded paths in PyTorch, and word2vec's training beside gensim's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence

from ptmkernels.benchmarks import word_vectors
from ptmkernels.benchmarks.harness import (
    BACKWARD,
    BOTH,
    FORWARD,
    Benchmark,
    Case,
    Options,
    Provider,
)
from ptmkernels.benchmarks.machine import Work
from ptmkernels.ops import HuffmanTree, hierarchical_softmax_loss

SERIES = "loss"
BATCHES = (1024, 8192)
WIDTH, VOCABULARY = 100, 10_000  # D, V
# Times as fast as gensim with one thread, by architecture and D.
GOALS = {("skip-gram", 100): 4.5, ("skip-gram", 300): 4.0}


@dataclass(frozen=True)
class Setup:
    """The tree over a Zipf vocabulary, and its padded paths (V, T): nodes, and signs, 0 beyond the end."""

    tree: HuffmanTree
    nodes: Tensor
    signs: Tensor


def make_setup(device: torch.device) -> Setup:
    counts = (1e6 / (torch.arange(VOCABULARY) + 2.7)).long() + 1
    tree = HuffmanTree.from_counts(counts)
    row, node, sign = tree.entries(torch.arange(VOCABULARY))
    lengths = torch.bincount(row, minlength=VOCABULARY).tolist()
    nodes, signs = (pad_sequence(t.split(lengths), batch_first=True) for t in (node, sign))
    return Setup(tree.to(device), nodes.to(device), signs.to(device))


def cases(options: Options) -> Iterator[Case]:
    """The loss of words drawn by their frequency, by batch size."""
    if options.series and SERIES not in options.series:
        return
    setup = make_setup(options.device)
    for batch in BATCHES[:1] if options.quick else BATCHES:
        for dtype in options.dtypes:
            yield _case(batch, dtype, options.device, setup)


def _case(batch: int, dtype: torch.dtype, device: torch.device, setup: Setup) -> Case:
    frequency = 1 / (torch.arange(VOCABULARY, device=device) + 2.7)
    steps = batch * float((frequency / frequency.sum() * (setup.signs != 0).sum(1)).sum())

    def inputs() -> dict[str, Tensor]:
        weight = 0.3 * torch.randn(VOCABULARY - 1, WIDTH, device=device)
        return {
            "hidden": torch.randn(batch, WIDTH, device=device).to(dtype),
            "node_weight": weight.to(dtype),
            "target": torch.multinomial(frequency, batch, replacement=True),
        }

    elements, size = steps * WIDTH, dtype.itemsize
    forward = Work(2 * elements, size * (elements + batch * WIDTH))
    backward = Work(4 * elements, size * (3 * elements + 2 * batch * WIDTH + VOCABULARY * WIDTH))
    both = Work(forward.operations + backward.operations, forward.bytes + backward.bytes)
    return Case(
        *(SERIES, batch, {"B": batch, "D": WIDTH, "V": VOCABULARY}, dtype, device, inputs),
        reference=_loss(setup, "reference"),
        work={FORWARD: forward, BACKWARD: backward, BOTH: both},
        setup=setup,
    )


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """Ours, on a GPU each backend of it, and PyTorch's."""
    return [
        Provider("ptmkernels", lambda c: _loss(c.setup, None), against=None),
        *(
            Provider(f"ptmkernels, {name}", lambda c, name=name: _loss(c.setup, name))
            for name in word_vectors.gpu_backends("hierarchical_softmax_loss", case)
        ),
        Provider("pytorch", lambda c: partial(_pytorch, c.setup)),
    ]


def _loss(setup: Setup, backend: str | None) -> Callable[..., Tensor]:
    return partial(hierarchical_softmax_loss, tree=setup.tree, reduction="none", backend=backend)


def _pytorch(setup: Setup, hidden: Tensor, node_weight: Tensor, target: Tensor) -> Tensor:
    """As models are written: every path padded to the longest, a batched product, log-sigmoids."""
    sign = setup.signs[target]
    logits = torch.bmm(node_weight[setup.nodes[target]], hidden[:, :, None])[:, :, 0].float()
    return -(logsigmoid(sign * logits) * (sign != 0)).sum(-1)


def goal(case: Case, mode: str, provider: str) -> float | None:
    """The loss alone has no stated goal on a CPU; training has."""
    return None


BENCHMARK = Benchmark(
    "hierarchical_softmax",
    "gensim",
    cases,
    providers,
    goal,
    partial(word_vectors.comparisons, "hierarchical_softmax", "hierarchical-softmax", GOALS),
)
