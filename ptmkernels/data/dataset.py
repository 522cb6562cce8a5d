"""Batches of masked examples, each a pure function of (seed, epoch, place in the epoch).

So a run can be resumed at any batch, and neither the number of processes nor that of loader workers
changes what is seen or when.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ptmkernels.data.examples import Example, ExampleSource
from ptmkernels.data.masking import IGNORED, Masking
from ptmkernels.data.randomness import MASKING, ORDER, PLAN, generator_at

__all__ = ["Cursor", "MaskedDataset", "collate", "load_batches"]


@dataclass(frozen=True)
class Cursor:
    """A place in the endless stream of examples: how many of an epoch have been seen."""

    epoch: int = 0
    position: int = 0


class MaskedDataset:
    """Masked examples of a source, epoch after epoch, without an end.

    Args:
        source: cuts the corpus into examples.
        masking: corrupts one example.
        pad_id: token that fills up shorter rows.
        seed: of everything drawn.
        duplicates: None = dynamic masking: sentences are combined and masked anew in each epoch (RoBERTa).
            A number = static masking: that many replicas of the corpus, combined and masked once, of which
            an epoch is all, shuffled (BERT's duplicate factor, 10).

    Raises:
        ValueError: the seed or the number of duplicates is out of range.
    """

    def __init__(
        self,
        source: ExampleSource,
        masking: Masking,
        *,
        pad_id: int,
        seed: int,
        duplicates: int | None = None,
    ) -> None:
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; expected 0 <= seed < 2**63")
        if duplicates is not None and duplicates < 1:
            raise ValueError(f"duplicates is {duplicates}; expected a number >= 1, or None")
        self.source = source
        self.masking = masking
        self.pad_id = pad_id
        self.seed = seed
        self.duplicates = duplicates
        # Two epochs meet in one batch; a static epoch needs all replicas at once.
        self._plan = lru_cache(maxsize=max(2, duplicates or 0))(self._draw_plan)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __getstate__(self) -> dict[str, Any]:
        """For loader workers: plans are drawn there anew."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_plan", "_order")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def _streams(self, epoch: int) -> range:
        """The replicas of the corpus that an epoch is made of."""
        return range(epoch, epoch + 1) if self.duplicates is None else range(self.duplicates)

    def _draw_plan(self, stream: int) -> Any:
        return self.source.plan(generator_at(self.seed, PLAN, stream))

    def _draw_order(self, epoch: int) -> np.ndarray:
        """(N, 2) the stream and the index in it of each example of an epoch."""
        places = [
            np.stack([np.full(len(plan), stream), np.arange(len(plan))], axis=1)
            for stream in self._streams(epoch)
            for plan in (self._plan(stream),)
        ]
        return generator_at(self.seed, ORDER, epoch).permutation(np.concatenate(places))

    def epoch_length(self, epoch: int) -> int:
        """N, the number of examples in an epoch; with dynamic masking it differs from epoch to epoch."""
        return len(self._order(epoch))

    def advance(self, cursor: Cursor, count: int) -> Cursor:
        """The place `count` examples further on."""
        epoch, position = cursor.epoch, cursor.position + count
        while position >= (length := self.epoch_length(epoch)):
            epoch, position = epoch + 1, position - length
        return Cursor(epoch, position)

    def batch(self, cursor: Cursor, count: int) -> dict[str, Tensor]:
        """The `count` examples from a place on (see :func:`collate`)."""
        rows = []
        for _ in range(count):
            cursor = self.advance(cursor, 0)
            stream, index = self._order(cursor.epoch)[cursor.position].tolist()
            rows.append(self._row(stream, index))
            cursor = Cursor(cursor.epoch, cursor.position + 1)
        return collate(rows, self.pad_id)

    def __len__(self) -> int:
        """The number of examples in the first epoch."""
        return self.epoch_length(0)

    def __getitem__(self, place: tuple[Cursor, int]) -> dict[str, Tensor]:
        """:meth:`batch` for a loader."""
        return self.batch(*place)

    def epoch_batch(self, number: int, size: int) -> dict[str, Tensor]:
        """Batch `number` of the first epoch, `size` examples each; the last may have fewer."""
        start = number * size
        return self.batch(Cursor(0, start), min(size, len(self) - start))

    def fingerprint(self) -> dict[str, Any]:
        """What the examples depend on, for a run that goes on to make sure of."""
        first = self.batch(Cursor(), min(64, len(self)))
        return {
            "seed": self.seed,
            "duplicates": self.duplicates,
            "examples": len(self),
            "tokens": zlib.crc32(self.source.corpus.tokens.tobytes()),
            "batch": zlib.crc32(b"".join(first[name].numpy().tobytes() for name in sorted(first))),
        }

    def _row(self, stream: int, index: int) -> tuple[Example, np.ndarray, np.ndarray]:
        example = self.source.example(self._plan(stream), index)
        rng = generator_at(self.seed, MASKING, stream, index)
        return example, *self.masking(example.input_ids, example.eligible, rng)


def collate(
    rows: Sequence[tuple[Example, np.ndarray, np.ndarray]], pad_id: int
) -> dict[str, Tensor]:
    """Rows of one batch, padded on the right to the longest.

    Args:
        rows: (example, corrupted ids, labels) of each.
        pad_id: token that fills up.

    Returns:
        `input_ids`, `attention_mask`, `token_type_ids`, `labels` (B, L) int64, labels -100 where nothing is
        to be predicted; and each label of whole sequences (B,) int64.
    """
    length = max(len(ids) for _, ids, _ in rows)
    batch = {
        "input_ids": np.full((len(rows), length), pad_id),
        "attention_mask": np.zeros((len(rows), length), dtype=np.int64),
        "token_type_ids": np.zeros((len(rows), length), dtype=np.int64),
        "labels": np.full((len(rows), length), IGNORED),
    }
    for i, (example, ids, labels) in enumerate(rows):
        n = len(ids)
        batch["input_ids"][i, :n] = ids
        batch["attention_mask"][i, :n] = 1
        batch["token_type_ids"][i, :n] = example.token_type_ids
        batch["labels"][i, :n] = labels
    for name in rows[0][0].labels:
        batch[name] = np.array([example.labels[name] for example, _, _ in rows])
    return {name: torch.from_numpy(array) for name, array in batch.items()}


@dataclass(frozen=True)
class _Places:
    """Where the micro-batches of one process lie, from a place on, without an end."""

    dataset: MaskedDataset
    start: Cursor
    batch_size: int
    rank: int
    num_processes: int

    def __iter__(self) -> Iterator[tuple[Cursor, int]]:
        cursor = self.dataset.advance(self.start, self.rank * self.batch_size)
        while True:
            yield cursor, self.batch_size
            cursor = self.dataset.advance(cursor, self.num_processes * self.batch_size)


def load_batches(
    dataset: MaskedDataset,
    start: Cursor,
    batch_size: int,
    *,
    rank: int = 0,
    num_processes: int = 1,
    workers: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """The micro-batches of one process, without an end.

    Processes take turns, so that together they see what one process with as many times the batch sees.

    Args:
        dataset: gives the examples.
        start: place of the first one of all processes.
        batch_size: of each process.
        rank, num_processes: which process this is.
        workers: processes that prepare batches ahead; 0 = prepare when asked.
    """
    places = _Places(dataset, start, batch_size, rank, num_processes)
    # A generator of its own: the loader draws a number, which must not shift the model's dropout.
    loader = DataLoader(
        dataset,
        sampler=places,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)
