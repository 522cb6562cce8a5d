"""XLNet's two-stream attention: content and query stream over the same keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ptmkernels._shapes import broadcasts
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.call import autocast
from ptmkernels.ops.attention.relative import attend, default_offset
from ptmkernels.ops.attention.relative_validation import check_like, check_rows, check_shape
from ptmkernels.ops.attention.stream_order import StreamOrder, at_positions
from ptmkernels.ops.attention.validation import check_mask, check_tensors

# Mixed into the seed of a query stream that has a call of its own, so that it has bits of its own too.
_SEED_OF_THE_STREAM = 0x2545F4914F6CDD1D


def two_stream_attention(
    content_query: Tensor,
    stream_query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_key: Tensor,
    content_bias: Tensor | None = None,
    position_bias: Tensor | None = None,
    mask: AttentionMask | None = None,
    stream_mask: AttentionMask | None = None,
    *,
    target_mapping: Tensor | None = None,
    order: StreamOrder | None = None,
    relative_offset: int | None = None,
    segment_bias: Tensor | None = None,
    segment_key: Tensor | None = None,
    query_segment: Tensor | None = None,
    key_segment: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str | None = None,
    return_lse: bool = False,
) -> tuple[Tensor, ...]:
    """Both streams of XLNet (Yang et al. 2019, section 2.3) over shared keys and values.

    One call of the kernels serves both where their masks are known to rank the keys alike, as those are that
    were made from one tensor of ranks (:meth:`StreamOrder.of`); else each stream has a call of its own. No
    value is read back from a GPU, and no tensor of L x S is built.

    The content stream h is :func:`relative_attention` of `content_query`; the query stream g the same of
    `stream_query`, whose rows stand at the predicted positions only.

    Args:
        content_query: (B, H, L, D).
        stream_query: (B, H, P, D), the P predicted rows.
        key, value, relative_key, content_bias, position_bias, relative_offset, segment_bias, segment_key,
            key_segment, scale, dropout_p, backend: as in :func:`relative_attention`.
        mask, stream_mask: what the rows of each stream see
            (``AttentionMask.permutation(..., stream="content" | "query", query_index=...)``).
        target_mapping: where the predicted rows stand: indices (B or 1, P), or the one-hot matrix
            (B, P, L) that Transformers takes; None = row p at position p. A row at index -1, or of zeros in
            the matrix, stands nowhere: it sees nothing and its output is 0. Any order is right, also several
            rows at one position.
        order: what :meth:`StreamOrder.of` makes of `mask`, `stream_mask` and `target_mapping`, which are
            not given then: made once, it serves every layer of a model. None = made here.
        query_segment: (B or 1, L) segments of the L tokens; a predicted row has that of its position.
        seed: int64 (1,), as in :func:`masked_attention`. The bits are those of the rows in the order of their
            positions, each predicted row behind the content row at its position.
        return_lse: also return the log-sum-exp of each stream's scores, (B, H, L) and (B, H, P) float32.

    Returns:
        Content output (B, H, L, D) and query-stream output (B, H, P, D), then what `return_lse` asks for.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    content_query, stream_query, key, value, relative_key = autocast(
        content_query, stream_query, key, value, relative_key
    )
    check_streams(content_query, stream_query, key, value, relative_key)
    length, key_len = content_query.shape[2], key.shape[2]
    if query_segment is not None:
        check_like("query_segment", query_segment, content_query, "content_query")
        check_shape("query_segment", query_segment, [(1, length), (len(content_query), length)])
    if order is None:
        _check_masks(content_query, stream_query, mask, stream_mask, key)
        order = StreamOrder.of(
            *(mask, stream_mask, target_mapping),
            sizes=(len(content_query), length, stream_query.shape[2]),
            key_len=key_len,
            device=key.device,
        )
    else:
        replaced = {"mask": mask, "stream_mask": stream_mask, "target_mapping": target_mapping}
        _check_order(order, content_query, stream_query, replaced)
    if relative_offset is None:
        relative_offset = default_offset(length, key_len, relative_key.shape[2])
    call = partial(
        attend,
        key=key,
        value=value,
        relative_key=relative_key,
        content_bias=content_bias,
        position_bias=position_bias,
        relative_offset=relative_offset,
        segment_bias=segment_bias,
        segment_key=segment_key,
        key_segment=key_segment,
        scale=scale,
        dropout_p=dropout_p,
        backend=backend,
    )
    both = _attend_joined if order.apart is None else _attend_apart
    content, stream, content_lse, stream_lse = both(
        call, order, (content_query, stream_query), query_segment, seed
    )
    nowhere = (order.targets < 0)[:, None]
    stream = stream.masked_fill(nowhere[..., None], 0.0)
    stream_lse = stream_lse.masked_fill(nowhere, -torch.inf)
    return (content, stream, content_lse, stream_lse) if return_lse else (content, stream)


