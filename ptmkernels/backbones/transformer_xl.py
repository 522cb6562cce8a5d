"""Transformer-XL's stack: segments with a memory of the segments before (Dai et al. 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ptmkernels.backbones.encoder import Encoded
from ptmkernels.backbones.layout import Padded
from ptmkernels.backbones.recurrence import (
    FeedForwardBlock,
    check_tokens,
    distance_encoding,
    remember,
    with_padding,
)
from ptmkernels.backbones.transformer import LayerConfig, run_layer
from ptmkernels.masks import AttentionMask
from ptmkernels.nn import RelativeMultiheadAttention

__all__ = ["TransformerXL"]


class TransformerXLLayer(nn.Module):
    """Relative attention over memory and segment, then feed-forward."""

    def __init__(self, config: LayerConfig, **biases: nn.Parameter) -> None:
        super().__init__()
        self.attention = RelativeMultiheadAttention(
            config.num_heads,
            config.hidden_size,
            config.head_dim,
            config.dropout,
            config.attention_dropout,
            config.norm_first,
            layer_norm_epsilon=config.norm_eps,
            batch_first=True,
            **biases,
        )
        self.feed_forward = FeedForwardBlock(config)

    def forward(self, hidden: Tensor, *arguments, **options) -> tuple[Tensor, Tensor | None]:
        """Arguments as those of the attention; returns (B, L, E), and its weights or None."""
        hidden, *weights = self.attention(hidden, *arguments, **options)
        return self.feed_forward(hidden), weights[0] if weights else None


class TransformerXL(nn.Module):
    """Embeddings and layers with memory.

    Args:
        embeddings: ids (B, L) to (B, L, E).
        config: of every layer; E even.
        num_layers: how many.
        mem_len: M, how many states a layer remembers.
        clamp_len: distances above it count as it; <= 0 = none do.
        same_length: each token sees exactly `mem_len` keys, itself included, instead of all before it.
        shared_biases: all layers have the same u and v.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        config: LayerConfig,
        num_layers: int,
        *,
        mem_len: int,
        clamp_len: int = -1,
        same_length: bool = False,
        shared_biases: bool = False,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        biases = {}
        if shared_biases:
            self.r_w_bias = nn.Parameter(torch.empty(config.num_heads, config.head_dim))
            self.r_r_bias = nn.Parameter(torch.empty(config.num_heads, config.head_dim))
            biases = {"r_w_bias": self.r_w_bias, "r_r_bias": self.r_r_bias}
        self.layers = nn.ModuleList(TransformerXLLayer(config, **biases) for _ in range(num_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.mem_len, self.clamp_len, self.same_length = mem_len, clamp_len, same_length
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        mems: Sequence[Tensor] | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Encoded:
        """Run a segment.

        Args:
            input_ids: (B, L) token ids; or give `inputs_embeds` (B, L, E).
            attention_mask: (B, L), 1 = a token, 0 = padding.
            mems: what the segment before gave, a tensor (B, M, E) for each layer. None = `mem_len` zeros, as
                the published models start, which are keys like others; to start with nothing, M = 0.
            output_hidden_states, output_attentions: keep them.

        Returns:
            With `mems` for the next segment: the last `mem_len` inputs of each layer, without gradient.

        Raises:
            ValueError, TypeError: shapes do not fit, or an id is outside of the vocabulary.
        """
        tokens = check_tokens(input_ids, inputs_embeds, attention_mask, mems, len(self.layers))
        hidden = self.dropout(self.embeddings(tokens) if inputs_embeds is None else inputs_embeds)
        batch, length, width = hidden.shape
        if mems is None:
            mems = [hidden.new_zeros(batch, self.mem_len, width)] * len(self.layers)
        memory_len = mems[0].shape[1]
        mask = self._mask(attention_mask, length, memory_len, hidden.device)
        relative = self._distances(length + memory_len, hidden)
        states, attentions, memories = [], [], []
        for layer, memory in zip(self.layers, mems, strict=True):
            states.append(hidden)
            memories.append(remember(memory, hidden, self.mem_len))
            hidden, weights = run_layer(
                self,
                layer,
                hidden,
                relative,
                mask,
                memory,
                output_attentions=output_attentions,
                relative_offset=relative.shape[1] - 1 - memory_len,
            )
            attentions.append(weights)
        hidden = self.dropout(hidden)
        return Encoded(
            hidden,
            Padded(),
            hidden_states=(*states, hidden) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            mems=tuple(memories),
        )

    def _mask(
        self, attention_mask: Tensor | None, length: int, memory_len: int, device: torch.device
    ) -> AttentionMask:
        attend_len = self.mem_len if self.same_length else None
        mask = AttentionMask.recurrence(length, memory_len, attend_len, device=device)
        return with_padding(mask, attention_mask, length, memory_len)

    def _distances(self, key_len: int, like: Tensor) -> Tensor:
        """(1, R, E), the encoding of the distances R - 1 .. 0; a longer one takes the first row."""
        farthest = max(key_len - 1, 0)
        if self.clamp_len > 0:
            farthest = min(farthest, self.clamp_len)
        distances = torch.arange(farthest, -1, -1, device=like.device)
        return self.dropout(distance_encoding(distances, like.shape[2], like.dtype))[None]
