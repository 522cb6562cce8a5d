"""The training step on words that lie on its device: words a second, and in the same run how good they are.

`step_rates` trains with our op, for each backend and each bound on what is in flight; `pytorch_rates` does
the same in compiled PyTorch, a batch of pairs at a time. Each row is a dictionary of what was trained, its
rate and its quality: precision at 10 on the planted topics, and held-out loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ptmkernels.benchmarks.planted_topics import (
    PlantedTopics,
    held_out_loss,
    plant,
    topic_precision,
)
from ptmkernels.benchmarks.word_vector_batches import Noise, Paths, pairs_of, sgd_step
from ptmkernels.ops import AliasTable, HuffmanTree, cbow_step_, skipgram_step_
from ptmkernels.ops.word_vectors import in_flight

LOSSES = ("negative-sampling", "hierarchical-softmax")
WINDOW, NEGATIVES = 5, 5
RATES = {"skip-gram": 0.025, "cbow": 0.05}  # of learning
UNBOUNDED = in_flight.MOST
BOUNDS = (None, 64, 128, 256, 512, UNBOUNDED)  # None = the op's own
BATCH = 16_384  # pairs of a step in PyTorch
WARM_WORDS = 2000  # trained before the clock runs, so that everything is compiled


def topics_of(words: int = 4_000_000, vocabulary: int = 50_000) -> PlantedTopics:
    """A text of about `words` words of about `vocabulary` different ones, on the CPU."""
    topics = max(4, vocabulary // 125)
    return plant(topics, 48, max(50, vocabulary - 48 * topics), words // 20)


def step_rates(
    topics: PlantedTopics,
    *,
    architecture: str = "skip-gram",
    losses: Sequence[str] = LOSSES,
    widths: Sequence[int] = (100, 300),
    backends: Sequence[str] = ("cuda", "triton"),
    bounds: Sequence[int | None] = BOUNDS,
) -> Iterator[dict]:
    """A row for each loss, width, backend and bound: one pass over the text by our op.

    Args:
        topics: on the device to train on.
        bounds: for `max_in_flight`, left out by the backend "cpu".
    """
    for loss in losses:
        for width in widths:
            for backend in backends:
                for bound in (None,) if backend == "cpu" else bounds:
                    train = partial(_train_step, architecture, backend, bound)
                    row = _row(topics, architecture, loss, width, f"ptmkernels, {backend}", train)
                    yield row | {"max_in_flight": _bound_used(topics, row, backend, bound)}


def pytorch_rates(
    topics: PlantedTopics,
    *,
    losses: Sequence[str] = LOSSES,
    widths: Sequence[int] = (100, 300),
    batch: int = BATCH,
    compiled: bool = True,
) -> Iterator[dict]:
    """A row for each loss and width: one pass of skip-gram over the text in PyTorch, a batch at a time.

    The pairs are made before the clock runs. With a tree every path is padded to the longest.
    """
    step = torch.compile(sgd_step) if compiled else sgd_step
    for loss in losses:
        for width in widths:
            train = partial(_train_batches, step, batch)
            row = _row(topics, "skip-gram", loss, width, "pytorch", train)
            yield row | {"batch": batch, "compiled": compiled}


class _Model:
    """Starting weights of word2vec.c, and what a step needs beside them."""

    def __init__(self, topics: PlantedTopics, architecture: str, loss: str, width: int):
        device, size = topics.tokens.device, len(topics.counts)
        generator = torch.Generator().manual_seed(1)
        self.input = ((torch.rand(size, width, generator=generator) - 0.5) / width).to(device)
        self.tree = self.sampler = None
        if loss == "hierarchical-softmax":
            self.tree = HuffmanTree.from_counts(topics.counts).to(device)
        else:
            self.sampler = AliasTable.from_counts(topics.counts).to(device)
        self.output = torch.zeros(size - (self.tree is not None), width, device=device)
        self.rate = RATES[architecture]

    def outputs(self) -> dict:
        """What a word is scored against, as an argument of the ops."""
        return {"tree": self.tree} if self.sampler is None else {"sampler": self.sampler}


def _row(
    topics: PlantedTopics, architecture: str, loss: str, width: int, provider: str, train: Callable
) -> dict:
    model = _Model(topics, architecture, loss, width)
    seconds = train(topics, model)
    words = int((topics.tokens >= 0).sum())
    judged = {"cbow": architecture == "cbow", "window": WINDOW, **model.outputs()}
    return {
        "op": "word vectors", "provider": provider, "architecture": architecture, "loss": loss,
        "width": width, "vocabulary": len(topics.counts), "words": words,
        "device": topics.tokens.device.type, "seconds": seconds, "words_per_second": words / seconds,
        "precision": topic_precision(model.input, topics.topic),
        "held_out_loss": held_out_loss(model.input, model.output, topics.held_out, **judged),
    }  # fmt: skip


def _train_step(
    architecture: str, backend: str, bound: int | None, topics: PlantedTopics, model: _Model
) -> float:
    """Seconds of one call over the whole text; the op waits for its end."""
    if bound is None and backend != "cpu":
        bound = _default_bound(topics, model)
    options = {
        "window": WINDOW, "num_negatives": NEGATIVES, "learning_rate": model.rate, "keep": topics.keep(),
        "total": len(topics.tokens), "backend": backend, "max_in_flight": bound,
        "seed": torch.tensor([1], device=topics.tokens.device), **model.outputs(),
    }  # fmt: skip
    step = cbow_step_ if architecture == "cbow" else skipgram_step_
    warm = (model.input.clone(), model.output.clone(), topics.tokens[:WARM_WORDS])
    step(*warm, **options)
    start = time.perf_counter()
    step(model.input, model.output, topics.tokens, **options)
    return time.perf_counter() - start


def _default_bound(topics: PlantedTopics, model: _Model) -> int:
    """The bound that `Word2Vec.fit` takes."""
    share = topics.counts.numpy() * topics.keep_probability().clip(max=1)
    return in_flight.max_in_flight(
        share, window=WINDOW, num_negatives=NEGATIVES, learning_rate=model.rate, **model.outputs()
    )


def _bound_used(topics: PlantedTopics, row: dict, backend: str, bound: int | None) -> str:
    if backend == "cpu":
        return "1 thread"
    if bound is not None:
        return "unbounded" if bound == UNBOUNDED else str(bound)
    model = _Model(topics, row["architecture"], row["loss"], 1)
    return f"default: {_default_bound(topics, model)}"


def _train_batches(step: Callable, batch: int, topics: PlantedTopics, model: _Model) -> float:
    """Seconds of all batches; a last one that is not whole is left out, for it would be compiled anew."""
    torch.manual_seed(1)
    context, centre = pairs_of(topics, WINDOW)
    scored = Noise(topics, NEGATIVES) if model.tree is None else Paths(model.tree)
    count = max(1, len(centre) // batch)
    rates = torch.linspace(
        model.rate, 0, count + 1, device=centre.device
    )  # numbers would be compiled in

    def run(a: Tensor, b: Tensor, numbers: range) -> None:
        for n in numbers:
            part = slice(n * batch, (n + 1) * batch)
            near, word = context[part], centre[part]
            step(a, b, near, *scored.of(word), rates[n])

    run(model.input.clone(), model.output.clone(), range(min(3, count)))
    _wait(model.input)
    start = time.perf_counter()
    run(model.input, model.output, range(count))
    _wait(model.input)
    return time.perf_counter() - start


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
