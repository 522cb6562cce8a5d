"""XLNet's stack: Transformer-XL's memory and distances, segments, and two streams (Yang et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptmkernels._mask_tensors import readable, token_mask
from ptmkernels.backbones.embeddings import check_ids
from ptmkernels.backbones.encoder import Encoded
from ptmkernels.backbones.layout import Padded
from ptmkernels.backbones.recurrence import (
    FeedForwardBlock,
    check_tokens,
    distance_encoding,
    remember,
    with_padding,
)
from ptmkernels.backbones.transformer import ACTIVATIONS, LayerConfig, run_layer
from ptmkernels.masks import AttentionMask
from ptmkernels.nn import TwoStreamAttention
from ptmkernels.ops.attention import StreamOrder
from ptmkernels.ops.attention.stream_order import one_hot_positions

__all__ = ["SequenceSummary", "XLNet", "XLNetOptions"]


@dataclass(frozen=True, kw_only=True)
class XLNetOptions:
    """How the stack uses positions and memory.

    Args:
        mem_len: how many states a layer remembers; None or 0 = all.
        reuse_len: only the first so many tokens of a segment are remembered; None or 0 = all.
        use_mems_train, use_mems_eval: whether memory is returned, unless the call says.
        clamp_len: distances of more than it count as it; <= 0 = none do.
        one_way: each token sees those before it only.
        same_length: with `one_way`, each token sees as many keys as there are memory keys, and itself.
        bi_data: the second half of a batch runs backwards: its distances are turned round.
    """

    mem_len: int | None = None
    reuse_len: int | None = None
    use_mems_train: bool = False
    use_mems_eval: bool = True
    clamp_len: int = -1
    one_way: bool = False
    same_length: bool = False
    bi_data: bool = False


class SequenceSummary(nn.Module):
    """activation(dense(one vector of a text)).

    Args:
        hidden_size: E.
        kind: which vector: "last", "first", "mean", or "cls_index", the last one too, for XLNet's class token
            ends a text.
        activation: a name of ``ACTIVATIONS``; None = none.
        project: False = without the dense layer.
    """

    def __init__(
        self, hidden_size: int, kind: str, activation: str | None, *, project: bool = True
    ) -> None:
        super().__init__()
        last, first, every = slice(-1, None), slice(0, 1), slice(None)
        self.tokens = {"last": last, "cls_index": last, "first": first, "mean": every}[kind]
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]
        self.dense = nn.Linear(hidden_size, hidden_size) if project else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, E) to (B, E); a text of no tokens has a vector of zeros."""
        chosen = hidden[:, self.tokens]
        return self.activation(self.dense(chosen.sum(1) / max(chosen.shape[1], 1)))


