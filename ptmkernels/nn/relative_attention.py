"""Attention of Transformer-XL and of XLNet, drop-in for Transformers' modules, over the fused kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptmkernels.nn.transformers_forms import (
    Mask,
    as_mask,
    segments_of,
    stream_masks,
    target_positions,
)
from ptmkernels.ops.attention import (
    StreamOrder,
    attention_weights,
    draw_seed,
    relative_attention,
    two_stream_attention,
)
from ptmkernels.ops.attention.stream_order import at_positions

__all__ = ["RelativeMultiheadAttention", "TwoStreamAttention"]


class _RelativeAttention(nn.Module):
    """What both share: forms of tensors, heads, and what comes after the attention."""

    def __init__(
        self, heads: tuple[int, int, int], dropout: float, norm_eps: float, batch_first: bool
    ) -> None:
        super().__init__()
        self.d_model, self.n_head, self.d_head = heads
        self.batch_first = batch_first
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(self.d_model, eps=norm_eps)

    def _turned(self, tensor: Tensor | None) -> Tensor | None:
        """A batch-first tensor in the caller's form, or one in the caller's form batch first."""
        if tensor is None or self.batch_first:
            return tensor
        return tensor.transpose(0, 1)

    def _read(self, name: str, tensor: Tensor | None, batch: int | None = None) -> Tensor | None:
        """An argument in the caller's form, batch first, when it is of this width and batch size."""
        if tensor is None:
            return None
        form = "(B, length, E)" if self.batch_first else "(length, B, E)"
        if tensor.dim() != 3 or tensor.shape[2] != self.d_model:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected {form} with E = {self.d_model}"
            )
        tensor = self._turned(tensor)
        if batch is not None and tensor.shape[0] != batch:
            raise ValueError(f"{name} has batch size {tensor.shape[0]}; expected {batch}")
        return tensor

    def _heads(self, tensor: Tensor, weight: Tensor) -> Tensor:
        """(B, length, E) projected by `weight` (H * D, E), as (B, H, length, D)."""
        return F.linear(tensor, weight).unflatten(2, (-1, self.d_head)).transpose(1, 2)

    def _read_distances(self, r: Tensor, weight: Tensor) -> Tensor:
        """The encoding of the distances, (N, R, E) with R >= 1, in the dtype of `weight`.

        It is no state of the model: its maker may not know that the model was cast.
        """
        r = self._read("r", r).to(weight.dtype)
        return r if r.shape[1] else F.pad(r, (0, 0, 0, 1))

    def _dropout_options(self, dropout_p: float, device: torch.device) -> dict:
        active = self.training and dropout_p > 0.0
        return {
            "dropout_p": dropout_p if active else 0.0,
            "seed": draw_seed(device) if active else None,
        }

    def _after(self, attended: Tensor, weight: Tensor, head_mask: Tensor | None) -> Tensor:
        """(B, H, L, D) projected by `weight` (E, H * D) to (B, L, E), after dropout."""
        if head_mask is not None:
            attended = attended * head_mask.reshape(-1, 1, 1).to(attended.dtype)
        return self.dropout(F.linear(attended.transpose(1, 2).flatten(2), weight))

    def _published(self, weights: Tensor, head_mask: Tensor | None) -> Tensor:
        """Attention weights (B, H, L, S) in the caller's form."""
        if head_mask is not None:
            weights = weights * head_mask.reshape(-1, 1, 1).to(weights.dtype)
        return weights if self.batch_first else weights.permute(2, 3, 0, 1)


