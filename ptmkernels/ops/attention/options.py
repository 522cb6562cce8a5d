"""What a query may see of a key and what is added to its score: the options of every attention op."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ptmkernels._mask_tensors import readable
from ptmkernels.masks import AttentionMask

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class BucketedBias:
    """A bias that depends on the distance only, looked up in a table inside the kernel.

    ``s_ij += table[buckets[j - i + L - 1], h]`` (T5: Raffel et al. 2020, section 2.1).

    Args:
        table: (N, H) floating, one bias for each bucket and head; receives a gradient.
        buckets: (L + S - 1,) integers below N, the bucket of the distance j - i at index j - i + L - 1.
            Their values are looked at on the CPU only: on a GPU that would wait for it.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """

    table: Tensor
    buckets: Tensor

    def __post_init__(self) -> None:
        for name, allowed, dims in (("table", DTYPES, 2), ("buckets", INTEGERS, 1)):
            tensor = getattr(self, name)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} is a {type(tensor).__name__}; expected a tensor")
            if tensor.dtype not in allowed:
                raise TypeError(f"{name} has dtype {tensor.dtype}; expected one of {allowed}")
            if tensor.dim() != dims:
                expected = "(N, H)" if dims == 2 else "(L + S - 1,)"
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {expected}")
        if readable(self.buckets) and self.buckets.numel():
            least, most = int(self.buckets.min()), int(self.buckets.max())
            if least < 0 or most >= self.table.shape[0]:
                raise ValueError(
                    f"buckets holds {least} to {most}; expected 0 to {self.table.shape[0] - 1}"
                )

    @staticmethod
    def t5(
        table: Tensor,
        query_len: int,
        key_len: int | None = None,
        *,
        bidirectional: bool = True,
        max_distance: int = 128,
    ) -> BucketedBias:
        """T5's buckets, as many as `table` has rows.

        Args:
            table: (N, H).
            query_len, key_len: L and S, `key_len` None = L; query i stands at key position i + S - L
                (behind a cache of S - L keys).
            bidirectional, max_distance: as in :func:`t5_buckets`.
        """
        key_len = query_len if key_len is None else key_len
        distance = torch.arange(max(query_len + key_len - 1, 0), device=table.device) - (
            key_len - 1
        )
        buckets = t5_buckets(distance, table.shape[0], bidirectional, max_distance)
        return BucketedBias(table, buckets)


def t5_buckets(
    distance: Tensor, num_buckets: int = 32, bidirectional: bool = True, max_distance: int = 128
) -> Tensor:
    """T5's bucket of each distance ``key position - query position`` (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`, and
    the last one holds all beyond.

    Args:
        distance: integers of any shape.
        num_buckets: how many there are, at least 2, or 4 where `bidirectional`.
        bidirectional: keys after the query have half of the buckets; else they share bucket 0.
        max_distance: where the last bucket begins; more than the distances with a bucket of their own.

    Returns:
        int32 of the same shape, 0 <= bucket < num_buckets.

    Raises:
        ValueError: `num_buckets` or `max_distance` is too small.
    """
    side = num_buckets // 2 if bidirectional else num_buckets
    exact = side // 2
    if exact < 1:
        least = 4 if bidirectional else 2
        raise ValueError(f"num_buckets is {num_buckets}; expected at least {least}")
    if max_distance <= exact:
        raise ValueError(f"max_distance is {max_distance}; expected more than {exact}")
    first = torch.zeros_like(distance)
    if bidirectional:
        first = (distance > 0).to(distance.dtype) * side
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    ratio = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (side - exact)).to(distance.dtype)).clamp(max=side - 1)
    return (first + torch.where(distance < exact, distance, far)).to(torch.int32)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What is accumulated in: float32, or float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def takes_tf32(query: Tensor) -> bool:
    """True where torch's own setting takes products of float32 in TF32 on a GPU."""
    return query.dtype == torch.float32 and _allows_tf32()


@torch.compiler.assume_constant_result  # torch.compile compiles anew where the setting changes
def _allows_tf32() -> bool:
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


# The options with a gradient. The backward op takes a number `wanted_grads`, bit n of which asks for that of
# the n-th of them, and returns their gradients in this order after those of query, key and value.
DIFFERENTIABLE = (
    "bias",
    "bias_table",
    "relative_key",
    "relative_value",
    "content_bias",
    "position_bias",
    "segment_bias",
    "segment_key",
)


class AttentionOptions(NamedTuple):
    """The optional arguments of the torch ops, in the order of their schema (docs/architecture.md)."""

    key_rank: Tensor | None = None
    query_low: Tensor | None = None
    query_high: Tensor | None = None
    tree: Tensor | None = None
    allowed: Tensor | None = None
    bias: Tensor | None = None
    bias_table: Tensor | None = None
    bias_bucket: Tensor | None = None
    scale: float = 1.0
    dropout_p: float = 0.0
    seed: Tensor | None = None
    relative_key: Tensor | None = None
    relative_value: Tensor | None = None
    relative_offset: int = 0
    content_bias: Tensor | None = None
    position_bias: Tensor | None = None
    segment_bias: Tensor | None = None
    segment_key: Tensor | None = None
    query_segment: Tensor | None = None
    key_segment: Tensor | None = None
    query_position: Tensor | None = None
    # Not 0: `query_position` rises by 0 or 1 from row to row, and lies within 0 to this number - 1.
    gapless_positions: int = 0

    @staticmethod
    def of(
        query: Tensor,
        mask: AttentionMask | None,
        bias: Tensor | BucketedBias | None,
        scale: float | None,
        dropout_p: float,
        seed: Tensor | None,
        **relative,
    ) -> AttentionOptions:
        """The options as the ops take them: no bias of float64 but for float64 inputs, no narrow table."""
        scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
        visible = (None,) * 5 if mask is None else mask._tensors()
        added = (None,) * 3 if bias is None else _added(bias, compute_dtype(query))
        return AttentionOptions(*visible, *added, scale, float(dropout_p), seed, **relative)

    def visible(self) -> Tensor | None:
        """(B or 1, H or 1, L, S) booleans, true = may see; None = everything."""
        if self.key_rank is None:
            return None
        vectors = (self.key_rank, self.query_low, self.query_high)
        dense = AttentionMask._of((*vectors, self.tree, self.allowed)).to_dense()
        return dense if dense.dim() == 4 else dense[:, None]


def _added(bias: Tensor | BucketedBias, widest: torch.dtype) -> tuple[Tensor | None, ...]:
    """`bias` as the options bias, bias_table and bias_bucket."""
    if isinstance(bias, BucketedBias):
        return None, _narrowed(bias.table, widest), bias.buckets.to(torch.int32).contiguous()
    bias = _narrowed(bias, widest) if bias.dtype == torch.float64 else bias
    return bias[(None,) * (4 - bias.dim())], None, None


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, where what is finite stays finite."""
    if tensor.dtype != torch.float64 or dtype == torch.float64:
        return tensor.to(dtype)
    limits = torch.finfo(dtype)
    return torch.where(tensor.isinf(), tensor, tensor.clamp(limits.min, limits.max)).to(dtype)
