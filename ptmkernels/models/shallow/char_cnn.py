"""The character-aware language model (Kim, Jernite, Sontag and Rush, AAAI 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ptmkernels.registry import Card, register

__all__ = ["CharCNNLanguageModel"]

SMALL = {"filters": tuple((w, 25 * w) for w in range(1, 7)), "highways": 1, "hidden_size": 300}
LARGE = {
    "filters": ((1, 50), (2, 100), (3, 150), (4, 200), (5, 200), (6, 200), (7, 200)),
    "highways": 2,
    "hidden_size": 650,
}


class Highway(nn.Module):
    """t g(W x + b) + (1 - t) x with t = sigmoid(W_t x + b_t), b_t = -2 at the start (equation 8)."""

    def __init__(self, size: int):
        super().__init__()
        self.transform = nn.Linear(size, size)
        self.gate = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return gate * torch.relu(self.transform(x)) + (1 - gate) * x


class CharCNNLanguageModel(nn.Module):
    """Characters, convolutions of several widths, maximum over time, highway, LSTM, softmax over words.

    Args:
        vocab_size: words to predict.
        char_size: characters; id 0 pads.
        filters: (width, number) of the convolutions.
        highways: highway layers.
        hidden_size: of the two LSTM layers.
        char_embedding_size: of a character.
        dropout: on the LSTM's input and output.
    """

    def __init__(
        self,
        vocab_size: int,
        char_size: int,
        filters: tuple[tuple[int, int], ...] = SMALL["filters"],
        highways: int = SMALL["highways"],
        hidden_size: int = SMALL["hidden_size"],
        char_embedding_size: int = 15,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.characters = nn.Embedding(char_size, char_embedding_size, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(char_embedding_size, n, w) for w, n in filters)
        self.width = sum(n for _, n in filters)
        self.highways = nn.Sequential(*(Highway(self.width) for _ in range(highways)))
        self.lstm = nn.LSTM(self.width, hidden_size, 2, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, vocab_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.05, 0.05)
        nn.init.zeros_(self.characters.weight[0])  # a word shorter than a filter sees its padding
        for highway in self.highways:
            nn.init.constant_(highway.gate.bias, -2.0)

    def word_vectors(self, char_ids: Tensor) -> Tensor:
        """Words from their characters: (..., characters) ids to (..., features).

        A convolution never starts in the padding, so the result does not depend on how much of it there is.
        """
        flat = char_ids.flatten(0, -2)
        x = self.characters(flat).transpose(1, 2)
        features = []
        for convolution in self.convolutions:
            width = convolution.kernel_size[0]
            padded = nn.functional.pad(x, (0, max(0, width - x.shape[2])))
            maps = torch.tanh(convolution(padded))
            length = (flat != 0).sum(1, keepdim=True)
            last = (length - width).clamp(min=0)
            beyond = torch.arange(maps.shape[2], device=x.device) > last
            features.append(maps.masked_fill(beyond[:, None, :], -torch.inf).amax(2))
        return self.highways(torch.cat(features, 1)).view(*char_ids.shape[:-1], -1)

    def forward(
        self,
        char_ids: Tensor,
        labels: Tensor | None = None,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, object]:
        """Scores of the word after each word.

        Args:
            char_ids: (B, L, characters), 0 pads.
            labels: (B, L), the words after.
            state: of the LSTM, from the segment before.

        Returns:
            logits (B, L, V), state, and with labels the mean negative log-likelihood, loss.
        """
        hidden, state = self.lstm(self.word_vectors(char_ids), state)
        logits = self.output(self.dropout(hidden))
        result: dict[str, object] = {"logits": logits, "state": state}
        if labels is not None:
            result["loss"] = cross_entropy(logits.flatten(0, 1), labels.flatten())
        return result


register(
    Card(
        name="char-cnn",
        family="shallow",
        title="CharCNN language model",
        authors="Kim et al.",
        paper="Character-Aware Neural Language Models",
        year=2016,
        link="https://arxiv.org/abs/1508.06615",
        encoder="convolutions over characters, highway layers, LSTM",
        objective="the next word",
        build=CharCNNLanguageModel,
        presets={"small": SMALL, "large": LARGE},
    )
)