class RelativeMultiheadAttention(_RelativeAttention):
    """Transformer-XL's attention with memory, residual and normalisation (Dai et al. 2019, section 3.3).

    s_ij = [(q_i + u).k_j + (q_i + v).r_(i-j)] / sqrt(D) by :func:`ptmkernels.ops.relative_attention`.
    Parameters (`qkv_net`, `r_net`, `o_net`, `r_w_bias` = u, `r_r_bias` = v, `layer_norm`), arguments and
    results are those of Transformers' `RelPartialLearnableMultiHeadAttn`, so it can stand in its place.

    Args:
        n_head: H.
        d_model: E.
        d_head: D.
        dropout: of the output.
        dropatt: of the attention weights.
        pre_lnorm: normalise the input instead of the residual sum.
        r_r_bias, r_w_bias: parameters (H, D) to be shared with other layers; None = its own.
        layer_norm_epsilon: added to the variance.
        batch_first: tensors are (B, length, E), weights (B, H, L, S), instead of (length, B, E) and
            (L, S, B, H).
    """

    def __init__(
        self,
        n_head: int,
        d_model: int,
        d_head: int,
        dropout: float = 0.0,
        dropatt: float = 0.0,
        pre_lnorm: bool = False,
        r_r_bias: nn.Parameter | None = None,
        r_w_bias: nn.Parameter | None = None,
        layer_norm_epsilon: float = 1e-5,
        *,
        batch_first: bool = False,
    ) -> None:
        super().__init__((d_model, n_head, d_head), dropout, layer_norm_epsilon, batch_first)
        self.dropatt, self.pre_lnorm = dropatt, pre_lnorm
        inner = n_head * d_head
        self.qkv_net = nn.Linear(d_model, 3 * inner, bias=False)
        self.r_net = nn.Linear(d_model, inner, bias=False)
        self.o_net = nn.Linear(inner, d_model, bias=False)
        self.r_r_bias = nn.Parameter(torch.zeros(n_head, d_head)) if r_r_bias is None else r_r_bias
        self.r_w_bias = nn.Parameter(torch.zeros(n_head, d_head)) if r_w_bias is None else r_w_bias

    def forward(
        self,
        w: Tensor,
        r: Tensor,
        attn_mask: Mask = None,
        mems: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        *,
        relative_offset: int | None = None,
    ) -> list[Tensor]:
        """Attend.

        Args:
            w: (L, B, E), the tokens.
            r: (R, 1, E), the encoding of the distances, the farthest first.
            attn_mask: an :class:`AttentionMask` of L queries and M + L keys; or Transformers' tensor
                (L, S) or (L, S, B or 1), nonzero = hidden.
            mems: (M, B, E), the states of the tokens before these.
            head_mask: H factors of the heads' output, in any shape.
            output_attentions: also return the weights, after dropout; costs a tensor of L x S.
            relative_offset: the row of `r` for query 0 and key 0; None = L - 1, for R = M + L.

        Returns:
            [(L, B, E)], or [(L, B, E), weights (L, S, B, H)].
        """
        w, r = self._read("w", w), self._read_distances(r, self.r_net.weight)
        mems = self._read("mems", mems, w.shape[0])
        source = w if mems is None else torch.cat([mems.to(w.dtype), w], 1)
        if self.pre_lnorm:
            source = self.layer_norm(source)
        query_weight, *others = self.qkv_net.weight.chunk(3)
        query = self._heads(source[:, source.shape[1] - w.shape[1] :], query_weight)
        key, value = (self._heads(source, weight) for weight in others)
        options = {
            "relative_key": self._heads(r, self.r_net.weight),
            "content_bias": self.r_w_bias,
            "position_bias": self.r_r_bias,
            "mask": as_mask(attn_mask),
            "relative_offset": relative_offset,
            **self._dropout_options(self.dropatt, w.device),
        }
        attended, lse = relative_attention(query, key, value, return_lse=True, **options)
        output = w + self._after(attended, self.o_net.weight, head_mask)
        output = self._turned(output if self.pre_lnorm else self.layer_norm(output))
        if not output_attentions:
            return [output]
        return [output, self._published(attention_weights(query, key, lse, **options), head_mask)]


