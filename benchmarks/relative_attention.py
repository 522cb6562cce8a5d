"""`relative_attention` beside Transformers' attention of XLNet, SDPA with the position scores built
beforehand, FlexAttention over captured ones, and our own attention without relative positions.

Two problems: XLNet's (L + S rows of relative keys, segments, every token sees every other) and
Transformer-XL's (as many memory keys as queries, S rows, causal).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ptmkernels.benchmarks.harness import (
    BACKWARD,
    BOTH,
    FORWARD,
    MODES,
    Benchmark,
    Case,
    Options,
    Provider,
)
from ptmkernels.benchmarks.machine import Work
from ptmkernels.benchmarks.providers import by_backend, from_setup
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import masked_attention, relative_attention

XLNET, TRANSFORMER_XL = SERIES = ("xlnet", "transformer-xl")
SIZES = (512, 1024)
HEADS = {"cpu": 12, "cuda": 16}
HEAD_DIM = 64
TOKENS = {"cpu": 1024, "cuda": 16384}  # L x B of XLNet; of Transformer-XL half of it
SCALE = HEAD_DIM**-0.5

# Times as fast as the peers on the CPU, and as our own plain kernel everywhere.
TRANSFORMERS_GOALS = {FORWARD: {512: 4.0, 1024: 7.0}, BOTH: {512: 4.0, 1024: 4.0}}
BEST_PEER_GOAL = 3.0
PLAIN_GOALS = {
    "cpu": {FORWARD: 1 / 1.6, BACKWARD: 1 / 2},
    "cuda": {FORWARD: 1 / 1.8, BACKWARD: 1 / 2.2},
}
PLAIN = "ptmkernels, no positions"
TRANSFORMERS = "transformers"


@dataclass(frozen=True)
class Setup:
    """One problem beside its tensors.

    Args:
        mask: ours; None = no mask.
        offset: of the relative keys (:func:`ptmkernels.ops.relative_attention`).
        segments: segment ids (1, L) of the tokens; None = no segment term.
    """

    mask: AttentionMask | None
    offset: int
    segments: Tensor | None


def cases(options: Options) -> Iterator[Case]:
    """Both problems in every size and dtype that the options ask for."""
    series = options.series or SERIES
    unknown = set(series) - set(SERIES)
    if unknown:
        raise ValueError(f"series is {sorted(unknown)}; expected some of {', '.join(SERIES)}")
    for name in series:
        for size in options.sizes or (SIZES[:1] if options.quick else SIZES):
            for dtype in options.dtypes:
                yield _case(name, size, dtype, options.device)


def _case(series: str, length: int, dtype: torch.dtype, device: torch.device) -> Case:
    xlnet = series == XLNET
    memory = 0 if xlnet else length
    batch = max(1, TOKENS[device.type] // (length + memory))
    heads, key_len = HEADS[device.type], length + memory
    rows = length + key_len if xlnet else key_len
    setup = Setup(
        None if xlnet else AttentionMask.recurrence(length, memory, device=device),
        length if xlnet else length - 1,
        halves(length, device) if xlnet else None,
    )
    shape = {"B": batch, "H": heads, "L": length, "S": key_len, "D": HEAD_DIM}
    visible = 1.0 if xlnet else setup.mask.to_dense().double().mean().item()
    return Case(
        *(series, length, shape, dtype, device),
        inputs=lambda: tensors(shape, rows, dtype, device, segments=xlnet),
        reference=ours(setup, backend="reference"),
        work=work(shape, rows, visible, dtype),
        setup=setup,
        modes=MODES,
    )


def halves(length: int, device: torch.device) -> Tensor:
    """Segment ids of two sentences of the same length, (1, L)."""
    return (torch.arange(length, device=device) >= length // 2).long()[None]


def tensors(
    shape: dict[str, int], rows: int, dtype: torch.dtype, device: torch.device, segments: bool
) -> dict[str, Tensor]:
    """Random (B, length, H, D) as projections give them, and the vectors of the terms."""

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device).to(dtype)

    batch, heads, length, key_len, dim = (shape[name] for name in "BHLSD")
    made = {"query": normal(batch, length, heads, dim)}
    made |= {name: normal(batch, key_len, heads, dim) for name in ("key", "value")}
    made["relative_key"] = normal(1, rows, heads, dim)
    made |= {name: normal(heads, dim) for name in ("content_bias", "position_bias")}
    if segments:
        made |= {"segment_bias": normal(heads, dim), "segment_key": normal(2, heads, dim)}
    return made


def work(shape: dict[str, int], rows: int, visible: float, dtype: torch.dtype) -> dict[str, Work]:
    """6 (forward) and 16 (backward) operations for each visible score and dimension; every tensor
    once: q, k, v, r, o, and in the backward their gradients too."""
    batch, heads, length, key_len, dim = (shape[name] for name in "BHLSD")
    scores = batch * heads * length * key_len * visible * dim
    moved = (2 * batch * heads * (length + key_len) + heads * rows) * dim * dtype.itemsize
    forward, backward = Work(6 * scores, moved), Work(16 * scores, 2 * moved)
    both = Work(forward.operations + backward.operations, forward.bytes + backward.bytes)
    return {FORWARD: forward, BACKWARD: backward, BOTH: both}


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """Ours, ours without positions, and the peers."""
    found = [
        Provider("ptmkernels", from_setup(ours), against=None),
        *by_backend("relative_attention", case, ours),
        Provider(PLAIN, from_setup(_plain), reference=_plain(case.setup, "reference")),
        Provider(TRANSFORMERS, from_setup(_transformers)),
        Provider("sdpa, built scores", from_setup(_sdpa)),
    ]
    if not options.quick or case.device.type == "cuda":
        found += [
            Provider("transformers, compiled", lambda c: _compiled(_transformers(c.setup))),
            Provider("flex, captured scores", from_setup(_flex)),
        ]
    return found


def ours(setup: Setup, backend: str | None = None) -> Callable[..., Tensor]:
    def attention(
        query: Tensor, key: Tensor, value: Tensor, relative_key: Tensor, **terms: Tensor
    ) -> Tensor:
        by_head = (t.transpose(1, 2) for t in (query, key, value, relative_key))
        if setup.segments is not None:
            terms |= {"query_segment": setup.segments, "key_segment": setup.segments}
        return relative_attention(
            *by_head, mask=setup.mask, relative_offset=setup.offset, backend=backend, **terms
        )

    return attention


def _plain(setup: Setup, backend: str | None = None) -> Callable[..., Tensor]:
    def attention(query: Tensor, key: Tensor, value: Tensor, **terms: Tensor) -> Tensor:
        by_head = (t.transpose(1, 2) for t in (query, key, value))
        return masked_attention(*by_head, setup.mask, backend=backend)

    return attention


def _hidden(setup: Setup) -> Tensor | None:
    """(1, L, S), true where the mask hides."""
    return None if setup.mask is None else ~setup.mask.to_dense()


def _transformers(setup: Setup) -> Callable[..., Tensor]:
    """The core of XLNet's attention, which with other rows is Transformer-XL's, too."""
    hidden = _hidden(setup)
    attention_mask = None if hidden is None else hidden.permute(1, 2, 0)[..., None].float()

    def attention(
        query: Tensor, key: Tensor, value: Tensor, relative_key: Tensor, **terms: Tensor
    ) -> Tensor:
        length, batch = query.shape[1], query.shape[0]
        # Its first row is for the distance L, one before Transformer-XL's first.
        rows = torch.nn.functional.pad(relative_key, (0, 0, 0, 0, length - setup.offset, 0))
        return transformers_core(
            query,
            key,
            value,
            rows.expand(batch, -1, -1, -1),
            terms,
            setup.segments,
            attention_mask,
        )

    return attention


def transformers_core(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_key: Tensor,
    terms: dict[str, Tensor],
    segments: tuple[Tensor, Tensor] | Tensor | None,
    attention_mask: Tensor | None,
) -> Tensor:
    """Transformers' own function on these tensors, (B, length, H, D) -> (B, H, L, D).

    Args:
        segments: ids (1, L), or those of the queries (B, L) and of the keys (1, S).
        attention_mask: (L, S, B or 1, 1), 1 where hidden.
    """
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    module = SimpleNamespace(
        r_w_bias=terms["content_bias"],
        r_r_bias=terms["position_bias"],
        r_s_bias=terms.get("segment_bias"),
        seg_embed=terms.get("segment_key"),
        scale=SCALE,
        dropout=lambda weights: weights,
        rel_shift_bnij=XLNetRelativeAttention.rel_shift_bnij,
    )
    segment_matrix = None
    if segments is not None:
        of_queries, of_keys = segments if isinstance(segments, tuple) else (segments, segments)
        differ = of_queries[:, :, None] != of_keys[:, None, :]
        differ = differ.expand(query.shape[0], -1, -1).permute(1, 2, 0).long()
        segment_matrix = torch.nn.functional.one_hot(differ, 2).to(query.dtype)
    if attention_mask is not None:
        attention_mask = attention_mask.to(query.dtype)
    rows = (t.transpose(0, 1) for t in (query, key, value, relative_key))
    attended = XLNetRelativeAttention.rel_attn_core(
        module, *rows, seg_mat=segment_matrix, attn_mask=attention_mask
    )
    return attended.permute(1, 2, 0, 3)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def _built_scores(
    setup: Setup, query: Tensor, relative_key: Tensor, key_len: int, terms: dict[str, Tensor]
) -> Tensor:
    """The position and segment scores, (B, H, L, S); `query` and `relative_key` by head."""
    length = query.shape[2]
    by_row = (query + terms["position_bias"][:, None]) @ relative_key.mT
    distance = torch.arange(key_len, device=query.device)
    rows = distance - torch.arange(length, device=query.device)[:, None] + setup.offset
    rows = rows.clamp(0, relative_key.shape[2] - 1)
    scores = by_row.gather(-1, rows.expand(*by_row.shape[:3], key_len))
    if setup.segments is not None:
        shifted = query + terms["segment_bias"][:, None]
        both = torch.einsum("bhld,ghd->bhlg", shifted, terms["segment_key"])
        differ = setup.segments[:, :, None] != setup.segments[:, None, :]
        scores = scores + torch.where(differ[:, None], both[..., 1:], both[..., :1])
    return scores


def _sdpa(setup: Setup) -> Callable[..., Tensor]:
    hidden = _hidden(setup)

    def attention(
        query: Tensor, key: Tensor, value: Tensor, relative_key: Tensor, **terms: Tensor
    ) -> Tensor:
        query, key, value, rows = (t.transpose(1, 2) for t in (query, key, value, relative_key))
        scores = SCALE * _built_scores(setup, query, rows, key.shape[2], terms)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        shifted = query + terms["content_bias"][:, None]
        return scaled_dot_product_attention(shifted, key, value, scores)

    return attention


def _flex(setup: Setup) -> Callable[..., Tensor]:
    """FlexAttention, compiled, that adds scores which it captures."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    hidden = _hidden(setup)
    block_mask = None
    if hidden is not None:
        block_mask = create_block_mask(
            lambda b, h, i, j: ~hidden[0, i, j], None, None, *hidden.shape[1:], device=hidden.device
        )

    def attention(
        query: Tensor, key: Tensor, value: Tensor, relative_key: Tensor, **terms: Tensor
    ) -> Tensor:
        query, key, value, rows = (t.transpose(1, 2) for t in (query, key, value, relative_key))
        scores = SCALE * _built_scores(setup, query, rows, key.shape[2], terms)
        return compiled(
            query + terms["content_bias"][:, None],
            key,
            value,
            score_mod=lambda score, b, h, i, j: score + scores[b, h, i, j],
            block_mask=block_mask,
        )

    return attention


def goal(case: Case, mode: str, provider: str) -> float | None:
    """How many times as fast as `provider` we want to be, where a goal is set."""
    if provider == PLAIN:
        return PLAIN_GOALS[case.device.type].get(mode)
    if case.series == XLNET and case.device.type == "cpu" and provider == TRANSFORMERS:
        return TRANSFORMERS_GOALS.get(mode, {}).get(case.size)
    if case.series == TRANSFORMER_XL and mode == BOTH and case.size >= 512:
        return BEST_PEER_GOAL
    return None


BENCHMARK = Benchmark("relative_attention", TRANSFORMERS, cases, providers, goal)