def _attend_joined(
    call: Callable[..., tuple[Tensor, Tensor]],
    order: StreamOrder,
    queries: tuple[Tensor, Tensor],
    query_segment: Tensor | None,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    """Outputs and log-sum-exps of both streams from one call over their rows in order.

    The queries are stored as (B, L + P, H, D), so that the outputs need no copy to join their heads.
    """
    if query_segment is not None:
        query_segment = at_positions(query_segment, order.position)
    by_row = (query.transpose(1, 2) for query in queries)
    results = call(
        order.join(*by_row).transpose(1, 2),
        mask=order.mask,
        query_position=order.position,
        gapless_positions=order.lengths[0],
        query_segment=query_segment,
        seed=seed,
    )
    split = (order.split(result.transpose(1, 2)) for result in results)
    (content, stream), (content_lse, stream_lse) = split
    return tuple(t.transpose(1, 2) for t in (content, stream, content_lse, stream_lse))


def _attend_apart(
    call: Callable[..., tuple[Tensor, Tensor]],
    order: StreamOrder,
    queries: tuple[Tensor, Tensor],
    query_segment: Tensor | None,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    """The same from a call for each stream, each with its own mask and dropout."""
    position = order.targets.clamp(0, max(order.lengths[0] - 1, 0))
    segments = None if query_segment is None else at_positions(query_segment, position)
    content, content_lse = call(
        queries[0],
        mask=order.apart[0],
        query_position=None,
        query_segment=query_segment,
        seed=seed,
    )
    stream, stream_lse = call(
        queries[1],
        mask=order.apart[1],
        query_position=position,
        query_segment=segments,
        seed=None if seed is None else seed ^ _SEED_OF_THE_STREAM,
    )
    return content, stream, content_lse, stream_lse


def check_streams(
    content_query: Tensor, stream_query: Tensor, key: Tensor, value: Tensor, relative_key: Tensor
) -> None:
    """Raises ValueError or TypeError where the tensors of the two streams do not belong together."""
    check_tensors(content_query, key, value, "content_query")
    for name, tensor in (("stream_query", stream_query), ("relative_key", relative_key)):
        check_like(name, tensor, content_query, "content_query")
    check_rows("relative_key", relative_key, content_query)
    expected = (*content_query.shape[:2], content_query.shape[3])
    if stream_query.dim() != 4 or (*stream_query.shape[:2], stream_query.shape[3]) != expected:
        raise ValueError(
            f"stream_query has shape {tuple(stream_query.shape)}; expected (B, H, P, D) with the B, H and "
            f"D of content_query, {tuple(content_query.shape)}"
        )


def _check_masks(
    content_query: Tensor,
    stream_query: Tensor,
    mask: AttentionMask | None,
    stream_mask: AttentionMask | None,
    key: Tensor,
) -> None:
    for name, each, query in (
        ("mask", mask, content_query),
        ("stream_mask", stream_mask, stream_query),
    ):
        if each is not None:
            check_mask(each, (*query.shape[:3], key.shape[2]), query.device, name)


def _check_order(
    order: StreamOrder, content_query: Tensor, stream_query: Tensor, replaced: dict[str, object]
) -> None:
    for name, value in replaced.items():
        if value is not None:
            raise ValueError(f"{name} is given beside order, which holds it; expected one of them")
    if not isinstance(order, StreamOrder):
        raise TypeError(f"order is a {type(order).__name__}; expected a StreamOrder")
    lengths = (content_query.shape[2], stream_query.shape[2])
    if order.lengths != lengths:
        raise ValueError(
            f"order has (L, P) = {order.lengths}; expected those of the queries, {lengths}"
        )
    if not broadcasts(order.place.shape[0], len(content_query)):
        raise ValueError(
            f"order has batch size {order.place.shape[0]}; expected 1 or {len(content_query)}"
        )
    if order.place.device != content_query.device:
        raise ValueError(
            f"order is on {order.place.device}; expected the device of content_query, "
            f"{content_query.device}"
        )
