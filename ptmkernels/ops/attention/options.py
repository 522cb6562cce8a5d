"""What a query may see of a key and what is added to its score: the options of every attention op."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptmkernels.masks import AttentionMask


@dataclass(frozen=True)
class BucketedBias:
    """A bias that depends on the distance only, looked up in a table inside the kernel.

    ``s_ij += table[buckets[j - i + L - 1], h]`` (T5: Raffel et al. 2020, section 2.1).

    Args:
        table: (N, H) floating, one bias for each bucket and head; receives a gradient.
        buckets: (L + S - 1,) integers below N, the bucket of the distance j - i at index j - i + L - 1.
    """

    table: Tensor
    buckets: Tensor

    @staticmethod
    def t5(
        table: Tensor,
        query_len: int,
        key_len: int | None = None,
        *,
        bidirectional: bool = True,
        max_distance: int = 128,
    ) -> BucketedBias:
        """T5's buckets; query i stands at key position i + S - L (a cache of S - L keys)."""
        key_len = query_len if key_len is None else key_len
        distance = torch.arange(1 - query_len, key_len, device=table.device) - (key_len - query_len)
        buckets = t5_buckets(distance, table.shape[0], bidirectional, max_distance)
        return BucketedBias(table, buckets)


def t5_buckets(
    distance: Tensor, num_buckets: int = 32, bidirectional: bool = True, max_distance: int = 128
) -> Tensor:
    """T5's bucket of each distance ``key position - query position``.

    Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`.

    Args:
        distance: integers of any shape.

    Returns:
        int32 of the same shape, 0 <= bucket < num_buckets.
    """
    bucket = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        bucket = bucket + (distance > 0).to(distance.dtype) * num_buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = num_buckets // 2
    ratio = (distance.clamp(min=1).float() / exact).log() / torch.tensor(max_distance / exact).log()
    far = (exact + (ratio * (num_buckets - exact)).to(distance.dtype)).clamp(max=num_buckets - 1)
    return (bucket + torch.where(distance < exact, distance, far)).to(torch.int32)


@dataclass(frozen=True)
class AttentionOptions:
    """The optional arguments of the torch ops, in the order of their schema."""

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

    @staticmethod
    def of(
        mask: AttentionMask | None,
        bias: Tensor | BucketedBias | None,
        scale: float,
        dropout_p: float,
        seed: Tensor | None,
        **relative,
    ) -> AttentionOptions:
        bucketed = isinstance(bias, BucketedBias)
        return AttentionOptions(
            *(mask._tensors() if mask is not None else (None,) * 5),
            bias=None if bucketed else bias,
            bias_table=bias.table if bucketed else None,
            bias_bucket=bias.buckets if bucketed else None,
            scale=scale,
            dropout_p=dropout_p,
            seed=seed,
            **relative,
        )

    def astuple(self) -> tuple:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def mask(self) -> AttentionMask | None:
        """The mask again, where there is one."""
        if self.key_rank is None:
            return None
        return AttentionMask(
            self.key_rank, self.query_low, self.query_high, branches=self.tree, allowed=self.allowed
        )
