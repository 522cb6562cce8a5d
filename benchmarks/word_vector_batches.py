"""Skip-gram as it is written in plain PyTorch: a batch of pairs at a time, all from the rows before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ptmkernels.benchmarks.planted_topics import PlantedTopics
from ptmkernels.ops import HuffmanTree


def pairs_of(topics: PlantedTopics, window: int) -> tuple[Tensor, Tensor]:
    """Context and centre of all pairs, in the order of the text, sub-sampled and with windows drawn."""
    tokens = topics.tokens.long()
    device = tokens.device
    keep = torch.from_numpy(topics.keep_probability()).to(device)
    stays = (tokens >= 0) & (torch.rand(len(tokens), device=device) < keep[tokens.clamp(min=0)])
    word, sentence = tokens[stays], (tokens < 0).cumsum(0)[stays]
    reach = torch.randint(1, window + 1, (len(word),), device=device)
    place = torch.arange(len(word), device=device)
    offsets = torch.tensor([o for o in range(-window, window + 1) if o], device=device)
    near = place[:, None] + offsets
    inside = (near >= 0) & (near < len(word)) & (offsets.abs() <= reach[:, None])
    near = near.clamp(0, len(word) - 1)
    inside &= sentence[near] == sentence[:, None]
    return word[near[inside]], word[:, None].expand_as(near)[inside]


class Noise:
    """The centre word and negatives drawn by inversion."""

    def __init__(self, topics: PlantedTopics, negatives: int):
        weights = topics.counts.double() ** 0.75
        self.ends = (weights / weights.sum()).cumsum(0).float().to(topics.tokens.device)
        self.negatives = negatives

    def of(self, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, labels and weights, each (B, 1 + N); negatives that equal the word weigh nothing."""
        drawn = torch.rand(len(centre), self.negatives, device=centre.device)
        noise = torch.searchsorted(self.ends, drawn).clamp(max=len(self.ends) - 1)
        rows = torch.cat([centre[:, None], noise], 1)
        label = torch.zeros(rows.shape, device=centre.device)
        label[:, 0] = 1
        weight = torch.ones_like(label)
        weight[:, 1:] = (noise != centre[:, None]).float()
        return rows, label, weight


class Paths:
    """The nodes on the way to a word, every path padded to the longest."""

    def __init__(self, tree: HuffmanTree):
        row, node, sign = tree.entries(torch.arange(len(tree), device=tree.offsets.device))
        lengths = torch.bincount(row, minlength=len(tree)).tolist()
        self.node, sign = (pad_sequence(t.split(lengths), batch_first=True) for t in (node, sign))
        self.label, self.weight = (sign > 0).float(), (sign != 0).float()

    def of(self, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, labels and weights, each (B, T)."""
        return self.node[centre], self.label[centre], self.weight[centre]


def sgd_step(
    input_weight: Tensor,
    output_weight: Tensor,
    context: Tensor,
    rows: Tensor,
    label: Tensor,
    weight: Tensor,
    rate: Tensor,
) -> None:
    """One step of gradient descent on the sum of the losses of the pairs; both matrices in place."""
    hidden, outputs = input_weight[context], output_weight[rows]
    score = torch.bmm(outputs, hidden[:, :, None])[:, :, 0]
    factor = rate * weight * (label - torch.sigmoid(score))
    change = torch.bmm(factor[:, None, :], outputs)[:, 0]
    output_change = factor[:, :, None] * hidden[:, None, :]
    output_weight.index_add_(0, rows.flatten(), output_change.flatten(0, 1))
    input_weight.index_add_(0, context, change)
