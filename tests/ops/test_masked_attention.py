"""`masked_attention` of every backend against the formula in float64: output and every gradient."""

import itertools
import random

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention
from tests.backends import KERNELS, device_of, normal
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


def check(case: Case, backend: str, run=kernel) -> None:
    """`run(inputs, backend)` gives the results that are held to the 2x rule."""
    inputs = build(case, backend)
    actual = run(inputs, backend)
    assert actual["output"].dtype == case.dtype
    assert actual["lse"].dtype == torch.float32
    (exact, sizes), (low, _) = formula(inputs, torch.float64), formula(inputs, case.dtype)
    hidden = exact["lse"] == -torch.inf
    assert torch.equal(actual["lse"] == -torch.inf, hidden), case
    assert (actual["output"][hidden] == 0).all(), case
    # The log-sum-exp is float32 whatever the dtype: its own bound is that of the products in float32.
    low["lse"] = formula(inputs, torch.float32)[0]["lse"]
    for named in (actual, low, exact):
        named["lse"] = torch.where(hidden, 0.0, named["lse"])
    for name, value in actual.items():
        assert value.shape == exact[name].shape, (case, name)
        size, terms = sizes.get(name, 1.0), case.dtype if name in sizes else None
        assert_close_to_reference(value, low[name], exact[name], f"{case} {name}", size, terms)


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


def three(backend, *shape, key_len=None, dtype=torch.float32, requires_grad=False):
    """Query, key and value (B, H, L, D)."""
    batch, heads, length, head_dim = shape
    lengths = (length, *(2 * [length if key_len is None else key_len]))
    return [
        normal(batch, heads, n, head_dim, backend=backend, dtype=dtype, seed=i).requires_grad_(
            requires_grad
        )
        for i, n in enumerate(lengths)
    ]


def exact(tensors):
    """The same numbers as float64 leaves."""
    return [t.detach().double().requires_grad_() for t in tensors]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("expanded", [False, True])
def test_bias_of_every_broadcast_form(expanded, backend):
    tensors = three(backend, 2, 4, 5, 26, key_len=7)
    for shape in shapes_of_bias():
        leaf = normal(*shape, backend=backend, seed=9).requires_grad_()
        bias = leaf.expand(2, 4, 5, 7) if expanded else leaf
        output = masked_attention(*tensors, bias=bias, backend=backend)
        (grad,) = torch.autograd.grad(output.pow(2).sum(), leaf)
        output = masked_attention(*exact(tensors), bias=bias)
        (wanted,) = torch.autograd.grad(output.pow(2).sum(), leaf)
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=3e-4)  # up to 280 terms cancel


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias_dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_of_another_dtype(dtype, bias_dtype, backend):
    tensors = three(backend, 1, 2, 9, 26, dtype=dtype)
    buckets = torch.arange(17, device=tensors[0].device) % 3
    dense = normal(2, 9, 9, backend=backend, dtype=bias_dtype).requires_grad_()
    table = normal(3, 2, backend=backend, dtype=bias_dtype).requires_grad_()
    for leaf, bias in ((dense, dense), (table, BucketedBias(table, buckets))):
        output = masked_attention(*tensors, bias=bias, backend=backend)
        assert output.dtype == dtype
        (grad,) = torch.autograd.grad(output.sum(), leaf)
        (wanted,) = torch.autograd.grad(masked_attention(*exact(tensors), bias=bias).sum(), leaf)
        assert grad.dtype == bias_dtype
        torch.testing.assert_close(grad, wanted, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [None, 1.0, 0.0, -0.3, 2])
