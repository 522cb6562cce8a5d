"""`masked_attention` beside SDPA (each backend of it), FlexAttention and eager PyTorch.

The masks are those that the models train with; SDPA gets them in the best form that it takes: nothing,
`is_causal`, or a boolean tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ptmkernels.benchmarks import harness
from ptmkernels.benchmarks.harness import (
    BACKWARD,
    BOTH,
    FORWARD,
    Benchmark,
    Case,
    Options,
    Provider,
)
from ptmkernels.benchmarks.machine import Work
from ptmkernels.benchmarks.providers import by_backend, from_setup
from ptmkernels.benchmarks.report import Row
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import BucketedBias, masked_attention, t5_buckets

DOCUMENT = 128  # tokens of a packed document
BUCKETS = 32  # of T5's bias
SERIES = (
    "full",
    "causal",
    "prefix",
    "half-padded",
    "documents",
    "ragged-documents",
    "t5-bias",
    "dense-bias",
    "cached",
)
QUICK_SERIES = ("full", "causal", "half-padded", "documents", "t5-bias")
CACHE_LEN = 1024  # keys of the one-query case
SIZES = {"cpu": (128, 512, 1024, 2048), "cuda": (128, 512, 1024, 2048, 4096)}
HEADS = {"cpu": 12, "cuda": 16}
HEAD_DIM = 64
GPU_TOKENS = 16384  # L x B on a GPU, so that every size fills it

# Times as fast as SDPA, forward + backward on the CPU, at L = 512, 1024, 2048 (L = 128: no slower).
CPU_GOALS = {
    torch.float32: {"full": (1.3, 1.3, 1.3), "causal": (2.3, 1.8, 1.5), "documents": (5, 9, 16)},
    torch.bfloat16: {"full": (2.4, 2.0, 2.0), "causal": (4, 3, 2.4), "documents": (8, 14, 22)},
}
DETERMINISTIC = "ptmkernels, deterministic"
# Of our own kernel without the bias.
BIAS_GOALS = {FORWARD: 0.9, BACKWARD: 0.7}
# On a GPU, forward + backward: of cuDNN, and at L = 4096 of the others.
CUDNN_GOAL = 0.85
GPU_DOCUMENT_GOALS = {"flex": 1.5, "sdpa": 4.0, "flex, new mask": 5.0}


@dataclass(frozen=True)
class Setup:
    """One attention problem beside its tensors.

    Args:
        make_mask: builds our mask; None = no mask.
        allowed: the same as booleans that broadcast to (B, H, L, S), for peers; None = not needed.
        causal: the mask is plainly causal, L = S.
        flex: FlexAttention's form of the mask, a function (b, h, i, j) -> visible; None = no mask.
        bias: "", "bucketed" or "dense".
        visible: share of the L x S scores that the mask leaves.
    """

    make_mask: Callable[[], AttentionMask] | None = None
    allowed: Tensor | None = None
    causal: bool = False
    flex: Callable | None = None
    bias: str = ""
    visible: float = 1.0


def cases(options: Options) -> Iterator[Case]:
    """Every series x size x dtype that the options ask for."""
    kind = options.device.type
    sizes = options.sizes or ((512,) if options.quick else SIZES[kind])
    series = options.series or (QUICK_SERIES if options.quick else SERIES)
    unknown = set(series) - set(SERIES)
    if unknown:
        raise ValueError(f"series is {sorted(unknown)}; expected some of {', '.join(SERIES)}")
    for name in series:
        for size in (CACHE_LEN,) if name == "cached" else sizes:
            for dtype in options.dtypes:
                yield _case(name, size, dtype, options.device)


def _case(series: str, length: int, dtype: torch.dtype, device: torch.device) -> Case:
    gpu = device.type == "cuda"
    batch = max(1, GPU_TOKENS // length) if gpu else (2 if series == "half-padded" else 1)
    heads, query_len = HEADS[device.type], 1 if series == "cached" else length
    setup = _setup(series, batch, length, device)
    shape = {"B": batch, "H": heads, "L": query_len, "S": length, "D": HEAD_DIM}

    def inputs() -> dict[str, Tensor]:
        def normal(*sizes: int) -> Tensor:
            return torch.randn(*sizes, device=device).to(dtype)

        made = {"query": normal(batch, heads, query_len, HEAD_DIM)}
        made |= {name: normal(batch, heads, length, HEAD_DIM) for name in ("key", "value")}
        if setup.bias == "bucketed":
            made["bias"] = normal(BUCKETS, heads)
        if setup.bias == "dense":
            made["bias"] = normal(1, heads, query_len, length)
        return made

    return Case(
        *(series, length, shape, dtype, device, inputs),
        reference=ours(setup, backend="reference"),
        work=_work(shape, setup, dtype),
        setup=setup,
        modes=(FORWARD,) if series == "cached" else (FORWARD, BACKWARD, BOTH),
    )


def _setup(series: str, batch: int, length: int, device: torch.device) -> Setup:
    """The mask of a series, in our form and in those of the peers."""
    if series == "causal":
        setup = Setup(
            lambda: AttentionMask.causal(length, device=device),
            causal=True,
            flex=lambda b, h, i, j: i >= j,
        )
    elif series == "prefix":
        prefix = torch.full((batch,), length // 2, device=device)
        setup = Setup(
            lambda: AttentionMask.prefix(prefix, length),
            flex=lambda b, h, i, j: (i >= j) | (j < length // 2),
        )
    elif series == "half-padded":
        # Rows of three quarters and of one quarter of real tokens in turns.
        quarters = torch.tensor([3, 1], device=device).repeat((batch + 1) // 2)[:batch]
        lengths = quarters * length // 4
        real = torch.arange(length, device=device) < lengths[:, None]
        setup = Setup(lambda: AttentionMask.keys(real), flex=lambda b, h, i, j: j < lengths[b])
    elif series in ("documents", "ragged-documents"):
        ids = (torch.arange(length, device=device) // DOCUMENT).expand(batch, length)
        if series == "ragged-documents":  # of DOCUMENT tokens on average
            ids = (torch.rand(batch, length, device=device) * DOCUMENT < 1).cumsum(1)
        setup = Setup(
            lambda: AttentionMask.documents(ids), flex=lambda b, h, i, j: ids[b, i] == ids[b, j]
        )
    else:
        bias = {"t5-bias": "bucketed", "dense-bias": "dense"}
        return Setup(bias=bias.get(series, ""))
    allowed = setup.make_mask().to_dense()[:, None]
    return replace(
        setup,
        allowed=None if setup.causal else allowed,
        visible=allowed.double().mean().item(),
    )


def _work(shape: dict[str, int], setup: Setup, dtype: torch.dtype) -> dict[str, Work]:
    """4 (forward) and 10 (backward) operations for each visible score and dimension; every tensor
    once: q, k, v, o, and in the backward their gradients too."""
    batch, heads, query_len, key_len, dim = (shape[name] for name in "BHLSD")
    scores = batch * heads * query_len * key_len * setup.visible * dim
    size = dtype.itemsize
    tensors = 2 * batch * heads * (query_len + key_len) * dim * size
    bias = heads * query_len * key_len * size if setup.bias == "dense" else 0
    forward = Work(4 * scores, tensors + bias)
    backward = Work(10 * scores, 2 * tensors + 2 * bias)
    both = Work(forward.operations + backward.operations, forward.bytes + backward.bytes)
    return {FORWARD: forward, BACKWARD: backward, BOTH: both}


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """Ours, in each backend that runs here, and the peers."""
    setup = case.setup
    found = [
        Provider("ptmkernels", from_setup(ours), against=None),
        *by_backend("masked_attention", case, ours),
    ]
    found += _deterministic(case, [provider.name for provider in found])
    if setup.bias:
        plain = replace(setup, bias="")
        found.append(
            Provider(
                "ptmkernels, no bias",
                lambda c: ours(plain),
                reference=ours(plain, backend="reference"),
            )
        )
    found += [
        Provider("sdpa", from_setup(_sdpa)),
        *(
            Provider(f"sdpa, {name}", from_setup(_sdpa, backend=b))
            for name, b in _sdpa_backends(case)
        ),
        Provider("eager", from_setup(_eager)),
    ]
    if not options.quick or case.device.type == "cuda":
        found.append(Provider("flex", lambda c: _flex(c)))
        if case.series == "documents":
            found += [
                Provider("ptmkernels, new mask", from_setup(ours, new_mask=True)),
                Provider("flex, new mask", lambda c: _flex(c, True), "ptmkernels, new mask"),
            ]
    return found


def _deterministic(case: Case, there: Sequence[str]) -> list[Provider]:
    """Ours in the deterministic form: on a GPU that of Triton, whose backward is another one then."""
    gpu = case.device.type == "cuda"
    against = "ptmkernels, triton" if gpu else "ptmkernels"
    if against not in there:
        return []
    build = from_setup(ours, backend="triton" if gpu else None)
    return [Provider(DETERMINISTIC, build, against, deterministic=True)]


def _sdpa_backends(case: Case) -> list[tuple[str, SDPBackend]]:
    names = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
    if case.device.type == "cuda":
        names |= {
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cudnn": SDPBackend.CUDNN_ATTENTION,
        }
    return list(names.items())


def ours(setup: Setup, backend: str | None = None, new_mask: bool = False) -> Callable[..., Tensor]:
    make_mask = setup.make_mask or (lambda: None)
    kept = make_mask()

    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        given = bias if setup.bias else None
        if setup.bias == "bucketed":
            given = BucketedBias.t5(bias, query.shape[2])
        mask = make_mask() if new_mask else kept
        return masked_attention(query, key, value, mask, bias=given, backend=backend)

    return attention


def _dense_mask(setup: Setup, bias: Tensor | None, length: int) -> Tensor | None:
    """What SDPA and eager attention take: booleans, or the bias as (1, H, L, S)."""
    if setup.bias == "bucketed":
        distance = torch.arange(length, device=bias.device)
        buckets = t5_buckets(distance - distance[:, None], BUCKETS)
        return bias[buckets.long()].permute(2, 0, 1)[None]
    return bias if setup.bias else setup.allowed


def _sdpa(setup: Setup, backend: SDPBackend | None = None) -> Callable[..., Tensor]:
    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        mask = _dense_mask(setup, bias, query.shape[2])
        return scaled_dot_product_attention(query, key, value, mask, is_causal=setup.causal)

    def restricted(*tensors: Tensor, **named: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return attention(*tensors, **named)

    return attention if backend is None else restricted


def _eager(setup: Setup) -> Callable[..., Tensor]:
    """The formula in three lines, the softmax in float32, as model code writes it."""

    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        mask = _dense_mask(setup, bias, query.shape[2])
        if setup.causal:
            length = query.shape[2]
            mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value

    return attention


def _flex(case: Case, new_mask: bool = False) -> Callable[..., Tensor]:
    """FlexAttention, compiled; its block mask made beforehand or, with `new_mask`, in every call."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    setup, (batch, query_len, key_len) = case.setup, (case.shape[name] for name in "BLS")
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    compiled_mask = torch.compile(create_block_mask) if new_mask else create_block_mask

    def block_mask():
        if setup.flex is None:
            return None
        return compiled_mask(setup.flex, batch, None, query_len, key_len, device=case.device)

    kept = block_mask()

    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        score_mod = None
        if setup.bias == "bucketed":
            position = torch.arange(key_len, device=query.device)
            buckets = t5_buckets(position - position[:, None], BUCKETS).long()
            score_mod = lambda score, b, h, i, j: score + bias[buckets[i, j], h]  # noqa: E731
        elif setup.bias == "dense":
            score_mod = lambda score, b, h, i, j: score + bias[0, h, i, j]  # noqa: E731
        mask = block_mask() if new_mask else kept
        return compiled(query, key, value, score_mod=score_mod, block_mask=mask)

    return attention


