"""Streams of word ids with planted topics, and how well vectors trained on them have learned those.

Half of a sentence's words come from a Zipf head that all sentences share, the others from its topic. Two
measures need no other model: the share of a word's ten nearest neighbours that are of its topic, and the loss
on sentences that were held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptmkernels.ops import (
    AliasTable,
    HuffmanTree,
    hierarchical_softmax_loss,
    negative_sampling_loss,
)
from ptmkernels.ops.word_vectors import keep_thresholds

NEIGHBOURS = 10
JUDGED_WORDS = 2000  # topic words at most whose neighbours are looked up
HELD_OUT = 500  # sentences


@dataclass(frozen=True)
class PlantedTopics:
    """A stream of word ids, numbered from the most frequent word on.

    Attributes:
        tokens: int32, -1 after each sentence.
        held_out: int64 (HELD_OUT, length), sentences that are not in `tokens`.
        counts: int64 (V,), falling, on the CPU.
        topic: int64 (V,), that of each word; -1 = common.
    """

    tokens: Tensor
    held_out: Tensor
    counts: Tensor
    topic: Tensor

    def to(self, device: torch.device | str) -> PlantedTopics:
        """The same with everything but the counts on `device`."""
        moved = (t.to(device) for t in (self.tokens, self.held_out))
        return PlantedTopics(*moved, self.counts, self.topic.to(device))

    def keep_probability(self, sample: float = 1e-3) -> np.ndarray:
        """(V,), word2vec.c's sub-sampling."""
        share = (self.counts / self.counts.sum()).numpy()
        return (np.sqrt(share / sample) + 1) * sample / share

    def keep(self, sample: float = 1e-3) -> Tensor:
        """The same as the steps take it, on the device of the tokens."""
        return keep_thresholds(self.keep_probability(sample)).to(self.tokens.device)


def sentences_with_topics(
    topics: int, words: int, head: int, sentences: int, length: int = 20, seed: int = 1
) -> np.ndarray:
    """(sentences, length): below `head` a common word, else head + topic * words + word of the topic."""
    rng = np.random.default_rng(seed)
    share = 1 / (np.arange(head) + 2.7)
    topic = rng.integers(topics, size=(sentences, 1))
    own = head + topic * words + rng.integers(words, size=(sentences, length))
    common = rng.choice(head, (sentences, length), p=share / share.sum())
    return np.where(rng.random((sentences, length)) < 0.5, common, own)


def plant(
    topics: int, words: int, head: int, sentences: int, length: int = 20, seed: int = 1
) -> PlantedTopics:
    """A stream of `sentences` sentences; arguments as :func:`sentences_with_topics`."""
    ids = sentences_with_topics(topics, words, head, sentences + HELD_OUT, length, seed)
    size = head + topics * words
    counts = np.bincount(ids[HELD_OUT:].ravel(), minlength=size)
    order = np.argsort(-counts, kind="stable")
    number = np.empty(size, np.int64)
    number[order] = np.arange(size)
    ids = number[ids]
    stream = np.pad(ids[HELD_OUT:], ((0, 0), (0, 1)), constant_values=-1).astype(np.int32)
    topic = np.where(order < head, -1, (order - head) // words)
    return PlantedTopics(
        torch.from_numpy(stream.ravel()),
        torch.from_numpy(ids[:HELD_OUT]),
        torch.from_numpy(np.maximum(counts[order], 1)),
        torch.from_numpy(topic),
    )


def topic_precision(vectors: Tensor, topic: Tensor) -> float:
    """The share of the ten nearest topic words of a topic word that are of its topic.

    Args:
        vectors: (V, D).
        topic: int64 (V,); -1 = of none.
    """
    words = torch.nonzero(topic >= 0)[:, 0]
    unit = torch.nn.functional.normalize(vectors[words].float(), dim=1)
    places = torch.arange(0, len(words), max(1, len(words) // JUDGED_WORDS), device=words.device)
    cosine = unit[places] @ unit.T
    cosine.scatter_(1, places[:, None], -2.0)  # a word is not its own neighbour
    nearest = words[cosine.topk(NEIGHBOURS).indices]
    return (topic[nearest] == topic[words[places], None]).float().mean().item()


def held_out_loss(
    input_weight: Tensor,
    output_weight: Tensor,
    sentences: Tensor,
    *,
    cbow: bool,
    window: int,
    sampler: AliasTable | None = None,
    tree: HuffmanTree | None = None,
) -> float:
    """The mean training loss with full windows; arguments as those of the training step.

    Args:
        sentences: int64 (sentences, length).
    """
    hidden, target = (_means if cbow else _pairs)(input_weight, sentences, window)
    if tree is not None:
        return hierarchical_softmax_loss(hidden, target, output_weight, tree).item()
    seed = torch.tensor([1], device=hidden.device)
    return negative_sampling_loss(hidden, target, output_weight, sampler=sampler, seed=seed).item()


def _pairs(input_weight: Tensor, sentences: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """A row for each pair of words within reach of each other, and the word that it predicts."""
    near, target = [], []
    for distance in range(1, window + 1):
        left, right = sentences[:, :-distance].reshape(-1), sentences[:, distance:].reshape(-1)
        near += [left, right]
        target += [right, left]
    return input_weight[torch.cat(near)], torch.cat(target)


def _means(input_weight: Tensor, sentences: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The mean of the rows around each word, and the word."""
    place = torch.arange(sentences.shape[1], device=sentences.device)
    distance = (place[:, None] - place[None, :]).abs()
    near = ((distance > 0) & (distance <= window)).to(input_weight.dtype)
    rows = torch.einsum("ts,bsd->btd", near / near.sum(1, keepdim=True), input_weight[sentences])
    return rows.flatten(0, 1), sentences.reshape(-1)
