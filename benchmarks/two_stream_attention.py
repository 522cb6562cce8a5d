"""`two_stream_attention` beside two calls of Transformers' attention of XLNet, and beside our own attention
of the content rows alone.

XLNet's pre-training: a permutation of its own for each row, one token in six is to be predicted, two
segments. Both masks have one rank; the order of the rows is made beforehand, as a model makes it once for
all of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ptmkernels.benchmarks.harness import MODES, Benchmark, Case, Options, Provider
from ptmkernels.benchmarks.machine import Work
from ptmkernels.benchmarks.providers import by_backend, from_setup
from ptmkernels.benchmarks.relative_attention import (
    HEAD_DIM,
    HEADS,
    SIZES,
    TOKENS,
    TRANSFORMERS,
    halves,
    tensors,
    transformers_core,
    work,
)
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import StreamOrder, relative_attention, two_stream_attention

SERIES = ("xlnet",)
PREDICTED = 6  # one token in so many is a target
TRANSFORMERS_GOAL = 4.0
OVERHEAD = 1.05  # of (1 + P / L) times the content rows alone
CONTENT = "ptmkernels, content rows"


@dataclass(frozen=True)
class Setup:
    """One problem beside its tensors.

    Args:
        content_mask, stream_mask: what the rows of each stream see.
        order: of the rows of both.
        targets: (B, P) positions of the predicted rows.
        segments: (1, L) segment ids of the tokens.
    """

    content_mask: AttentionMask
    stream_mask: AttentionMask
    order: StreamOrder
    targets: Tensor
    segments: Tensor


def cases(options: Options) -> Iterator[Case]:
    """Every size and dtype that the options ask for."""
    unknown = set(options.series) - set(SERIES)
    if unknown:
        raise ValueError(f"series is {sorted(unknown)}; expected some of {', '.join(SERIES)}")
    for size in options.sizes or (SIZES[:1] if options.quick else SIZES):
        for dtype in options.dtypes:
            yield _case(size, dtype, options.device)


def _case(length: int, dtype: torch.dtype, device: torch.device) -> Case:
    batch, heads = max(1, TOKENS[device.type] // length), HEADS[device.type]
    setup = _setup(batch, length, device)
    predicted = setup.targets.shape[1]
    shape = {"B": batch, "H": heads, "L": length, "S": length, "D": HEAD_DIM}

    def inputs() -> dict[str, Tensor]:
        made = tensors(shape, 2 * length, dtype, device, segments=True)
        made["stream_query"] = torch.randn(batch, predicted, heads, HEAD_DIM).to(device, dtype)
        return made

    both_streams = shape | {"L": length + predicted}
    return Case(
        *("xlnet", length, shape | {"P": predicted}, dtype, device, inputs),
        reference=ours(setup, backend="reference"),
        work=_work(both_streams, dtype),
        setup=setup,
        modes=MODES,
    )


def _work(shape: dict[str, int], dtype: torch.dtype) -> dict[str, Work]:
    """That of one stream with as many rows; an order hides half of the scores, but no whole tile."""
    return work(shape, 2 * shape["S"], 1.0, dtype)


def _setup(batch: int, length: int, device: torch.device) -> Setup:
    generator = torch.Generator().manual_seed(1)
    permutation = torch.rand(batch, length, generator=generator).argsort(1)
    rank = permutation.argsort(1).to(device)
    last = permutation[:, length - max(1, length // PREDICTED) :].sort(1).values.to(device)
    is_target = torch.zeros(batch, length, dtype=torch.bool, device=device).scatter(1, last, True)
    content, stream = (
        AttentionMask.permutation(rank, is_target, each, query_index=index)
        for each, index in (("content", None), ("query", last))
    )
    order = StreamOrder.of(
        content, stream, last, sizes=(batch, length, last.shape[1]), key_len=length
    )
    return Setup(content, stream, order, last, halves(length, device))


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """Ours, ours for the content rows alone, and Transformers'."""
    found = [
        Provider("ptmkernels", from_setup(ours), against=None),
        *by_backend("relative_attention", case, ours),
        Provider(CONTENT, from_setup(_content), reference=_content(case.setup, "reference")),
        Provider(TRANSFORMERS, from_setup(_transformers)),
    ]
    if not options.quick or case.device.type == "cuda":
        found.append(Provider("transformers, compiled", from_setup(_compiled)))
    return found


