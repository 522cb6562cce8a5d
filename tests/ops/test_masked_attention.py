"""`masked_attention` of every backend against the formula in float64: output and every gradient."""

import itertools
import random

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention
from tests.backends import DEVICE, KERNELS
from tests.ops.attention_cases import (
    BIASES,
    DTYPES,
    HEAD_DIMS,
    KEY_HEADS,
    MASKS,
    Case,
    build,
    formula,
    kernel,
)
from tests.tolerances import assert_close_to_reference

BACKENDS = [*KERNELS, "reference"]
SIZES = [(63, 63), (1, 1), (1, 130), (63, 1), (17, 150), (33, 33), (65, 129)]
LONGER_THAN_KEYS = {"none", "full", "keys", "causal", "right_to_left", "window", "dense", "nothing"}


def check(case: Case, backend: str) -> None:
    inputs = build(case)
    actual = kernel(inputs, backend)
    assert actual["output"].dtype == case.dtype
    assert actual["lse"].dtype == torch.float32
    exact, low = formula(inputs, torch.float64), formula(inputs, case.dtype)
    hidden = exact["lse"] == -torch.inf
    assert torch.equal(actual["lse"] == -torch.inf, hidden), case
    assert (actual["output"][hidden] == 0).all(), case
    # The log-sum-exp is float32 whatever the dtype: its own bound is that of the products in float32.
    low["lse"] = formula(inputs, torch.float32)["lse"].float()
    for named in (actual, low, exact):
        named["lse"] = torch.where(hidden, 0.0, named["lse"])
    for name, value in actual.items():
        assert value.shape == exact[name].shape, (case, name)
        size = exact["size_bias"].item() if name == "grad_bias" else 1.0
        assert_close_to_reference(value, low[name], exact[name], f"{case} {name}", size)


