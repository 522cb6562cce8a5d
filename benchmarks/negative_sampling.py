"""`negative_sampling_loss` beside the same in plain PyTorch, and word2vec's training beside gensim's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ptmkernels.benchmarks import word_vectors
from ptmkernels.benchmarks.harness import (
    BACKWARD,
    BOTH,
    FORWARD,
    Benchmark,
    Case,
    Comparison,
    Options,
    Provider,
)
from ptmkernels.benchmarks.machine import Work
from ptmkernels.ops import negative_sampling_loss

SERIES = "loss"
BATCHES = (1024, 8192)
WIDTH, VOCABULARY, NEGATIVES = 100, 10_000, 5  # D, V, N
# Times as fast as gensim with one thread, by architecture and D.
GOALS = {("skip-gram", 100): 11.0, ("skip-gram", 300): 8.0, ("cbow", 100): 5.0, ("cbow", 300): 4.0}


def cases(options: Options) -> Iterator[Case]:
    """The loss with given negatives, by batch size."""
    if options.series and SERIES not in options.series:
        return
    for batch in BATCHES[:1] if options.quick else BATCHES:
        for dtype in options.dtypes:
            yield _case(batch, dtype, options.device)


def _case(batch: int, dtype: torch.dtype, device: torch.device) -> Case:
    def inputs() -> dict[str, Tensor]:
        return {
            "hidden": torch.randn(batch, WIDTH, device=device).to(dtype),
            "output_weight": (0.3 * torch.randn(VOCABULARY, WIDTH, device=device)).to(dtype),
            "target": torch.randint(VOCABULARY, (batch,), device=device),
            "negatives": torch.randint(VOCABULARY, (batch, NEGATIVES), device=device),
        }

    rows = batch * (1 + NEGATIVES) * WIDTH
    size = dtype.itemsize
    forward = Work(2 * rows, size * (rows + batch * WIDTH))
    backward = Work(4 * rows, size * (3 * rows + 2 * batch * WIDTH + VOCABULARY * WIDTH))
    both = Work(forward.operations + backward.operations, forward.bytes + backward.bytes)
    return Case(
        *(SERIES, batch, {"B": batch, "N": NEGATIVES, "D": WIDTH, "V": VOCABULARY}, dtype, device),
        inputs,
        reference=_loss("reference"),
        work={FORWARD: forward, BACKWARD: backward, BOTH: both},
    )


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """Ours, on a GPU each backend of it, and PyTorch's."""
    return [
        Provider("ptmkernels", lambda c: _loss(None), against=None),
        *(
            Provider(f"ptmkernels, {name}", lambda c, name=name: _loss(name))
            for name in word_vectors.gpu_backends("negative_sampling_loss", case)
        ),
        Provider("pytorch", lambda c: _pytorch),
    ]


def _loss(backend: str | None) -> Callable[..., Tensor]:
    return partial(negative_sampling_loss, reduction="none", skip_target=False, backend=backend)


def _pytorch(hidden: Tensor, output_weight: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    """As models are written: look up the rows, a batched product, log-sigmoids."""
    positive = (hidden * output_weight[target]).sum(-1).float()
    noise = torch.bmm(output_weight[negatives], hidden[:, :, None])[:, :, 0].float()
    return -logsigmoid(positive) - logsigmoid(-noise).sum(-1)


def goal(case: Case, mode: str, provider: str) -> float | None:
    """The loss alone has no stated goal; training has."""
    return None


def comparisons(options: Options) -> Iterator[Comparison]:
    """The training, and the counting of words before it."""
    yield from word_vectors.counting_comparisons("negative_sampling", options)
    yield from word_vectors.comparisons("negative_sampling", "negative-sampling", GOALS, options)


BENCHMARK = Benchmark(
    "negative_sampling",
    "gensim",
    cases,
    providers,
    goal,
    comparisons,
)
