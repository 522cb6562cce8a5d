"""Transformer layers for every model of the zoo (Vaswani et al. 2017, section 3).

Shapes: B batch, L query length, S key length, H heads, D head dimension, E hidden size. What differs
between models is said by :class:`LayerConfig`; masks are intervals (:class:`ptmkernels.AttentionMask`), so
padded, causal and packed input build nothing of size L x S.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ptmkernels.backbones.cache import KeyValueCache, LayerCache
from ptmkernels.backbones.linear import Linear
from ptmkernels.masks import AttentionMask
from ptmkernels.ops import (
    BucketedBias,
    attention_weights,
    masked_attention,
    relative_attention,
)
from ptmkernels.ops.attention import draw_seed

__all__ = [
    "ACTIVATIONS",
    "FeedForward",
    "LayerConfig",
    "MultiHeadAttention",
    "StackOutput",
    "TransformerLayer",
    "TransformerStack",
    "run_layer",
]

# "gelu" is the erf form (Hendrycks and Gimpel 2016), "gelu_new" the tanh form of Google's and OpenAI's code.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """What one kind of layer is.

    Args:
        hidden_size: E.
        num_heads: H.
        intermediate_size: width of the feed-forward network.
        head_dim: D; None = E / H.
        activation: a name of ``ACTIVATIONS``.
        gated: the feed-forward network multiplies its activation by a second projection (T5 1.1).
        norm: "layer" (LayerNorm) or "rms" (RMSNorm, T5).
        norm_first: normalise before each sub-layer (GPT-2, T5) instead of after the residual sum (BERT).
        norm_eps: added to the variance.
        bias: linear layers have a bias.
        cross_attention: a second attention, over an encoder's output.
        scale: factor of the attention scores; None = 1 / sqrt(D).
        max_relative_position: keys and values get fixed sinusoids of their distance, clipped here (NEZHA);
            None = they do not.
        dropout, attention_dropout, activation_dropout: of a sub-layer's output, of the attention weights,
            inside the feed-forward network.
    """

    hidden_size: int
    num_heads: int
    intermediate_size: int
    head_dim: int | None = None
    activation: str = "gelu"
    gated: bool = False
    norm: str = "layer"
    norm_first: bool = False
    norm_eps: float = 1e-12
    bias: bool = True
    cross_attention: bool = False
    scale: float | None = None
    max_relative_position: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0

    def make_norm(self) -> nn.Module:
        """A normalisation over E."""
        kind = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[self.norm]
        return kind(self.hidden_size, eps=self.norm_eps)


def relative_sinusoids(max_distance: int, width: int, like: Tensor) -> Tensor:
    """NEZHA's functional relative positions (Wei et al. 2019, section 2.1), fixed.

    Row n, for the distance n - c, holds sin(n / 10000^(2k/D)) in column 2k and cos of the same in 2k + 1.

    Args:
        max_distance: c, where distances are clipped.
        width: D.
        like: gives device and dtype.

    Returns:
        (1, 1, 2c + 1, D).
    """
    rows = torch.arange(2 * max_distance + 1, dtype=torch.float32, device=like.device)
    columns = torch.arange(width, device=like.device)
    frequency = torch.exp((columns // 2 * 2).float() * (-math.log(10000.0) / width))
    angles = rows[:, None] * frequency
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).to(like.dtype)[None, None]


class MultiHeadAttention(nn.Module):
    """Self-attention, or cross-attention where a `context` is given, through the fused op."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim or config.hidden_size // config.num_heads
        self.scale, self.dropout = config.scale, config.attention_dropout
        self.max_relative_position = config.max_relative_position
        inner = self.head_dim * config.num_heads
        self.query = Linear(config.hidden_size, inner, bias=config.bias)
        self.key = Linear(config.hidden_size, inner, bias=config.bias)
        self.value = Linear(config.hidden_size, inner, bias=config.bias)
        self.output = Linear(inner, config.hidden_size, bias=config.bias)

    def forward(
        self,
        hidden: Tensor,
        mask: AttentionMask | None = None,
        *,
        context: Tensor | None = None,
        bias: Tensor | BucketedBias | None = None,
        cache: KeyValueCache | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            hidden: (B, L, E).
            mask: L queries and S keys; None = everything is seen.
            context: (B, S, E) where the keys and values come from; None = `hidden`.
            bias: added to the scores.
            cache: self-attention appends its keys to it; cross-attention fills it once and reads it then.
            need_weights: also return the attention weights (B, H, L, S).

        Returns:
            (B, L, E), and the weights or None.
        """
        query = self._heads(self.query(hidden))
        key, value = self._keys_and_values(hidden, context, cache)
        dropout_p = self.dropout if self.training else 0.0
        seed = draw_seed(query.device) if dropout_p > 0.0 else None
        shared = {"bias": bias, "scale": self.scale, "dropout_p": dropout_p, "seed": seed}
        attend, relative_value = masked_attention, {}
        if self.max_relative_position is not None:
            table = relative_sinusoids(self.max_relative_position, self.head_dim, query)
            earlier = key.shape[2] - query.shape[2]
            shared |= {
                "relative_key": table,
                "relative_offset": self.max_relative_position - earlier,
            }
            attend, relative_value = relative_attention, {"relative_value": table}
        result, lse = attend(
            *(query, key, value), mask=mask, return_lse=True, **shared, **relative_value
        )
        weights = attention_weights(query, key, lse, mask, **shared) if need_weights else None
        return self.output(result.transpose(1, 2).flatten(2)), weights

    def _heads(self, projected: Tensor) -> Tensor:
        """(B, L, H * D) as a view (B, H, L, D): the op takes any strides."""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _keys_and_values(
        self, hidden: Tensor, context: Tensor | None, cache: KeyValueCache | None
    ) -> tuple[Tensor, Tensor]:
        if context is not None and cache is not None and cache.length:
            return cache.views()
        source = hidden if context is None else context
        key, value = self._heads(self.key(source)), self._heads(self.value(source))
        return (key, value) if cache is None else cache.append(key, value)


class FeedForward(nn.Module):
    """down(dropout(activation(up(x)))), or down(dropout(activation(gate(x)) * up(x))) where it is gated."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        width = config.intermediate_size
        self.up = Linear(config.hidden_size, width, bias=config.bias)
        self.gate = Linear(config.hidden_size, width, bias=config.bias) if config.gated else None
        self.down = Linear(width, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.gate is None:
            inner = self.activation(self.up(hidden))
        else:
            inner = self.activation(self.gate(hidden)) * self.up(hidden)
        return self.down(self.dropout(inner))


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention where the model has it, feed-forward; each with its residual."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = MultiHeadAttention(config)
        self.attention_norm = config.make_norm()
        self.cross_attention = self.cross_attention_norm = None
        if config.cross_attention:
            self.cross_attention = MultiHeadAttention(config)
            self.cross_attention_norm = config.make_norm()
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = config.make_norm()
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: AttentionMask | None = None,
        *,
        bias: Tensor | BucketedBias | None = None,
        context: Tensor | None = None,
        context_mask: AttentionMask | None = None,
        cache: LayerCache | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        Args:
            hidden: (B, L, E).
            mask, bias: of the self-attention.
            context: (B, S, E), the encoder's output, for the cross-attention.
            context_mask: L queries and the S keys of `context`.
            cache: keys and values of the tokens before these.
            need_weights: also return the attention weights.

        Returns:
            (B, L, E), the weights of the self-attention and of the cross-attention, or None.
        """
        update, weights = self.attention(
            self._before(self.attention_norm, hidden),
            mask,
            bias=bias,
            cache=cache and cache.attention,
            need_weights=need_weights,
        )
        hidden = self._after(self.attention_norm, hidden, update)
        cross_weights = None
        if self.cross_attention is not None:
            update, cross_weights = self.cross_attention(
                self._before(self.cross_attention_norm, hidden),
                context_mask,
                context=context,
                cache=cache and cache.cross_attention,
                need_weights=need_weights,
            )
            hidden = self._after(self.cross_attention_norm, hidden, update)
        update = self.feed_forward(self._before(self.feed_forward_norm, hidden))
        return self._after(self.feed_forward_norm, hidden, update), weights, cross_weights

    def _before(self, norm: nn.Module, hidden: Tensor) -> Tensor:
        return norm(hidden) if self.norm_first else hidden

    def _after(self, norm: nn.Module, hidden: Tensor, update: Tensor) -> Tensor:
        hidden = hidden + self.dropout(update)
        return hidden if self.norm_first else norm(hidden)


@dataclass
class StackOutput:
    """What a stack computes.

    Args:
        hidden: (B, L, E), the last layer's output.
        hidden_states: the input and every layer's output, where asked for.
        attentions, cross_attentions: (B, H, L, S) of each layer, where asked for.
    """

    hidden: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class TransformerStack(nn.Module):
    """Layers one after another.

    Args:
        config: of every layer.
        num_layers: how often a layer is applied.
        num_distinct: how many layers have weights of their own, each applied to a run of depths (ALBERT's
            groups); None = all.
        final_norm: one more normalisation at the end, for pre-norm layers.

    The attribute `gradient_checkpointing` makes training keep only the layers' inputs and compute the rest
    again in the backward pass.
    """

    def __init__(
        self,
        config: LayerConfig,
        num_layers: int,
        *,
        num_distinct: int | None = None,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        distinct = num_layers if num_distinct is None else num_distinct
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(distinct))
        self.order = [depth * distinct // num_layers for depth in range(num_layers)]
        self.final_norm = config.make_norm() if final_norm else None
        self.relative = config.max_relative_position is not None
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden: Tensor,
        mask: AttentionMask | None = None,
        *,
        bias: Tensor | BucketedBias | None = None,
        context: Tensor | None = None,
        context_mask: AttentionMask | None = None,
        cache: Sequence[LayerCache] | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> StackOutput:
        """Arguments as those of :meth:`TransformerLayer.forward`; `cache` holds one entry for each depth."""
        states, attentions, cross_attentions = [hidden], [], []
        for depth, index in enumerate(self.order):
            hidden, weights, cross_weights = run_layer(
                self,
                self.layers[index],
                hidden,
                mask,
                bias=bias,
                context=context,
                context_mask=context_mask,
                cache=None if cache is None else cache[depth],
                need_weights=output_attentions,
            )
            if output_hidden_states:
                states.append(hidden)
            attentions.append(weights)
            cross_attentions.append(cross_weights)
        if self.final_norm is not None:
            hidden = states[-1] = self.final_norm(hidden)
        crossed = output_attentions and context is not None
        return StackOutput(
            hidden,
            tuple(states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
            tuple(cross_attentions) if crossed else None,
        )


def run_layer(stack: nn.Module, layer: nn.Module, *arguments, **options):
    """layer(...), recomputed in the backward pass where `stack.gradient_checkpointing` asks for it."""
    if stack.gradient_checkpointing and stack.training and torch.is_grad_enabled():
        return checkpoint(layer, *arguments, use_reentrant=False, **options)
    return layer(*arguments, **options)
