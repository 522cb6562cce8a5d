"""context2vec (Melamud, Goldberger and Dagan, CoNLL 2016): a vector for the gap in a sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptmkernels.ops.negative_sampling import AliasTable, negative_sampling_loss
from ptmkernels.registry import Card, register

__all__ = ["Context2Vec"]


class Context2Vec(nn.Module):
    """The words left and right of a gap, read by two LSTMs towards it, and an MLP; scored against words.

    c_i = MLP(lLSTM(w_1 ... w_{i-1}) + rLSTM(w_n ... w_{i+1})), each LSTM with word vectors of its own,
    trained with negative sampling against the target's vector (section 2.2).

    Args:
        counts: (V,) of the words; the noise is in proportion to count ** noise_power.
        embedding_size: of a context word (300 in the paper).
        hidden_size: of each LSTM (600).
        target_size: of the gap's and the targets' vectors (600).
        negatives: for each gap.
        noise_power: 0.75.
    """

    def __init__(
        self,
        counts: Tensor,
        embedding_size: int = 300,
        hidden_size: int = 600,
        target_size: int = 600,
        negatives: int = 10,
        noise_power: float = 0.75,
    ):
        super().__init__()
        size = len(counts)
        self.negatives = negatives
        noise = AliasTable.from_counts(counts, noise_power)
        self.register_buffer("noise_table", noise.table, persistent=False)
        self.register_buffer("noise_probabilities", noise.probabilities, persistent=False)
        # One for each way; the last row begins the sentence, read from that end.
        self.left_embeddings = nn.Embedding(size + 1, embedding_size)
        self.right_embeddings = nn.Embedding(size + 1, embedding_size)
        self.left = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.right = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(2 * hidden_size, 2 * hidden_size),
            nn.ReLU(),
            nn.Linear(2 * hidden_size, target_size),
        )
        self.targets = nn.Parameter(torch.zeros(size, target_size))

    def context(self, input_ids: Tensor) -> Tensor:
        """The vector of the gap at each place, (B, L, target); no word sees itself."""
        begin = torch.full_like(input_ids[:, :1], self.targets.shape[0])
        left = torch.cat([begin, input_ids[:, :-1]], 1)
        right = torch.cat([begin, input_ids.flip(1)[:, :-1]], 1)
        forward, _ = self.left(self.left_embeddings(left))
        backward, _ = self.right(self.right_embeddings(right))
        return self.mlp(torch.cat([forward, backward.flip(1)], -1))

    def forward(self, input_ids: Tensor, seed: Tensor | None = None) -> dict[str, Tensor]:
        """The mean loss over all places of sentences (B, L) of one length."""
        context = self.context(input_ids)
        loss = negative_sampling_loss(
            context.flatten(0, 1),
            input_ids.flatten(),
            self.targets,
            sampler=AliasTable(self.noise_table, self.noise_probabilities),
            num_negatives=self.negatives,
            seed=seed,
        )
        return {"loss": loss, "context": context}


register(
    Card(
        name="context2vec",
        family="shallow",
        title="context2vec",
        authors="Melamud et al.",
        paper="context2vec: Learning Generic Context Embedding with Bidirectional LSTM",
        year=2016,
        link="https://aclanthology.org/K16-1006",
        encoder="two LSTMs, one each way, and a layer over both",
        objective="the word between two contexts, by negative sampling",
        build=Context2Vec,
        presets={"base": {}},
    )
)
