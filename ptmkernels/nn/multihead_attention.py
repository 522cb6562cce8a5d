"""Multi-head attention, drop-in for torch's, over the fused kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptmkernels._shapes import has_shape
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import BucketedBias, attention_weights, draw_seed, masked_attention

__all__ = ["MultiheadAttention"]


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` (Vaswani et al. 2017, section 3.2.2) computed by `masked_attention`.

    Constructor, parameters, initialisation and state dict are torch's own. A boolean `key_padding_mask`
    and the hint `is_causal` become interval masks, so nothing of size L x S is built for them. Where torch
    gives NaN, for a query that may see nothing, the attention gives zeros. Heads wider than 256 and float64
    run on `reference`.
    (`torch.nn.TransformerEncoderLayer` has a fast path for inference, which calls no `forward` of its parts.)

    Args:
        embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device,
            dtype: as in torch.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        mask: AttentionMask | None = None,
        bias: Tensor | BucketedBias | None = None,
        backend: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: (L, B, E), or (B, L, E) with `batch_first`, or (L, E) without a batch.
            key: (S, B, kdim), (B, S, kdim) or (S, kdim).
            value: (S, B, vdim), (B, S, vdim) or (S, vdim).
            key_padding_mask: (B, S) or (S,); boolean, true = **hidden**, or floating, added to the scores.
            need_weights: also return the attention weights, which costs a tensor of L x S.
            attn_mask: (L, S) or (B * num_heads, L, S); boolean, true = **hidden**, or floating.
            average_attn_weights: the mean of the heads' weights instead of each.
            is_causal: `attn_mask` is the causal mask and need not be read. It may be left out, unlike in
                torch, where L = S.
            mask: what each query may see, beside the masks above (:class:`ptmkernels.AttentionMask`).
            bias: added to the scores, as in :func:`ptmkernels.ops.masked_attention`.
            backend: as there.

        Returns:
            The output in the form of `query`, and the weights (B, L, S), or (B, H, L, S) where they are not
            averaged, without B where `query` has none; None where they are not asked for. The weights are
            those after dropout.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        self._check_inputs(query, key, value)
        q, k, v = (self._heads(t) for t in self._project(query, key, value))
        masks = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask}
        mask, bias = _mask_and_bias(q, k.shape[2], masks, is_causal, mask, bias)
        mask, bias = _for_extra_keys(mask, bias, k.shape[2], self._extra_keys())
        k, v = self._with_extra_keys(k, v)
        dropout_p = self.dropout if self.training else 0.0
        seed = draw_seed(query.device) if dropout_p > 0.0 else None
        options = {"bias": bias, "dropout_p": dropout_p, "seed": seed}
        output, lse = masked_attention(q, k, v, mask, **options, backend=backend, return_lse=True)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        weights = attention_weights(q, k, lse, mask, **options) if need_weights else None
        if need_weights and average_attn_weights:
            weights = weights.mean(1)
        if query.dim() == 2:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        widths = {"query": self.embed_dim, "key": self.kdim, "value": self.vdim}
        for (name, width), tensor in zip(widths.items(), (query, key, value), strict=True):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} is a {type(tensor).__name__}; expected a tensor")
            if tensor.is_nested:
                raise TypeError(
                    f"{name} is a nested tensor; expected a dense one (rows of many lengths: one long "
                    "row under mask=AttentionMask.documents)"
                )
            if tensor.dim() not in (2, 3) or tensor.dim() != query.dim():
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; expected {query.dim()} dimensions, 2 or 3"
                )
            if tensor.shape[-1] != width:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; expected a last dimension of {width}"
                )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """The projected tensors, (B, length, E)."""
        if query is key and key is value and self._qkv_same_embed_dim:
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if self._qkv_same_embed_dim:
                weights = self.in_proj_weight.chunk(3)
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            tensors = zip((query, key, value), weights, biases, strict=True)
            projected = tuple(F.linear(*each) for each in tensors)
        if query.dim() == 2:
            return tuple(t[None] for t in projected)
        return projected if self.batch_first else tuple(t.transpose(0, 1) for t in projected)

    def _heads(self, tensor: Tensor) -> Tensor:
        """(B, length, E) as (B, H, length, D)."""
        return tensor.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _extra_keys(self) -> int:
        """How many keys that everyone sees stand at the end: `bias_k`, and one of zeros."""
        return int(self.bias_k is not None) + int(self.add_zero_attn)

    def _with_extra_keys(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.bias_k is not None:
            biases = (
                self._heads(t).expand(len(key), -1, -1, -1) for t in (self.bias_k, self.bias_v)
            )
            key, value = (torch.cat(pair, 2) for pair in zip((key, value), biases, strict=True))
        if self.add_zero_attn:
            key, value = (F.pad(t, (0, 0, 0, 1)) for t in (key, value))
        return key, value


def _mask_and_bias(
    query: Tensor,
    key_len: int,
    masks: dict[str, Tensor | None],
    is_causal: bool,
    mask: AttentionMask | None,
    bias: Tensor | BucketedBias | None,
) -> tuple[AttentionMask | None, Tensor | BucketedBias | None]:
    """All that hides and all that is added, as one mask and one bias; `query` is (B, H, L, D)."""
    batch, heads, query_len, _ = query.shape
    if is_causal and query_len == key_len:
        masks = {**masks, "attn_mask": None}
        mask = _both(mask, AttentionMask.causal(query_len, device=query.device))
    elif is_causal and masks["attn_mask"] is None:
        raise ValueError(
            f"is_causal with L = {query_len} and S = {key_len} can mean two masks; expected attn_mask, or "
            "mask=AttentionMask.causal(L, S), where the last query sees all keys"
        )
    dense = _checked("attn_mask", masks["attn_mask"], (query_len, key_len), batch * heads)
    if dense is not None:
        dense = dense if dense.dim() == 2 else dense.reshape(batch, heads, query_len, key_len)
        if dense.dtype == torch.bool:
            mask = _both(mask, AttentionMask.dense(~dense))
        else:
            bias = _sum(bias, dense)
    keys = _checked("key_padding_mask", masks["key_padding_mask"], (key_len,), batch)
    if keys is not None:
        keys = keys.reshape(-1, key_len)
        if keys.dtype == torch.bool:
            mask = _both(mask, AttentionMask.keys(~keys, query_len))
        else:
            bias = _sum(bias, keys[:, None, None])
    return mask, bias


def _checked(name: str, mask: Tensor | None, shape: tuple[int, ...], rows: int) -> Tensor | None:
    """A mask in torch's form: boolean or floating, of `shape` or of `rows` times that."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        hint = " (an AttentionMask goes to `mask`)" if isinstance(mask, AttentionMask) else ""
        raise TypeError(f"{name} is a {type(mask).__name__}; expected a tensor{hint}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"{name} has dtype {mask.dtype}; expected torch.bool or a floating one")
    if not has_shape(mask, shape, (rows, *shape)):
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; expected {shape} or {(rows, *shape)}"
        )
    return mask


def _both(one: AttentionMask | None, two: AttentionMask) -> AttentionMask:
    return two if one is None else one & two


def _sum(bias: Tensor | BucketedBias | None, other: Tensor) -> Tensor:
    if isinstance(bias, BucketedBias):
        raise ValueError(
            "a floating mask cannot be added to a BucketedBias; expected a boolean mask"
        )
    return other if bias is None else bias + other


def _for_extra_keys(
    mask: AttentionMask | None, bias: Tensor | BucketedBias | None, key_len: int, count: int
) -> tuple[AttentionMask | None, Tensor | BucketedBias | None]:
    """Mask and bias with `count` keys more at the end, which every query sees without a bias."""
    if count == 0:
        return mask, bias
    if isinstance(bias, BucketedBias):
        raise ValueError(
            "a BucketedBias has no distance for the keys of add_bias_kv and add_zero_attn"
        )
    if bias is not None:
        bias = F.pad(bias.expand(*bias.shape[:-1], key_len), (0, count))
    if mask is not None:
        mask = AttentionMask.dense(F.pad(mask.to_dense(), (0, count), value=True))
    return mask, bias
