"""Skip-thought vectors (Kiros, Zhu, Salakhutdinov, Zemel, Torralba, Urtasun and Fidler, NeurIPS 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.registry import Card, register

__all__ = ["MaskedGRU", "SkipThoughts", "combine", "expand_vocabulary"]

_EPSILON = 1e-8  # added to the probabilities, as published


class MaskedGRU(nn.Module):
    """A gated recurrent unit that keeps its state where the mask is 0.

    r, u = sigmoid(x W + b + h U);  c = tanh(x Wx + bx + r (h Ux));  h = u h + (1 - u) c

    Args:
        input_size, hidden_size: of x and h.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.gates_input = nn.Linear(input_size, 2 * hidden_size)
        self.gates_state = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.candidate_input = nn.Linear(input_size, hidden_size)
        self.candidate_state = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> Tensor:
        """All states, (L, B, hidden), from x (L, B, input), mask (L, B) and the first state."""
        gates, candidates = self.gates_input(x), self.candidate_input(x)
        if state is None:
            state = x.new_zeros(x.shape[1], self.candidate_state.in_features)
        states = []
        kept = mask.to(x.dtype)[..., None]
        for gate, candidate, keep in zip(gates, candidates, kept, strict=True):
            reset, update = torch.sigmoid(gate + self.gates_state(state)).chunk(2, -1)
            proposal = torch.tanh(candidate + reset * self.candidate_state(state))
            state = keep * (update * state + (1 - update) * proposal) + (1 - keep) * state
            states.append(state)
        return torch.stack(states)


class SkipThoughts(nn.Module):
    """A sentence encoder trained to write the sentences before and after it.

    Args:
        vocab_size: V; id 0 is the end of a sentence.
        embedding_size: of a word (620 in the paper).
        hidden_size: of the encoder's and decoders' states (2400; 1200 to each side if bidirectional).
        bidirectional: the encoder reads both ways ("bi-skip").

    Raises:
        ValueError: an odd hidden_size cannot be shared by two ways.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int = 620,
        hidden_size: int = 2400,
        bidirectional: bool = False,
    ):
        super().__init__()
        if bidirectional and hidden_size % 2:
            raise ValueError(
                f"hidden_size is {hidden_size}; expected an even number, half for each way"
            )
        side = hidden_size // 2 if bidirectional else hidden_size
        self.embeddings = nn.Embedding(vocab_size, embedding_size)
        self.encoder = MaskedGRU(embedding_size, side)
        self.reverse_encoder = MaskedGRU(embedding_size, side) if bidirectional else None
        self.decoders = nn.ModuleDict(
            {name: MaskedGRU(embedding_size, hidden_size) for name in ("next", "previous")}
        )
        self.output = nn.Linear(hidden_size, vocab_size)

    def encode(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors of sentences, (B, hidden), from ids and mask (L, B)."""
        x = self.embeddings(input_ids)
        last = self.encoder(x, mask)[-1]
        if self.reverse_encoder is None:
            return last
        return torch.cat([last, self.reverse_encoder(x.flip(0), mask.flip(0))[-1]], -1)

    def decode(self, name: str, vector: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States of a decoder and the summed loss of the sentences that it is to write.

        The state starts from the sentence's vector; the input is the word before, zeros at first.
        """
        words = self.embeddings(ids)
        before = torch.cat([torch.zeros_like(words[:1]), words[:-1]])
        states = self.decoders[name](before, mask, vector)
        log_prob = log_softmax(self.output(states), -1).gather(-1, ids[..., None])[..., 0]
        return states, -((log_prob.exp() + _EPSILON).log() * mask).sum()

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor,
        next_ids: Tensor,
        next_mask: Tensor,
        previous_ids: Tensor,
        previous_mask: Tensor,
    ) -> dict[str, Tensor]:
        """The summed loss of both neighbours; all ids and masks are (L, B)."""
        vector = self.encode(input_ids, mask)
        _, after = self.decode("next", vector, next_ids, next_mask)
        _, before = self.decode("previous", vector, previous_ids, previous_mask)
        return {"loss": after + before, "sentence_vector": vector}


def combine(*vectors: Tensor) -> Tensor:
    """Vectors of several encoders, each of length 1, side by side ("combine-skip")."""
    return torch.cat([normalize(v, dim=-1) for v in vectors], -1)


def expand_vocabulary(
    embeddings: Tensor, words: Sequence[str], vectors: WordVectors
) -> WordVectors:
    """Embeddings for words that the encoder never saw, from vectors of a larger vocabulary.

    A linear map from `vectors` to `embeddings` is fitted to the words that both have, by least squares
    without a penalty; it gives the embeddings of the other words (section 2.2).

    Args:
        embeddings: (V, E), the encoder's, a row for each of `words`.
        words: V words.
        vectors: of the larger vocabulary.

    Returns:
        The V words with their own embeddings, then the others of `vectors`.

    Raises:
        ValueError: the numbers of words and embeddings differ, or no word has a vector.
    """
    own = embeddings.detach().cpu().double().numpy()
    if own.ndim != 2 or len(own) != len(words):
        raise ValueError(
            f"embeddings has shape {own.shape}; expected ({len(words)}, E), a row a word"
        )
    known = set(words)
    shared = [i for i, word in enumerate(words) if word in vectors]
    if not shared:
        raise ValueError("words and vectors have no word in common")
    source = np.stack([vectors[words[i]] for i in shared]).astype(np.float64)
    linear, *_ = np.linalg.lstsq(source, own[shared], rcond=None)
    others = [i for i, word in enumerate(vectors.words) if word not in known]
    names = [*words, *(vectors.words[i] for i in others)]
    return WordVectors(names, np.concatenate([own, vectors.vectors[others] @ linear]))


register(
    Card(
        name="skip-thoughts",
        family="shallow",
        title="Skip-thought vectors",
        authors="Kiros et al.",
        paper="Skip-Thought Vectors",
        year=2015,
        link="https://arxiv.org/abs/1506.06726",
        encoder="GRU",
        objective="the sentences before and after",
        build=SkipThoughts,
        presets={"uni-skip": {}, "bi-skip": {"bidirectional": True}},
    )
)
