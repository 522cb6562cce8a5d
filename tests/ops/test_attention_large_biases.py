"""Biases and float masks of any finite size: every backend as the formula in float32 says.

The scores are rounded to float32 before the softmax: of a row whose keys all carry the most negative number
nothing is left but that number, and all weights are equal.
"""

import pytest
import torch
import torch.nn.functional as F

import ptmkernels as ptm
from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, attention_weights, masked_attention, relative_attention
from tests.backends import KERNELS, normal
from tests.simt import attention as emulated

LARGEST = torch.finfo(torch.float32).max
VALUES = [-LARGEST, -2.5e38, -1e9, -1e7, -1e4, 1e7, 3e38, LARGEST]
SHAPES = [(33, 40, 26), (1, 700, 16)]
KINDS = ["rows", "some_keys", "all", "both_signs"]


def biases(kind: str, value: float, query_len: int, key_len: int) -> torch.Tensor:
    bias = torch.zeros(2, 1, query_len, key_len)
    if kind == "rows":
        bias[:, :, :2] = value
        bias[:, :, :1, ::2] *= 0.9
    elif kind == "some_keys":
        bias[..., key_len // 2 :] = value
    elif kind == "all":
        bias[:] = value
    else:
        bias[..., ::3] = value
        bias[..., 1::3] = -value
    return bias.requires_grad_()


def results(call, backend: str, shape, kind: str, value: float, mask=None) -> list[torch.Tensor]:
    """Output, log-sum-exp and the gradients of query, key, value and bias, on the CPU."""
    query_len, key_len, dim = shape
    lengths = (query_len, key_len, key_len)
    tensors = [
        normal(2, 2, n, dim, seed=i, backend=backend).requires_grad_()
        for i, n in enumerate(lengths)
    ]
    bias = biases(kind, value, query_len, key_len).detach().to(tensors[0].device).requires_grad_()
    if mask is not None:
        mask = mask(query_len, key_len).to(tensors[0].device)
    output, lse = call(*tensors, mask, bias=bias, return_lse=True)
    loss = output.sin().sum() + (lse * 1e-3).cos().sum()
    grads = torch.autograd.grad(loss, (*tensors, bias))
    return [t.detach().cpu() for t in (output, lse, *grads)]


def check(call, backend: str, *case, mask=None) -> None:
    wanted = results(on("reference"), backend, *case, mask=mask)
    for found, right in zip(results(call, backend, *case, mask=mask), wanted, strict=True):
        size = max(right[right.isfinite()].abs().max().item(), 1.0)
        # Where a score is near 1e4 its last digit is 1e-3.
        torch.testing.assert_close(found, right, rtol=0, atol=5e-4 * size)


def on(backend: str, op=masked_attention):
    return lambda *args, **options: op(*args, **options, backend=backend)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", VALUES)
def test_as_the_formula(value, kind, shape, backend):
    check(on(backend), backend, shape, kind, value)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("value", [-LARGEST, 3e38])
def test_with_a_mask_and_over_many_tiles(value, backend):
    for shape in ((70, 300, 16), (3, 2000, 16)):
        check(on(backend), backend, shape, "rows", value, mask=AttentionMask.causal)


@pytest.mark.interpreted
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("value", [-LARGEST, -1e7, 3e38])
def test_triton_interpreted(value, shape):
    for kind in ("rows", "both_signs"):
        check(on("triton"), "cpu", shape, kind, value)


@pytest.mark.usefixtures("nothing_reported")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-LARGEST, -2.5e38, -1e7, 3e38])
def test_cuda_emulated(value, kind, shape):
    check(emulated.masked_attention, "cpu", shape, kind, value)


@pytest.mark.parametrize("value", [-LARGEST, -2e38, 3e38])
def test_as_torch(value):
    query, key, value_ = (normal(1, 2, 4, 8, seed=i) for i in range(3))
    bias = torch.zeros(1, 1, 4, 4)
    bias[:, :, 0] = value
    wanted = F.scaled_dot_product_attention(query, key, value_, attn_mask=bias)
    for backend in ("cpu", "reference"):
        torch.testing.assert_close(
            masked_attention(query, key, value_, bias=bias, backend=backend), wanted
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("end", ["min", "max"])
def test_the_ends_of_every_dtype(end, dtype):
    query, key, value = (normal(1, 2, 20, 8, seed=i) for i in range(3))
    bias = torch.zeros(20, 20, dtype=dtype)
    bias[0] = getattr(torch.finfo(dtype), end)
    bias[1, :5] = getattr(torch.finfo(dtype), end)
    for inputs in (torch.float32, dtype):
        tensors = [t.to(inputs) for t in (query, key, value)]
        narrowed = bias.to(inputs)
        if dtype == torch.float64 and inputs == torch.float32:
            narrowed = bias.clamp(-LARGEST, LARGEST).float()
        wanted = F.scaled_dot_product_attention(*tensors, attn_mask=narrowed)
        output = masked_attention(*tensors, bias=bias)
        torch.testing.assert_close(output, wanted, rtol=1e-2, atol=1e-2)
        assert (output[:, :, 0] != 0).any()


@pytest.mark.parametrize("value", [-LARGEST, 3e38])
def test_a_bucketed_bias(value):
    query, key, value_ = (normal(1, 2, 30, 8, seed=i).requires_grad_() for i in range(3))
    table = torch.zeros(8, 2)
    table[:, 0] = value
    table[3, 1] = value
    table.requires_grad_()
    found = []
    for backend in ("cpu", "reference"):
        bias = BucketedBias.t5(table, 30, max_distance=20)
        output = masked_attention(query, key, value_, bias=bias, backend=backend)
        grads = torch.autograd.grad(output.sin().sum(), (query, key, value_, table))
        found.append((output, *grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [-LARGEST, -1e9])
def test_with_relative_terms(value):
    query, key, value_ = (normal(1, 2, 30, 8, seed=i).requires_grad_() for i in range(3))
    rows = normal(1, 2, 59, 8, seed=4).requires_grad_()
    bias = torch.zeros(30, 30)
    bias[:3] = value
    bias[5:, 20:] = value
    found = []
    for backend in ("cpu", "reference"):
        output = relative_attention(query, key, value_, rows, bias=bias, backend=backend)
        grads = torch.autograd.grad(output.sin().sum(), (query, key, value_, rows))
        found.append((output, *grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [-LARGEST, -1e9])
def test_weights(value):
    query, key, value_ = (normal(1, 2, 6, 8, seed=i) for i in range(3))
    bias = torch.zeros(6, 6)
    bias[:2] = value
    _, lse = masked_attention(query, key, value_, bias=bias, return_lse=True)
    wanted = (query @ key.mT / 8**0.5 + bias).softmax(-1)
    torch.testing.assert_close(attention_weights(query, key, lse, bias=bias), wanted)
    torch.testing.assert_close(attention_weights(query, key, bias=bias), wanted)


@pytest.mark.parametrize("value", [-LARGEST, -1e9, 1e30])
@pytest.mark.parametrize("name", ["attn_mask", "key_padding_mask"])
def test_multihead_attention(name, value):
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    ours = ptm.nn.MultiheadAttention(16, 2, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    x = normal(3, 7, 16)
    mask = torch.zeros(7, 7) if name == "attn_mask" else torch.zeros(3, 7)
    mask[0] = value
    mask[2, 3:] = value
    found = [module(x, x, x, **{name: mask}) for module in (theirs, ours)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
