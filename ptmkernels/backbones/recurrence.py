"""What Transformer-XL and XLNet share: memory, the encoding of distances, the feed-forward sub-layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptmkernels._mask_tensors import token_mask
from ptmkernels.backbones.transformer import FeedForward, LayerConfig
from ptmkernels.masks import AttentionMask

__all__ = ["FeedForwardBlock", "check_tokens", "distance_encoding", "remember", "with_padding"]


def distance_encoding(distances: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The fixed encoding of distances: sines of all frequencies, then cosines.

    [sin(d / 10000^(2n/E)), cos(d / 10000^(2n/E))], n = 0..E/2 - 1 (Dai et al. 2019, section 3.3; the order is
    that of the released code).

    Args:
        distances: (..., R) numbers.
        width: E, even.
        dtype: of the result; computed in float32, or in float64 for float64.

    Returns:
        (..., R, E).
    """
    wide = torch.promote_types(dtype, torch.float32)
    steps = torch.arange(0, width, 2, dtype=wide, device=distances.device)
    angles = distances.to(wide)[..., None] / 10000 ** (steps / width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


def remember(memory: Tensor | None, hidden: Tensor, length: int | None) -> Tensor:
    """The memory of a layer for the next segment: the last `length` states, without gradient.

    Args:
        memory: (B, M, E), what was remembered before; None = nothing.
        hidden: (B, L, E), the states of this segment.
        length: None = everything is kept.
    """
    whole = hidden if memory is None else torch.cat([memory, hidden], 1)
    if length is not None:
        whole = whole[:, max(0, whole.shape[1] - length) :]
    return whole.detach()


def with_padding(
    mask: AttentionMask | None, attention_mask: Tensor | None, query_len: int, memory_len: int
) -> AttentionMask | None:
    """`mask` without the padded keys; memory is never padding.

    Args:
        attention_mask: (B, L), 1 = a token; None = no padding.
        query_len: the number of queries.
        memory_len: M memory keys before the L tokens.
    """
    if attention_mask is None:
        return mask
    real = token_mask("attention_mask", attention_mask)
    real = nn.functional.pad(real, (memory_len, 0), value=True)
    keys = AttentionMask.keys(real, query_len)
    return keys if mask is None else mask & keys


def check_tokens(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    mems: tuple[Tensor, ...] | None,
    num_layers: int,
) -> Tensor:
    """The one of `input_ids` (B, L) and `inputs_embeds` (B, L, E) that is given, when everything fits.

    Raises:
        ValueError: both are given or none, or a shape does not fit; the message names the argument.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("expected one of input_ids and inputs_embeds")
    name, tokens, form = (
        ("input_ids", input_ids, "(B, L)")
        if inputs_embeds is None
        else ("inputs_embeds", inputs_embeds, "(B, L, E)")
    )
    if tokens.dim() != form.count(",") + 1:
        raise ValueError(f"{name} has shape {tuple(tokens.shape)}; expected {form}")
    if attention_mask is not None and attention_mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected (B, L) = "
            f"{tuple(tokens.shape[:2])}"
        )
    if mems is not None:
        if len(mems) != num_layers:
            raise ValueError(f"mems has {len(mems)} tensors; expected one a layer, {num_layers}")
        if mems[0].dim() != 3 or mems[0].shape[0] != tokens.shape[0]:
            raise ValueError(
                f"mems holds tensors of shape {tuple(mems[0].shape)}; expected (B, M, E) with "
                f"B = {tokens.shape[0]}"
            )
    return tokens


class FeedForwardBlock(nn.Module):
    """The feed-forward sub-layer with dropout, residual and normalisation."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.layers = FeedForward(config)
        self.norm = config.make_norm()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        if self.norm_first:
            return hidden + self.dropout(self.layers(self.norm(hidden)))
        return self.norm(hidden + self.dropout(self.layers(hidden)))