def sampled(count: int) -> list[Case]:
    """Every value of every option at least once with each dtype, in random company."""
    rng = random.Random(0)
    cases = []
    for dtype in DTYPES:
        for index in range(count):
            mask = list(MASKS)[index % len(MASKS)]
            sizes = [s for s in SIZES if s[0] <= s[1] or mask in LONGER_THAN_KEYS]
            query_len, key_len = rng.choice(sizes)
            case = Case(
                mask,
                BIASES[index % len(BIASES)],
                rng.choice([0.0, 0.0, 0.1, 0.5]),
                rng.choice(KEY_HEADS),
                dtype,
                HEAD_DIMS[(index + index // 9) % len(HEAD_DIMS)],
                query_len,
                key_len,
                strided=rng.random() < 0.3,
            )
            cases.append(case)
    return cases


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("case", sampled(36), ids=str)
def test_against_float64(case, backend):
    check(case, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask(mask, backend):
    check(Case(mask, query_len=40, key_len=40), backend)
    check(Case(mask, "table", 0.2, 2, head_dim=64, query_len=19, key_len=70), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", BIASES)
def test_every_bias(bias, backend):
    check(Case("causal", bias), backend)
    check(Case("keys", bias, 0.3, 1, query_len=7, key_len=33), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", ["none", "full", "table"])
@pytest.mark.parametrize(
    ("batch", "query_len", "key_len"), [(0, 5, 5), (2, 0, 5), (2, 5, 0), (1, 0, 0)]
)
def test_empty(batch, query_len, key_len, bias, backend):
    check(Case("none", bias, 0.1, batch=batch, query_len=query_len, key_len=key_len), backend)
    check(Case("keys", bias, batch=batch, query_len=query_len, key_len=key_len), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_queries_than_keys(backend):
    for mask in sorted(LONGER_THAN_KEYS):
        check(Case(mask, "full", query_len=70, key_len=5), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head_dim", [*HEAD_DIMS, 8, 16, 32, 127, 129, 255])
def test_every_head_dimension(head_dim, backend):
    check(Case("causal", head_dim=head_dim, query_len=35, key_len=35), backend)
    check(Case("keys", head_dim=head_dim, query_len=1, key_len=67), backend)


def shapes_of_bias():
    """Every shape that broadcasts to (2, 4, 5, 7), with fewer dimensions too."""
    whole = itertools.product((2, 1), (4, 1), (5, 1), (7, 1))
    return sorted({shape[drop:] for shape in whole for drop in range(5)})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("expanded", [False, True])
def test_bias_of_every_broadcast_form(expanded, backend):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 26, generator=generator)
    key, value = (torch.randn(2, 4, 7, 26, generator=generator) for _ in range(2))
    for shape in shapes_of_bias():
        leaf = torch.randn(shape, generator=generator, requires_grad=True)
        bias = leaf.expand(2, 4, 5, 7) if expanded else leaf
        grads = []
        for dtype, chosen in ((torch.float32, backend), (torch.float64, "reference")):
            output = masked_attention(
                *(t.to(dtype) for t in (query, key, value)), bias=bias, backend=chosen
            )
            grads += torch.autograd.grad(output.pow(2).sum(), leaf)
        torch.testing.assert_close(grads[0].double(), grads[1].double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias_dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_of_another_dtype(dtype, bias_dtype, backend):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 9, 26, generator=generator).to(dtype) for _ in range(3))
    buckets = torch.arange(17) % 3
    for drawn in (
        torch.randn(2, 9, 9, generator=generator),
        torch.randn(3, 2, generator=generator),
    ):
        leaf = drawn.to(bias_dtype).requires_grad_()
        bias = leaf if leaf.dim() == 3 else BucketedBias(leaf, buckets)
        grads = []
        for wide, chosen in ((dtype, backend), (torch.float64, "reference")):
            output = masked_attention(
                *(t.to(wide) for t in (query, key, value)), bias=bias, backend=chosen
            )
            assert output.dtype == wide
            grads += torch.autograd.grad(output.sum(), leaf)
            assert grads[-1].dtype == bias_dtype
        torch.testing.assert_close(*grads, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [None, 1.0, 0.0, -0.3])
def test_scale(scale, backend):
    query, key, value = (torch.randn(1, 2, 5, 9) for _ in range(3))
    scores = query @ key.mT * (1 / 3 if scale is None else scale)
    output = masked_attention(query, key, value, scale=scale, backend=backend)
    torch.testing.assert_close(output, scores.softmax(-1) @ value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_do_not_overflow(backend):
    inputs = [(torch.randn(1, 2, 33, 64) * 60).requires_grad_() for _ in range(3)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    output, lse = masked_attention(*inputs, scale=1.0, backend=backend, return_lse=True)
    wanted, wanted_lse = masked_attention(*exact, scale=1.0, return_lse=True)
    torch.testing.assert_close(output.double(), wanted, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=0)
    for grad in torch.autograd.grad(output.sum(), inputs):
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_the_log_sum_exp_alone_and_of_some_inputs(backend):
    query, key, value = (torch.randn(2, 2, 11, 26, requires_grad=True) for _ in range(3))
    mask = AttentionMask.causal(11)
    _, lse = masked_attention(query, key, value, mask, backend=backend, return_lse=True)
    grads = torch.autograd.grad(lse.sum(), (query, key, value), allow_unused=True)
    exact = [t.detach().double().requires_grad_() for t in (query, key, value)]
    _, wanted = masked_attention(*exact, mask, return_lse=True)
    wanted = torch.autograd.grad(wanted.sum(), exact[:2])
    torch.testing.assert_close(grads[0].double(), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[1].double(), wanted[1], rtol=1e-5, atol=1e-5)
    assert grads[2] is None or not grads[2].any()
    for wanted_leaf in (query, key, value):
        inputs = [t if t is wanted_leaf else t.detach() for t in (query, key, value)]
        (alone,) = torch.autograd.grad(
            masked_attention(*inputs, mask, backend=backend).sum(), wanted_leaf
        )
        whole = torch.autograd.grad(
            masked_attention(query, key, value, mask, backend=backend).sum(), (query, key, value)
        )
        together = whole[[t is wanted_leaf for t in (query, key, value)].index(True)]
        torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_bias_gets_no_gradient(backend):
    query, key, value = (torch.randn(1, 2, 5, 8, requires_grad=True) for _ in range(3))
    table = BucketedBias.t5(torch.randn(4, 2), 5)
    for bias in (torch.randn(5, 5), table):
        masked_attention(query, key, value, bias=bias, backend=backend).sum().backward()
    assert table.table.grad is None
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("backend", KERNELS)
def test_deterministic(backend):
    case = Case("causal_documents", "table", 0.1, 2, head_dim=64, query_len=200, key_len=200)
    inputs = build(case)
    runs = [kernel(inputs, backend) for _ in range(3)]
    for other in runs[1:]:
        for name, value in other.items():
            assert torch.equal(value, runs[0][name]), name


@pytest.mark.parametrize("backend", KERNELS)
def test_one_and_many_threads_agree(backend):
    inputs = build(Case("keys", "full", 0.1, 2, head_dim=64, query_len=150, key_len=150))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(kernel(inputs, backend))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("stride", ["batch", "row"])
def test_more_than_2_to_31_elements(stride, backend):
    """Views whose last element lies beyond 2**31; the memory between is never touched."""
    shape, step = ((2, 2, 9, 26), 2**31 - 900) if stride == "batch" else ((1, 1, 3, 26), 2**30 + 32)
    strides = (step, 26, 52, 1) if stride == "batch" else (26, 26, step, 1)
    store = torch.empty(2**31 + 4096, dtype=torch.bfloat16, device=DEVICE[backend])
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator).bfloat16() for _ in range(3)]
    far = []
    for index, small in enumerate(drawn):
        view = store.as_strided(shape, strides, storage_offset=1000 * index)
        view.copy_(small)
        far.append(view.detach().requires_grad_())
    assert (
        max(t.storage_offset() + (t.shape[0 if stride == "batch" else 2] - 1) * step for t in far)
        > 2**31
    )
    near = [t.requires_grad_() for t in drawn]
    outputs = [
        masked_attention(*t, AttentionMask.causal(shape[2]), backend=backend) for t in (far, near)
    ]
    assert torch.equal(*outputs)
    grads = [
        torch.autograd.grad(o, t, torch.ones_like(o))
        for o, t in zip(outputs, (far, near), strict=True)
    ]
    for one, two in zip(*grads, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("backend", KERNELS)
def test_bias_of_more_than_2_to_31_elements(backend):
    bias = torch.empty(2**31 + 4096, dtype=torch.bfloat16).as_strided(
        (1, 2, 3, 9), (0, 16, 2**30, 1)
    )
    small = torch.randn(1, 2, 3, 9).bfloat16()
    bias.copy_(small)
    query, key, value = (torch.randn(1, 2, n, 26) for n in (3, 9, 9))
    outputs = [masked_attention(query, key, value, bias=b, backend=backend) for b in (bias, small)]
    assert torch.equal(*outputs)
