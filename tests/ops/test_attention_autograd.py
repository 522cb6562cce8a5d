"""First and second derivatives of attention, transforms of torch.func, autocast."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention
from ptmkernels.ops.attention.options import AttentionOptions
from tests.backends import KERNELS, device_of, normal

BACKENDS = [*KERNELS, "reference"]
LENGTH, KEYS = 4, 6


def mask_and_bias(kind, backend="cpu", dtype=torch.float32):
    """A mask, the leaf of a bias and how the bias comes from it."""
    device = device_of(backend)
    keys = torch.tensor([[1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]], device=device)
    mask = AttentionMask.causal(LENGTH, KEYS, device=device) & AttentionMask.keys(keys, LENGTH)
    if kind == "none":
        return None, None, None
    if kind == "table":
        table = normal(4, 2, backend=backend, dtype=dtype, seed=7).requires_grad_()
        return mask, table, lambda leaf: BucketedBias.t5(leaf, LENGTH, KEYS)
    bias = normal(2, 1, LENGTH, KEYS, backend=backend, dtype=dtype, seed=7).requires_grad_()
    return mask, bias, lambda leaf: leaf


def qkv(backend="cpu", dtype=torch.float32):
    """Four query heads on two key heads where that is not the bias' business: here two on one."""
    shapes = ((2, 2, LENGTH, 5), (2, 1, KEYS, 5), (2, 1, KEYS, 5))
    return [
        normal(*shape, backend=backend, dtype=dtype, seed=i).requires_grad_()
        for i, shape in enumerate(shapes)
    ]


def call(backend, kind, dropout_p):
    """A function of query, key, value and, where there is one, the leaf of the bias; both results."""
    mask, _, as_bias = mask_and_bias(kind, backend)
    seed = torch.tensor([5], device=device_of(backend))

    def function(query, key, value, *leaf):
        output, lse = masked_attention(
            query,
            key,
            value,
            mask,
            bias=as_bias(*leaf) if leaf else None,
            dropout_p=dropout_p,
            seed=seed,
            backend=backend,
            return_lse=True,
        )
        return output, torch.where(lse == -torch.inf, 0.0, lse)

    return function


def leaves_of(kind, backend="cpu", dtype=torch.float32):
    leaf = mask_and_bias(kind, backend, dtype)[1]
    return qkv(backend, dtype) + ([] if leaf is None else [leaf])


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["none", "dense", "table"])
def test_reference_against_finite_differences(kind, dropout_p):
    leaves = leaves_of(kind, dtype=torch.float64)
    function = call("reference", kind, dropout_p)
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=True)


def derivatives(function, leaves, order, upstream):
    """The gradient of a scalar that is not linear in the gradient before it, `order` times over."""
    results = function(*leaves)
    total = sum((r * u.to(r.dtype)).sum() for r, u in zip(results, upstream, strict=True))
    for _ in range(order):
        grads = torch.autograd.grad(total, leaves, create_graph=True)
        total = sum((g.sin() * (i + 1)).sum() for i, g in enumerate(grads))
    return [g.detach() for g in grads]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["none", "dense", "table"])
def test_higher_derivatives_are_those_of_the_reference(kind, dropout_p, order, backend):
    upstream = normal(2, 2, LENGTH, 5, seed=8), normal(2, 2, LENGTH, seed=9)
    actual = derivatives(
        call(backend, kind, dropout_p),
        leaves_of(kind, backend),
        order,
        [u.to(device_of(backend)) for u in upstream],
    )
    exact = derivatives(
        call("reference", kind, dropout_p), leaves_of(kind, dtype=torch.float64), order, upstream
    )
    for one, two in zip(actual, exact, strict=True):
        torch.testing.assert_close(one.cpu().double(), two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hessian_of_one_input_among_frozen_ones(backend):
    query, key, value = (t.detach() for t in qkv(backend))
    doubles = [t.double() for t in (query, key, value)]

    def hessian(tensors, place, chosen):
        def loss(leaf):
            inputs = [leaf if i == place else t for i, t in enumerate(tensors)]
            return masked_attention(*inputs, backend=chosen).pow(3).sum()

        return torch.autograd.functional.hessian(loss, tensors[place])

    for place in range(3):
        actual, exact = hessian((query, key, value), place, backend), hessian(doubles, place, None)
        assert exact.abs().max() > 0.1
        torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_that_depends_on_the_query(backend):
    """What the bias owes to the query is counted once in a second derivative."""

    def penalty(query, key, value, chosen):
        bias = (query @ key.mT).tanh()
        output = masked_attention(query, key, value, bias=bias, backend=chosen)
        grads = torch.autograd.grad(output.pow(2).sum(), (query, key), create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in grads), (query, key, value))

    tensors = qkv(backend)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    for one, two in zip(penalty(*tensors, backend), penalty(*doubles, None), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-4)


