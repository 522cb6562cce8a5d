"""The options of a call, torch's tensors, as the tuples of pointers and strides of the Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.attention import triton_relative
from ptmkernels.ops.attention.options import AttentionOptions
from ptmkernels.ops.attention.triton_band import COLUMNS
from ptmkernels.ops.attention.triton_tile import Bias, Mask, Relative, Rows
from ptmkernels.ops.triton_runtime import cdiv, launch, next_power_of_2

NO_STRIDES = (None,) * 4
NO_MASK = Mask(*(None,) * len(Mask._fields))
NO_BIAS = Bias(*(None,) * len(Bias._fields))
NO_RELATIVE = Relative(*(None,) * len(Relative._fields))
MAX_ROW_STRIDE = 2**23  # a tile's offsets are 32-bit: up to 256 rows of this stride


def padded(head_dim: int) -> int:
    """D as the kernels' tiles have it."""
    return max(16, next_power_of_2(head_dim))


def rows_tensor(tensor: Tensor) -> Tensor:
    """`tensor` with a last stride of 1 and rows near enough for 32-bit offsets in a tile."""
    fits = tensor.stride(-1) == 1 and abs(tensor.stride(-2)) < MAX_ROW_STRIDE
    return tensor if fits else tensor.contiguous()


def rows(tensor: Tensor) -> Rows:
    batch, head, row, _ = tensor.stride()
    return Rows(tensor, batch, head, row)


def broadcast_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides with 0 for dimensions of size 1, which are read for every index."""
    return tuple(
        0 if size == 1 else stride
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def batch_stride(tensor: Tensor | None) -> int | None:
    """The stride over the batch, 0 where one batch row serves all."""
    return None if tensor is None else broadcast_strides(tensor)[0]


def mask_terms(given: AttentionOptions) -> Mask:
    if given.key_rank is None:
        return NO_MASK
    vectors, tree, allowed = given[:3], given.tree, given.allowed
    return Mask(
        *vectors,
        *(0 if t.shape[0] == 1 else t.stride(0) for t in vectors),
        tree,
        batch_stride(tree),
        allowed,
        *(NO_STRIDES if allowed is None else broadcast_strides(allowed)),
    )


def bias_terms(given: AttentionOptions, query: Tensor) -> Bias:
    if given.bias is not None and given.bias_table is not None:
        raise ValueError("bias and bias_table are both given; expected at most one of them")
    if given.bias is not None:
        return Bias(given.bias, *broadcast_strides(given.bias))
    if given.bias_table is None:
        return NO_BIAS
    # One value for each head and distance; a tile reads them along its diagonals.
    values = given.bias_table.float()[given.bias_bucket].t().contiguous()
    return Bias(values[:, query.shape[2] - 1 :], 0, values.stride(0), -1, 1)


def relative_terms(given: AttentionOptions, query: Tensor, key: Tensor, negated: bool) -> Relative:
    """The relative terms, and what u, v and w give to the scores.

    Args:
        query: negated where the scale is, `negated`; then u, v and w are, too.
    """
    parts = (given.relative_key, given.relative_value, given.content_bias, given.segment_key)
    if all(part is None for part in parts):
        return NO_RELATIVE
    found = {}
    batch, heads, length, _ = query.shape
    if given.relative_key is not None:
        found |= {
            "key": _table(given.relative_key),
            "last_row": given.relative_key.shape[2] - 1,
            "offset": given.relative_offset,
            "position": given.query_position,
            "position_batch": batch_stride(given.query_position),
            "inside": 1 if _all_inside(given, length, key.shape[2]) else None,
            "gapless": 1 if given.gapless_positions else None,
        }
    if given.relative_value is not None:
        found["value"] = _table(given.relative_value)
    if given.position_bias is not None:
        vector = _signed(given.position_bias, negated)
        scores = _split_products(found["key"], given.relative_key.shape, vector)
        found |= {"row_scores": scores, "row_batch": batch_stride(scores)}
    if given.content_bias is not None:
        vector = _signed(given.content_bias, negated)
        scores = _split_products(rows(key), key.shape, vector)
        found |= {"content_bias": vector, "key_scores": scores}
    if given.segment_key is not None:
        addend = given.segment_bias
        addend = None if addend is None else _signed(addend, negated)
        segment_key = given.segment_key.contiguous()
        scores = query.new_empty((2, batch, heads, length), dtype=torch.float32)
        query_rows = rows(query)
        for vector, out in zip(segment_key, scores, strict=True):
            _row_products(query_rows, query.shape, vector, addend, out)
        found |= {
            "segment_key": segment_key,
            "segment_scores": scores,
            "query_segment": given.query_segment,
            "query_segment_batch": batch_stride(given.query_segment),
            "key_segment": given.key_segment,
            "key_segment_batch": batch_stride(given.key_segment),
        }
    return NO_RELATIVE._replace(**found)


def _signed(vector: Tensor, negated: bool) -> Tensor:
    return (-vector if negated else vector).contiguous()


def _table(table: Tensor) -> Rows:
    """Rows of a table (B or 1, H or 1, R, D)."""
    table = rows_tensor(table)
    return Rows(table, *broadcast_strides(table)[:2], table.stride(2))


def _all_inside(given: AttentionOptions, query_len: int, key_len: int) -> bool:
    """Whether r is known to have a row for every distance; positions are not looked at."""
    ends = query_len if given.query_position is None else given.gapless_positions
    first, last = given.relative_offset - (ends - 1), given.relative_offset + key_len - 1
    return ends > 0 and first >= 0 and last < given.relative_key.shape[2]


def _split_products(tensor: Rows, shape: torch.Size, vector: Tensor) -> Tensor:
    """(B, H, N, COLUMNS) bfloat16 whose sums are row.vector; arguments as in `_row_products`."""
    out = vector.new_empty((shape[0], vector.shape[0], shape[2], COLUMNS), dtype=torch.bfloat16)
    return _row_products(tensor, shape, vector, None, out)


def _row_products(
    tensor: Rows, shape: torch.Size, vector: Tensor, addend: Tensor | None, out: Tensor
) -> Tensor:
    """`out` with (row + addend).vector, the heads those of `vector` (H, D).

    Args:
        shape: of `tensor`, (B, H, N, D), (B, Hk, N, D) or (B, 1, N, D).
        out: (B, H, N) float32, or (B, H, N, COLUMNS) bfloat16 to receive numbers whose sums they are.
    """
    batch, own_heads, count, head_dim = shape
    heads, block_d = vector.shape[0], padded(head_dim)
    block = 4096 // block_d
    launch(
        triton_relative._row_products,
        (cdiv(count, block) * heads * batch,),
        (tensor, vector, addend, out, heads, count),
        {
            "SPLIT": out.dim() == 4,
            "GROUP": heads // own_heads,
            "HEAD_DIM": head_dim,
            "BLOCK": block,
            "BLOCK_D": block_d,
        },
        warps=4,
    )
    return out
