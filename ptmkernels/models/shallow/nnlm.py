"""The neural probabilistic language model (Bengio, Ducharme, Vincent and Jauvin, JMLR 2003)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ptmkernels.ops.word_vectors.checks import check_whole
from ptmkernels.registry import Card, register

__all__ = ["NNLM"]


class NNLM(nn.Module):
    """y = b + W x + U tanh(d + H x), x the embeddings of the n - 1 words before, concatenated (equation 1).

    Args:
        vocab_size: V.
        order: n, the words of an n-gram.
        embedding_size: m.
        hidden_size: h.
        direct: with the direct connections W.

    Raises:
        ValueError: the order leaves no word before the next.
    """

    def __init__(
        self,
        vocab_size: int,
        order: int = 5,
        embedding_size: int = 60,
        hidden_size: int = 50,
        direct: bool = True,
    ):
        super().__init__()
        check_whole("order", order, 2)
        context = (order - 1) * embedding_size
        self.embeddings = nn.Embedding(vocab_size, embedding_size)
        self.hidden = nn.Linear(context, hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.direct = nn.Linear(context, vocab_size, bias=False) if direct else None

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Scores of the next word.

        Args:
            input_ids: (B, n - 1), the words before.
            labels: (B,), the next words.

        Returns:
            logits (B, V), and with labels the mean negative log-likelihood, loss.
        """
        x = self.embeddings(input_ids).flatten(1)
        logits = self.output(torch.tanh(self.hidden(x)))
        if self.direct is not None:
            logits = logits + self.direct(x)
        result = {"logits": logits}
        if labels is not None:
            result["loss"] = cross_entropy(logits, labels)
        return result

    def parameter_groups(self, weight_decay: float = 1e-4) -> list[dict]:
        """For an optimiser: the penalty is on the weights and embeddings, not on the biases (section 3)."""
        biases = [p for n, p in self.named_parameters() if n.endswith("bias")]
        weights = [p for n, p in self.named_parameters() if not n.endswith("bias")]
        return [
            {"params": weights, "weight_decay": weight_decay},
            {"params": biases, "weight_decay": 0.0},
        ]


register(
    Card(
        name="nnlm",
        family="shallow",
        title="NNLM",
        authors="Bengio et al.",
        paper="A Neural Probabilistic Language Model",
        year=2003,
        link="https://www.jmlr.org/papers/v3/bengio03a.html",
        encoder="concatenated vectors of the words before, one hidden layer, direct connections",
        objective="the next word, softmax over the whole vocabulary",
        build=NNLM,
        presets={"base": {}, "without-direct": {"direct": False}},
    )
)