class TwoStreamAttention(_RelativeAttention):
    """XLNet's attention: one stream or two, memory, segments, residual and normalisation.

    Yang et al. 2019, sections 2.3 to 2.6, by :func:`ptmkernels.ops.two_stream_attention`. Parameters (`q`,
    `k`, `v`, `o`, `r` (E, H, D); `r_w_bias` = u, `r_r_bias` = v, `r_s_bias` = w; `seg_embed` = g;
    `layer_norm`), arguments and results are those of Transformers' `XLNetRelativeAttention`.

    Args:
        d_model: E.
        n_head: H.
        d_head: D; None = E / H.
        dropout: of the attention weights and of the output.
        layer_norm_eps: added to the variance.
        batch_first: tensors are (B, length, E), weights (B, H, L, S), instead of (length, B, E) and
            (L, S, B, H).
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        d_head: int | None = None,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-12,
        *,
        batch_first: bool = False,
    ) -> None:
        if d_head is None:
            if d_model % n_head:
                raise ValueError(f"d_model is {d_model}; expected a multiple of n_head = {n_head}")
            d_head = d_model // n_head
        super().__init__((d_model, n_head, d_head), dropout, layer_norm_eps, batch_first)
        for name in ("q", "k", "v", "o", "r"):
            weight = torch.empty(d_model, n_head, d_head)
            setattr(self, name, nn.Parameter(nn.init.normal_(weight, std=0.02)))
        for name in ("r_r_bias", "r_s_bias", "r_w_bias"):
            setattr(self, name, nn.Parameter(torch.zeros(n_head, d_head)))
        self.seg_embed = nn.Parameter(nn.init.normal_(torch.empty(2, n_head, d_head), std=0.02))

    def forward(
        self,
        h: Tensor,
        g: Tensor | None,
        attn_mask_h: Mask,
        attn_mask_g: Mask,
        r: Tensor,
        seg_mat: Tensor | tuple[Tensor, Tensor] | None,
        mems: Tensor | None = None,
        target_mapping: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        *,
        relative_offset: int | None = None,
        sees_itself: Tensor | None = None,
        order: StreamOrder | None = None,
    ) -> tuple:
        """Attend.

        Args:
            h: (L, B, E), the content stream.
            g: (P, B, E), the query stream; None = one stream.
            attn_mask_h, attn_mask_g: what each stream sees: an :class:`AttentionMask` of L or P queries and
                M + L keys; or Transformers' tensor (L, S, B or 1, 1), nonzero = hidden, L rows for both.
            r: (R, N, E), the encoding of the distances, the farthest first; the N ones belong to equal parts
                of the batch, N = 1 or B in Transformers.
            seg_mat: segments of the queries (B or 1, L) and of the keys (B or 1, S); or Transformers' one-hot
                (L, S, B, 2).
            mems: (M, B, E), the states of the tokens before these.
            target_mapping: where the rows of `g` stand: positions (B, P); or Transformers' one-hot (P, L, B);
                None = row p at position p. A row at position -1, or of zeros in the one-hot, sees nothing.
                Each row is on its own, also of several at one position, whose queries Transformers adds up.
            head_mask: H factors of the heads' output, in any shape.
            output_attentions: also return the weights (L, S, B, H), with two streams (content, query) before
                dropout; costs tensors of L x S.
            relative_offset: the row of `r` for query 0 and key 0; None = L, for R = L + S.
            sees_itself: (B, L), true where a row of the content stream sees its own key, which its mask
                hides: padding, to Transformers' XLNet. None = nowhere.
            order: what :meth:`ptmkernels.ops.StreamOrder.of` makes of the masks and targets, where several
                layers share them; None = made here.

        Returns:
            (content (L, B, E), query stream (P, B, E) or None), and the weights where asked for.
        """
        h, r = self._read("h", h), self._read_distances(r, self.r)
        batch, length = h.shape[:2]
        g = self._read("g", g, batch)
        source = h
        if mems is not None and mems.dim() > 1:  # Transformers has mems of no dimension for none
            source = torch.cat([self._read("mems", mems, batch).to(h.dtype), h], 1)
        query, *key_value = (
            self._heads(tensor, weight.flatten(1).t())
            for tensor, weight in ((h, self.q), (source, self.k), (source, self.v))
        )
        relative_key = self._heads(r, self.r.flatten(1).t())
        if 1 < len(r) < len(h):
            relative_key = relative_key.repeat_interleave(len(h) // len(r), 0)
        options = {
            "relative_key": relative_key,
            "content_bias": self.r_w_bias,
            "position_bias": self.r_r_bias,
            "relative_offset": length if relative_offset is None else relative_offset,
            **self._segments(seg_mat),
        }
        if g is None:
            streams, lse, weights = self._one(
                query, key_value, options, attn_mask_h, output_attentions
            )
        else:
            queries = (query, self._heads(g, self.q.flatten(1).t()))
            masks = stream_masks(attn_mask_h, attn_mask_g, target_mapping)
            positions = target_positions(target_mapping)
            if order is None:
                order = StreamOrder.of(
                    *(*masks, positions),
                    sizes=(batch, length, g.shape[1]),
                    key_len=source.shape[1],
                    device=g.device,
                )
            streams, lse, weights = self._two(
                queries, key_value, options, masks, order, output_attentions
            )
        if sees_itself is not None:
            own = _own_weight(query, key_value[0], lse, options)
            own = own.masked_fill(~sees_itself[:, None], 0).to(query.dtype)
            values = key_value[1][:, :, -length:]
            streams[0] = streams[0] * (1 - own[..., None]) + self.dropout(own)[..., None] * values
            weights[:1] = [_join_own_weight(each, own) for each in weights[:1]]
        outputs = tuple(
            self._turned(self.layer_norm(x + self._after(each, self.o.flatten(1), head_mask)))
            for x, each in zip((h, g), streams, strict=False)
        )
        outputs = outputs if g is not None else (*outputs, None)
        if not output_attentions:
            return outputs
        weights = tuple(self._published(each, head_mask) for each in weights)
        return *outputs, weights if g is not None else weights[0]

    def _segments(self, seg_mat: Tensor | tuple[Tensor, Tensor] | None) -> dict:
        if seg_mat is None:
            return {}
        query_segment, key_segment = (
            segments_of(seg_mat) if isinstance(seg_mat, Tensor) else seg_mat
        )
        return {
            "segment_bias": self.r_s_bias,
            "segment_key": self.seg_embed,
            "query_segment": query_segment,
            "key_segment": key_segment,
        }

    def _one(self, query, key_value, options, mask, need_weights) -> tuple:
        """The content stream alone: its output in a list, log-sum-exp, weights in a list."""
        options |= {
            "mask": as_mask(mask),
            **self._dropout_options(self.dropout.p, query.device),
        }
        attended, lse = relative_attention(query, *key_value, return_lse=True, **options)
        if not need_weights:
            return [attended], lse, []
        return [attended], lse, [attention_weights(query, key_value[0], lse, **options)]

    def _two(self, queries, key_value, options, masks, order, need_weights) -> tuple:
        """Both streams: their outputs, the log-sum-exp of the content, and weights."""
        *streams, lse, stream_lse = two_stream_attention(
            *queries,
            *key_value,
            order=order,
            return_lse=True,
            **options,
            **self._dropout_options(self.dropout.p, queries[0].device),
        )
        if not need_weights:
            return streams, lse, []
        content = attention_weights(queries[0], key_value[0], lse, masks[0], **options)
        rows = order.targets.clamp(min=0)
        of_stream = options | {"query_position": rows}
        if (segments := options.get("query_segment")) is not None:
            of_stream["query_segment"] = at_positions(segments, rows)
        stream = attention_weights(queries[1], key_value[0], stream_lse, masks[1], **of_stream)
        stream = stream.masked_fill((order.targets < 0)[:, None, :, None], 0.0)
        return streams, lse, [content, stream]


def _own_weight(query: Tensor, key: Tensor, lse: Tensor, options: dict) -> Tensor:
    """The weight (B, H, L) of each row's own key beside all that the row sees, lse their log-sum-exp.

    sigmoid(s_ii - lse_i): a row that sees one key more needs no mask of size L x S.
    """
    memory_len = key.shape[2] - query.shape[2]
    row = options["relative_offset"] + memory_len
    terms = {
        "content_bias": key[:, :, memory_len:],
        "position_bias": options["relative_key"][:, :, row, None],
    }
    if "segment_key" in options:
        terms["segment_bias"] = options["segment_key"][0, :, None]
    # s_ii = [(q + u).k + (q + v).r + (q + w).g] / sqrt(D)
    score = (query * sum(terms.values())).sum(-1)
    for name, term in terms.items():
        score = score + (options[name][:, None] * term).sum(-1)
    return torch.sigmoid(score * query.shape[3] ** -0.5 - lse)


def _join_own_weight(weights: Tensor, own: Tensor) -> Tensor:
    """Attention weights (B, H, L, S) that leave `own` (B, H, L) to each row's own key."""
    diagonal = F.pad(torch.diag_embed(own), (weights.shape[3] - own.shape[2], 0))
    return weights * (1 - own[..., None]) + diagonal