def ours(setup: Setup, backend: str | None = None) -> Callable[..., Tensor]:
    """Both streams, the predicted rows behind the content rows: (B, H, L + P, D)."""

    def attention(
        query: Tensor,
        stream_query: Tensor,
        key: Tensor,
        value: Tensor,
        relative_key: Tensor,
        **terms,
    ) -> Tensor:
        by_head = (t.transpose(1, 2) for t in (query, stream_query, key, value, relative_key))
        streams = two_stream_attention(
            *by_head,
            order=setup.order,
            query_segment=setup.segments,
            key_segment=setup.segments,
            backend=backend,
            **terms,
        )
        return torch.cat(streams, dim=2)

    return attention


def _content(setup: Setup, backend: str | None = None) -> Callable[..., Tensor]:
    """The content rows alone; zeros where the predicted ones would be."""

    def attention(
        query: Tensor,
        stream_query: Tensor,
        key: Tensor,
        value: Tensor,
        relative_key: Tensor,
        **terms,
    ) -> Tensor:
        by_head = (t.transpose(1, 2) for t in (query, key, value, relative_key))
        rows = relative_attention(
            *by_head,
            mask=setup.content_mask,
            query_segment=setup.segments,
            key_segment=setup.segments,
            backend=backend,
            **terms,
        )
        return pad(rows, (0, 0, 0, stream_query.shape[1]))

    return attention


def _transformers(setup: Setup) -> Callable[..., Tensor]:
    """XLNet's two calls; its query stream has a row for every token, of which the targets are taken."""
    length = setup.segments.shape[1]
    matrix = torch.nn.functional.one_hot(setup.targets, length)
    hidden = [
        (~_all_rows(mask, setup, length)).permute(1, 2, 0)[..., None].float()
        for mask in (setup.content_mask, setup.stream_mask)
    ]

    def attention(
        query: Tensor,
        stream_query: Tensor,
        key: Tensor,
        value: Tensor,
        relative_key: Tensor,
        **terms,
    ) -> Tensor:
        rows = relative_key.expand(query.shape[0], -1, -1, -1)
        mapping = matrix.to(query.dtype)
        # As XLNetRelativeAttention.forward: targets to their positions, attend, and back.
        spread = torch.einsum("bphd,bpl->blhd", stream_query, mapping)
        content, predicted = (
            transformers_core(each, key, value, rows, terms, setup.segments, mask)
            for each, mask in zip((query, spread), hidden, strict=True)
        )
        return torch.cat([content, torch.einsum("bhld,bpl->bhpd", predicted, mapping)], dim=2)

    return attention


def _all_rows(mask: AttentionMask, setup: Setup, length: int) -> Tensor:
    """(B, L, S) what is visible, with rows that see everything where a mask has none."""
    visible = mask.to_dense()
    if visible.shape[1] == length:
        return visible
    everything = visible.new_ones(visible.shape[0], length, visible.shape[2])
    index = setup.targets[..., None].expand(-1, -1, visible.shape[2])
    return everything.scatter(1, index, visible)


def _compiled(setup: Setup) -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(_transformers(setup), dynamic=False)


def goal(case: Case, mode: str, provider: str) -> float | None:
    """How many times as fast as `provider` we want to be, where a goal is set."""
    if provider == CONTENT:
        return 1 / (OVERHEAD * (1 + case.shape["P"] / case.shape["L"]))
    if provider == TRANSFORMERS and case.size >= SIZES[0]:
        return TRANSFORMERS_GOAL
    return None


BENCHMARK = Benchmark("two_stream_attention", TRANSFORMERS, cases, providers, goal)
