"""Input embeddings: tokens, learned positions and segments, summed and normalised (BERT and its kin)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptmkernels._mask_tensors import readable
from ptmkernels.backbones.linear import Linear

__all__ = ["InputEmbeddings", "Pooler", "check_ids"]


class InputEmbeddings(nn.Module):
    """dropout(norm(token + position + segment)), and a projection where the tables are narrower than E.

    Args:
        vocab_size: V.
        hidden_size: E.
        max_positions: rows of the position table; 0 = there is none.
        segments: number of segments (token types); 0 = none.
        embedding_size: width of the tables; None = E. Narrower ones are projected (ALBERT, ELECTRA).
        pad_token_id: its row starts at zero and takes no gradient here.
        norm_eps: of the LayerNorm.
        dropout: after the normalisation.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        max_positions: int,
        *,
        segments: int = 2,
        embedding_size: int | None = None,
        pad_token_id: int | None = None,
        norm_eps: float = 1e-12,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = hidden_size if embedding_size is None else embedding_size
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=pad_token_id)
        self.positions = nn.Embedding(max_positions, width) if max_positions else None
        self.segments = nn.Embedding(segments, width) if segments else None
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.projection = Linear(width, hidden_size) if width != hidden_size else None

    @property
    def max_positions(self) -> int | None:
        """The longest text; None = any length."""
        return None if self.positions is None else self.positions.num_embeddings

    def forward(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            input_ids: (B, L) token ids, or None where `inputs_embeds` is given.
            position_ids: (B or 1, L), or None where there is no position table.
            token_type_ids: (B, L) segments; None = all 0.
            inputs_embeds: (B, L, width) in place of the token embeddings.

        Returns:
            (B, L, E).

        Raises:
            ValueError: an id is outside of its table (looked at on the CPU only).
        """
        if inputs_embeds is None:
            check_ids("input_ids", input_ids, self.tokens.num_embeddings)
            inputs_embeds = self.tokens(input_ids)
        hidden = self._add_segments(inputs_embeds, token_type_ids)
        if position_ids is not None:
            if self.positions is None:
                raise ValueError("position_ids is given; the model has no position table")
            check_ids("position_ids", position_ids, self.max_positions)
            hidden = hidden + self.positions(position_ids)
        hidden = self.dropout(self.norm(hidden))
        return hidden if self.projection is None else self.projection(hidden)

    def _add_segments(self, hidden: Tensor, token_type_ids: Tensor | None) -> Tensor:
        if self.segments is None:
            if token_type_ids is not None:
                raise ValueError("token_type_ids is given; the model has no segments")
            return hidden
        if token_type_ids is None:
            return hidden + self.segments.weight[0]
        check_ids("token_type_ids", token_type_ids, self.segments.num_embeddings)
        return hidden + self.segments(token_type_ids)


def check_ids(name: str, ids: Tensor, rows: int) -> None:
    """Refuse ids outside of a table of `rows`, where looking costs nothing: on the CPU, not while tracing.

    Raises:
        TypeError: `ids` are not integers.
        ValueError: an id is below 0, or `rows` or above.
    """
    if ids.is_floating_point():
        raise TypeError(f"{name} has dtype {ids.dtype}; expected integers")
    if not ids.numel() or not readable(ids):
        return
    least, most = (int(value) for value in ids.aminmax())
    if least < 0 or most >= rows:
        raise ValueError(f"{name} holds {least}..{most}; expected 0..{rows - 1}")


class Pooler(nn.Module):
    """tanh(dense(h)) of the first token (BERT: Devlin et al. 2019, section 3.1)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """(B, E) to (B, E)."""
        return torch.tanh(self.dense(first))