TRANSFORMS = {
    "vmap": lambda f, x: torch.func.vmap(f)(x[None])[0],
    "grad": lambda f, x: torch.func.grad(lambda t: f(t).pow(2).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "jacrev": lambda f, x: torch.func.jacrev(lambda t: f(t).sum((0, 1, 2)))(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(lambda t: f(t).sum((0, 1, 2)))(x),
    "hessian": lambda f, x: torch.func.hessian(lambda t: f(t).pow(2).sum())(x),
    "per-sample grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda t: f(t).sum()))(x[None]),
}


def forward_mode(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


@pytest.mark.parametrize("name", [*TRANSFORMS, "forward mode"])
def test_transforms_are_served_by_the_reference(name):
    transform = TRANSFORMS.get(name, forward_mode)
    query, key, value = (t.detach() for t in qkv(dtype=torch.float32))
    mask, _, _ = mask_and_bias("dense")

    def ours(t):
        return masked_attention(t, key, value, mask)

    def eager(t):
        dense = mask.to_dense()[:, None]
        weights = (t @ key.mT / 5**0.5).masked_fill(~dense, -1e30).softmax(-1)
        return (weights * dense) @ value

    expected = transform(eager, query)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(transform(ours, query), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("name", [*TRANSFORMS, "forward mode"])
def test_transforms_are_refused_by_kernels(name, backend):
    transform = TRANSFORMS.get(name, forward_mode)
    query, key, value = (t.detach() for t in qkv(backend))
    with pytest.raises(RuntimeError, match=r"torch\.func transforms and forward-mode AD"):
        transform(lambda t: masked_attention(t, key, value, backend=backend), query)


def test_vmap_over_the_op_itself_is_refused():
    query = torch.randn(3, 1, 2, 4, 8)
    options = AttentionOptions()
    with pytest.raises(RuntimeError, match="fold the mapped dimension"):
        torch.func.vmap(lambda t: torch.ops.ptmkernels.attention_forward(t, t, t, *options))(query)


def test_vmap_over_masks_built_inside():
    keys = torch.rand(3, 2, 6) < 0.7
    query = torch.randn(3, 2, 2, 6, 8)

    def function(t, allowed):
        mask = AttentionMask.keys(allowed) & AttentionMask.prefix(allowed.sum(1), 6)
        return masked_attention(t, t, t, mask)

    mapped = torch.func.vmap(function)(query, keys)
    for i in range(3):
        torch.testing.assert_close(mapped[i], function(query[i], keys[i]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype, backend):
    """Everything but a bias is cast; the sums stay in float32."""
    tensors = [normal(1, 2, 33, 26, backend=backend, seed=i).requires_grad_() for i in range(3)]
    bias = normal(1, 2, 33, 33, backend=backend, seed=4).requires_grad_()
    device = device_of(backend)
    with torch.autocast(device, dtype):
        output, lse = masked_attention(*tensors, bias=bias, backend=backend, return_lse=True)
    cast = [t.detach().to(dtype) for t in tensors]
    alone, alone_lse = masked_attention(*cast, bias=bias, backend=backend, return_lse=True)
    assert output.dtype == dtype
    assert lse.dtype == torch.float32
    assert torch.equal(output, alone)
    assert torch.equal(lse, alone_lse)
    grads = torch.autograd.grad(output.float().sum(), [*tensors, bias])
    assert {g.dtype for g in grads} == {torch.float32}
    doubles = [t.double().requires_grad_() for t in cast]
    wanted = torch.autograd.grad(masked_attention(*doubles, bias=bias).sum(), [*doubles, bias])
    for one, two in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one.double(), two.double(), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_leaves_float64_alone_and_mends_mixed_dtypes(backend):
    query = normal(1, 2, 5, 8, backend=backend)
    with torch.autocast(device_of(backend), torch.bfloat16):
        assert (
            masked_attention(query, query.bfloat16(), query, backend=backend).dtype
            == torch.bfloat16
        )
        double = query.double()
        assert masked_attention(double, double, double).dtype == torch.float64
    with torch.autocast(device_of(backend), torch.bfloat16, enabled=False):
        assert masked_attention(query, query, query, backend=backend).dtype == torch.float32