class XLNetLayer(nn.Module):
    """Attention of both streams, then feed-forward of each."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.attention = TwoStreamAttention(
            config.hidden_size,
            config.num_heads,
            dropout=config.dropout,
            layer_norm_eps=config.norm_eps,
            batch_first=True,
        )
        self.feed_forward = FeedForwardBlock(config)

    def forward(self, *arguments, **options) -> tuple[Tensor, Tensor | None, tuple | None]:
        """Arguments as those of the attention; returns both streams and the weights, or None for each."""
        content, query, *weights = self.attention(*arguments, **options)
        content = self.feed_forward(content)
        query = None if query is None else self.feed_forward(query)
        return content, query, weights[0] if weights else None


class XLNet(nn.Module):
    """Token embeddings and layers of two streams.

    Args:
        vocab_size: V.
        config: of every layer; E even.
        num_layers: how many.
        options: positions and memory.
        pooler: (B, L, E) to (B, E), or None.
    """

    def __init__(
        self,
        vocab_size: int,
        config: LayerConfig,
        num_layers: int,
        options: XLNetOptions,
        pooler: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, config.hidden_size)
        self.mask_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.layers = nn.ModuleList(XLNetLayer(config) for _ in range(num_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.pooler = pooler
        self.options = options
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        perm_rank: Tensor | None = None,
        perm_mask: Tensor | None = None,
        target_mapping: Tensor | None = None,
        mems: Sequence[Tensor] | None = None,
        use_mems: bool | None = None,
        inputs_embeds: Tensor | None = None,
        needed: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Encoded:
        """Run a segment, in one stream, or in two where `target_mapping` is given.

        Args:
            input_ids: (B, L) token ids; or give `inputs_embeds` (B, L, E).
            attention_mask: (B, L), 1 = a token, 0 = padding, which in the content stream sees the tokens and
                itself.
            token_type_ids: (B, L) segments; None = no segment term. Memory is of segment 0.
            perm_rank: (B, L) integers, the order of factorisation: a token sees its own rank and lower ones,
                a predicted one in the query stream lower ones only. Builds nothing of size L x L.
            perm_mask: (B, L, L), the order as Transformers has it, nonzero = row i may not see column j; in
                the content stream each sees itself nevertheless. Dense.
            target_mapping: which tokens the query stream predicts: positions (B, P), or Transformers' one-hot
                (B, P, L). A row at position -1, or of zeros in the one-hot, only fills up: it sees nothing.
                A target whose mask hides everything sees nothing, too, where Transformers takes the mean of
                all keys; and several targets at one position do not meet.
            mems: what the segment before gave, (B, M, E) for each layer; None = nothing.
            use_mems: whether to return memory; None = as the options say.
            needed: not read: padded positions are computed as well.
            output_hidden_states, output_attentions: keep them; with two streams, those of the content and of
                the query stream in turn, and pairs of weights.

        Returns:
            The query stream (B, P, E), or where there is none the content stream (B, L, E).

        Raises:
            ValueError, TypeError: arguments do not fit.
        """
        tokens = check_tokens(input_ids, inputs_embeds, attention_mask, mems, len(self.layers))
        if inputs_embeds is None:
            check_ids("input_ids", input_ids, self.tokens.num_embeddings)
            inputs_embeds = self.tokens(input_ids)
        content, query = self.dropout(inputs_embeds), None
        targets = _positions(target_mapping, tokens.shape[1])
        if targets is not None:
            query = self.dropout(self.mask_embedding.expand(*targets.shape, -1))
        memory_len = 0 if mems is None else mems[0].shape[1]
        masks = self._masks(content, attention_mask, perm_rank, perm_mask, targets, memory_len)
        padded = None if perm_mask is not None else _padded(attention_mask)
        relative, offset = self._distances(content, memory_len)
        order = None
        if targets is not None:
            order = StreamOrder.of(
                *(*masks, targets),
                sizes=(*content.shape[:2], targets.shape[1]),
                key_len=memory_len + content.shape[1],
                device=content.device,
            )
        shared = {
            "order": order,
            "seg_mat": _segments(token_type_ids, memory_len),
            "target_mapping": targets,
            "output_attentions": output_attentions,
            "relative_offset": offset,
            "sees_itself": padded,
        }
        states, attentions, memories = [], [], []
        for depth, layer in enumerate(self.layers):
            memory = None if mems is None else mems[depth]
            memories.append(self._remember(memory, content))
            states += [content] if query is None else [content, query]
            content, query, weights = run_layer(
                self, layer, content, query, *masks, relative, mems=memory, **shared
            )
            attentions.append(weights)
        states += [content] if query is None else [content, query]
        hidden = self.dropout(content if query is None else query)
        if use_mems is None:
            use_mems = self.options.use_mems_train if self.training else self.options.use_mems_eval
        return Encoded(
            hidden,
            Padded(),
            None if self.pooler is None else self.pooler(hidden),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            mems=tuple(memories) if use_mems else None,
        )

    def _remember(self, memory: Tensor | None, content: Tensor) -> Tensor:
        reused = content[:, : self.options.reuse_len] if self.options.reuse_len else content
        return remember(memory, reused, self.options.mem_len or None)

    def _distances(self, like: Tensor, memory_len: int) -> tuple[Tensor, int]:
        """(1 or 2, R, E), the encoding of the distances from the farthest before to the farthest after, and
        the row of query 0 and key 0."""
        length = like.shape[1]
        first, last = memory_len + length - 1, 0 if self.options.one_way else 1 - length
        if self.options.clamp_len > 0:
            first, last = min(first, self.options.clamp_len), max(last, -self.options.clamp_len)
        distances = torch.arange(max(first, last), last - 1, -1, device=like.device)[None]
        if self.options.bi_data:
            if like.shape[0] % 2:
                raise ValueError(
                    f"the batch has {like.shape[0]} rows; expected an even number, half of them backwards"
                )
            distances = torch.cat([distances, -distances])
        # In float32 whatever the dtype, as Transformers has it.
        encoding = distance_encoding(distances, like.shape[2]).to(like.dtype)
        return self.dropout(encoding), first - memory_len

    def _masks(
        self,
        like: Tensor,
        attention_mask: Tensor | None,
        perm_rank: Tensor | None,
        perm_mask: Tensor | None,
        targets: Tensor | None,
        memory_len: int,
    ) -> tuple[AttentionMask | None, AttentionMask | None]:
        """What the content and the query stream see; None = everything."""
        length = like.shape[1]
        base = None
        if self.options.one_way:
            attend_len = memory_len + 1 if self.options.same_length else None
            base = AttentionMask.recurrence(length, memory_len, attend_len, device=like.device)
        if perm_rank is not None and (perm_mask is not None or base is not None):
            raise ValueError(
                "perm_rank is given; expected no perm_mask beside it, nor one-way layers"
            )
        if perm_mask is not None:
            base = with_padding(base, attention_mask, length, memory_len)
            return _dense_masks(perm_mask, base, targets, memory_len)
        if perm_rank is not None:
            base = AttentionMask.permutation(perm_rank, memory_len=memory_len)
        content = with_padding(base, attention_mask, length, memory_len)
        if content is None or targets is None:
            return content, None
        return content, _query_rows(content, targets, strict=perm_rank is not None)


def _positions(target_mapping: Tensor | None, length: int) -> Tensor | None:
    """(B, P) positions from either form.

    Raises:
        ValueError: the shape fits neither form.
    """
    if target_mapping is None or target_mapping.dim() == 2:
        return target_mapping
    if target_mapping.dim() != 3 or target_mapping.shape[2] != length:
        raise ValueError(
            f"target_mapping has shape {tuple(target_mapping.shape)}; expected positions (B, P) or one-hot "
            f"(B, P, L) with L = {length}"
        )
    return one_hot_positions(target_mapping)


def _padded(attention_mask: Tensor | None) -> Tensor | None:
    """(B, L), true where there is no token; None = nowhere, as far as one can look."""
    if attention_mask is None:
        return None
    padded = ~token_mask("attention_mask", attention_mask)
    return None if readable(padded) and not padded.any() else padded


def _segments(token_type_ids: Tensor | None, memory_len: int) -> tuple[Tensor, Tensor] | None:
    """Segments of the queries and of the keys."""
    if token_type_ids is None:
        return None
    return token_type_ids, nn.functional.pad(token_type_ids, (memory_len, 0))


def _query_rows(content: AttentionMask, targets: Tensor, strict: bool) -> AttentionMask:
    """The rows of an interval mask at the targets; `strict`: without their own rank.

    Both streams hold the same ranks, so that one call of the kernel can serve them.
    """
    index = targets.clamp(min=0)
    low, high = (
        rows.expand(targets.shape[0], -1).gather(1, index)
        for rows in (content.query_low, content.query_high)
    )
    return AttentionMask(content.key_rank, low, high - int(strict))


def _dense_masks(
    perm_mask: Tensor, base: AttentionMask | None, targets: Tensor | None, memory_len: int
) -> tuple[AttentionMask, AttentionMask | None]:
    """The masks of both streams from Transformers' matrix."""
    length = perm_mask.shape[1]
    allowed = nn.functional.pad(perm_mask == 0, (memory_len, 0), value=True)
    if base is not None:
        allowed = allowed & base.to_dense()
    itself = torch.eye(length, dtype=torch.bool, device=allowed.device)
    content = AttentionMask.dense(allowed | nn.functional.pad(itself, (memory_len, 0)))
    if targets is None:
        return content, None
    rows = targets.clamp(min=0)[..., None].expand(-1, -1, allowed.shape[2])
    return content, AttentionMask.dense(allowed.gather(1, rows))