def test_scale(scale, backend):
    query, key, value = three(backend, 1, 2, 5, 9)
    scores = query @ key.mT * (1 / 3 if scale is None else scale)
    output = masked_attention(query, key, value, scale=scale, backend=backend)
    torch.testing.assert_close(output, scores.softmax(-1) @ value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_do_not_overflow(backend):
    tensors = [(t * 60).requires_grad_() for t in three(backend, 1, 2, 33, 64)]
    output, lse = masked_attention(*tensors, scale=1.0, backend=backend, return_lse=True)
    wanted, wanted_lse = masked_attention(*exact(tensors), scale=1.0, return_lse=True)
    torch.testing.assert_close(output.double(), wanted, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=0)
    for grad in torch.autograd.grad(output.sum(), tensors):
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_the_log_sum_exp_alone(backend):
    tensors = three(backend, 2, 2, 11, 26, requires_grad=True)
    doubles, mask = exact(tensors), AttentionMask.causal(11, device=tensors[0].device)
    _, lse = masked_attention(*tensors, mask, backend=backend, return_lse=True)
    _, wanted = masked_attention(*doubles, mask, return_lse=True)
    grads = torch.autograd.grad(lse.sum(), tensors, materialize_grads=True)
    wanted = torch.autograd.grad(wanted.sum(), doubles, materialize_grads=True)
    for grad, exactly in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad.double(), exactly, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_one_input_alone(backend):
    tensors = three(backend, 2, 2, 11, 26, requires_grad=True)
    together = torch.autograd.grad(masked_attention(*tensors, backend=backend).sum(), tensors)
    for place, grad in enumerate(together):
        inputs = [t if i == place else t.detach() for i, t in enumerate(tensors)]
        output = masked_attention(*inputs, backend=backend)
        (alone,) = torch.autograd.grad(output.sum(), inputs[place])
        torch.testing.assert_close(alone, grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_bias_gets_no_gradient(backend):
    tensors = three(backend, 1, 2, 5, 8, requires_grad=True)
    table = BucketedBias.t5(normal(4, 2, backend=backend), 5)
    for bias in (normal(5, 5, backend=backend), table):
        masked_attention(*tensors, bias=bias, backend=backend).sum().backward()
    assert table.table.grad is None
    assert tensors[0].grad.isfinite().all()


@pytest.mark.parametrize("backend", KERNELS)
def test_deterministic(backend):
    case = Case("causal_documents", "table", 0.1, 2, head_dim=64, query_len=200, key_len=200)
    inputs = build(case, backend)
    first, *others = (kernel(inputs, backend) for _ in range(3))
    for other in others:
        for name, value in other.items():
            assert torch.equal(value, first[name]), name


def test_one_and_many_threads_agree():
    if "cpu" not in KERNELS:
        pytest.skip("the CPU kernels are not built")
    inputs = build(Case("keys", "full", 0.1, 2, head_dim=64, query_len=150, key_len=150))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(kernel(inputs, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("far", ["batch", "row"])
def test_more_than_2_to_31_elements(far, backend):
    """Views whose last element lies beyond 2**31; the memory between is never touched."""
    if far == "batch":
        shape, strides = (2, 2, 9, 26), (2**31 + 8, 26, 52, 1)
    else:
        shape, strides = (1, 1, 3, 26), (26, 26, 2**30 + 8, 1)
    store = torch.empty(2**31 + 4096, dtype=torch.bfloat16, device=device_of(backend))
    near = [
        normal(*shape, backend=backend, dtype=torch.bfloat16, seed=i).requires_grad_()
        for i in range(3)
    ]
    views = [store.as_strided(shape, strides, 1000 * i) for i in range(3)]
    for view, small in zip(views, near, strict=True):
        view.copy_(small.detach())
    views = [view.detach().requires_grad_() for view in views]
    mask = AttentionMask.causal(shape[2], device=store.device)
    outputs = [masked_attention(*t, mask, backend=backend) for t in (views, near)]
    assert torch.equal(*outputs)
    upstream = normal(*shape, backend=backend, dtype=torch.bfloat16, seed=3)
    grads = [
        torch.autograd.grad(o, t, upstream) for o, t in zip(outputs, (views, near), strict=True)
    ]
    for one, two in zip(*grads, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("backend", KERNELS)
def test_bias_of_more_than_2_to_31_elements(backend):
    store = torch.empty(2**31 + 4096, dtype=torch.bfloat16, device=device_of(backend))
    bias = store.as_strided((1, 2, 3, 9), (0, 16, 2**30, 1))
    small = normal(1, 2, 3, 9, backend=backend, dtype=torch.bfloat16)
    bias.copy_(small)
    tensors = three(backend, 1, 2, 3, 26, key_len=9)
    outputs = [masked_attention(*tensors, bias=b, backend=backend) for b in (bias, small)]
    assert torch.equal(*outputs)
