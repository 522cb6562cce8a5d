"""Starting weights for small corpora: a Transformer encoder that begins with what every text teaches first.

From BERT's own start, all heads attend everywhere alike, and it takes some ten thousand updates before they
find that neighbouring words matter; until then a model does hardly better than word frequencies. A small
corpus, or a few minutes, do not reach that far. This start changes no architecture and fixes nothing, it
only puts the weights where training would soon bring them:

1. Positions are sinusoids (Vaswani et al. 2017) in some dimensions, which tokens and segments leave free. In
   the first layer, the heads' queries and keys read these dimensions, turned against each other so that the
   scores peak at the neighbours -1, +1, -2, +2, … (after hard-coded Gaussian attention, You et al. 2020).
2. What a head attends to passes unchanged, W_o W_v = I (mimetic initialisation, Trockman & Kolter 2023).
3. The bias of the output is the log-frequency of the tokens, so that the loss begins at their entropy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ptmkernels.models.base import Model

__all__ = ["start_local"]

# Angles per position, from about the shortest wave that can be told apart to one of some sixty positions.
FASTEST, SLOWEST = 2.5, 0.1


@torch.no_grad()
def start_local(model: Model, token_counts: np.ndarray) -> None:
    """Give a fresh encoder with a language-model head the weights described above.

    Args:
        model: with learned positions, such as BERT; its `initializer_range` scales the embeddings.
        token_counts: (V,) how often each token occurs in the training text.

    Raises:
        ValueError: the heads are too narrow, or `token_counts` is longer than the vocabulary.
    """
    embeddings = model.backbone.embeddings
    layers = model.backbone.stack.layers
    width = min(model.config.hidden_size // 4, layers[0].attention.head_dim) // 2 * 2
    if width < 2:
        raise ValueError(
            f"the heads have {layers[0].attention.head_dim} dimensions; expected at least 2"
        )
    angles = torch.logspace(math.log10(FASTEST), math.log10(SLOWEST), width // 2)
    _place_positions(embeddings, angles, model.config.initializer_range)
    _look_at_neighbours(layers[0].attention, angles)
    _pass_through(layers[0].attention)
    _start_at_frequencies(model.lm_head.bias, token_counts)


def _place_positions(embeddings: nn.Module, angles: Tensor, scale: float) -> None:
    """Positions alone in the first dimensions, as strong as a token in the others."""
    width, free = 2 * len(angles), embeddings.tokens.embedding_dim - 2 * len(angles)
    embeddings.tokens.weight[:, :width] = 0.0
    if embeddings.segments is not None:
        embeddings.segments.weight[:, :width] = 0.0
    positions = embeddings.positions.weight
    turns = torch.arange(len(positions), dtype=torch.float32)[:, None] * angles
    positions.zero_()
    positions[:, :width] = torch.stack([turns.sin(), turns.cos()], dim=-1).flatten(1)
    positions *= scale * math.sqrt(free / len(angles))


def _look_at_neighbours(attention: nn.Module, angles: Tensor) -> None:
    """Query i and key j agree best where j - i is the head's offset."""
    width = 2 * len(angles)
    for head in range(attention.query.out_features // attention.head_dim):
        offset = (head // 2 + 1) * (-1) ** (head + 1)  # -1, +1, -2, +2, …
        rows = slice(head * attention.head_dim, head * attention.head_dim + width)
        attention.query.weight[rows, :width] += _turn(angles * offset)
        attention.key.weight[rows, :width] += torch.eye(width)


def _turn(angles: Tensor) -> Tensor:
    """The rotation of (sin x, cos x) pairs to (sin(x + angle), cos(x + angle)); block-diagonal."""
    sin, cos = angles.sin(), angles.cos()
    blocks = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    return torch.block_diag(*blocks)


def _pass_through(attention: nn.Module) -> None:
    nn.init.orthogonal_(attention.value.weight)
    attention.output.weight.copy_(attention.value.weight.T)


def _start_at_frequencies(bias: Tensor, counts: np.ndarray) -> None:
    if len(counts) > len(bias):
        raise ValueError(f"token_counts has {len(counts)} entries; expected at most {len(bias)}")
    # A token that was never seen counts as a tenth of one.
    smoothed = np.full(len(bias), 0.1)
    smoothed[: len(counts)] += counts
    bias.copy_(torch.from_numpy(np.log(smoothed / smoothed.sum())))