def goal(case: Case, mode: str, provider: str) -> float | None:
    """How many times as fast as `provider` we want to be, where a goal is set."""
    if provider == "ptmkernels, no bias":
        return BIAS_GOALS.get(mode)
    if case.device.type == "cuda":
        return _gpu_goal(case, mode, provider)
    if provider != "sdpa":
        return None
    if case.series == "cached":
        return 1.0
    return _cpu_goal(case) if mode == BOTH else None


def _cpu_goal(case: Case) -> float | None:
    if case.size < 512:
        return 1.0
    table = CPU_GOALS.get(case.dtype, {})
    if case.size not in (512, 1024, 2048) or not table or case.setup.bias:
        return None
    if case.series == "ragged-documents":
        return None
    index = (512, 1024, 2048).index(case.size)
    if case.series in table:
        return float(table[case.series][index])
    return (
        table["full"][index] / case.setup.visible
    )  # prefix and padding: in proportion to the area


def _gpu_goal(case: Case, mode: str, provider: str) -> float | None:
    if provider == "sdpa, cudnn" and case.series in ("full", "causal"):
        return CUDNN_GOAL
    if case.series == "documents" and case.size == 4096 and mode == BOTH:
        return GPU_DOCUMENT_GOALS.get(provider)
    return None


BENCHMARK = Benchmark("masked_attention", "sdpa", cases, providers, goal)


def quick_attention_benchmark(
    device: torch.device | str = "cpu", size: int = 512, seconds: float = 1.0
) -> list[Row]:
    """The smallest meaningful comparison: forward + backward in float32 beside SDPA, under 20 seconds.

    Args:
        size: L = S.
        seconds: of timing for each of the three masks.

    Returns:
        The rows of `ptmkernels` and `sdpa` for full, causal and documents masks.
    """
    options = Options(
        device=torch.device(device),
        dtypes=(torch.float32,),
        threads=(torch.get_num_threads(),),
        modes=(BOTH,),
        series=("full", "causal", "documents"),
        sizes=(size,),
        providers=("sdpa",),
        quick=True,
        budget=seconds,
    )
    return [row for rows in harness.run(BENCHMARK, options) for row in rows]
