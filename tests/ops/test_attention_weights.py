"""`attention_weights` against the softmax that it stands for, and against what the kernels used."""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import attention_weights, masked_attention
from tests.backends import KERNELS
from tests.ops.attention_cases import BIASES, MASKS, Case, build

BACKENDS = [*KERNELS, "reference"]


def eager(inputs):
    """Softmax with torch's own, from dense tensors."""
    query, key = inputs.query, inputs.key.repeat_interleave(4 // inputs.key.shape[1], 1)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    bias = inputs.options["bias"]
    if isinstance(bias, torch.Tensor):
        scores = scores + bias
    elif bias is not None:
        n, m = scores.shape[-2:]
        distance = torch.arange(m) - torch.arange(n)[:, None]
        scores = scores + bias.table[bias.buckets.long()[distance + n - 1]].permute(2, 0, 1)
    if inputs.mask is not None:
        dense = inputs.mask.to_dense()
        dense = dense if dense.dim() == 4 else dense[:, None]
        scores = scores.masked_fill(~dense, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0)


@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_against_softmax(mask, with_lse):
    for index, bias in enumerate(BIASES):
        inputs = build(Case(mask, bias, key_heads=(4, 2, 1)[index % 3], query_len=9, key_len=13))
        lse = None
        if with_lse:
            _, lse = masked_attention(
                inputs.query,
                inputs.key,
                inputs.value,
                inputs.mask,
                bias=inputs.options["bias"],
                backend=("reference", None)[index % 2],
                return_lse=True,
            )
        weights = attention_weights(
            inputs.query, inputs.key, lse, inputs.mask, bias=inputs.options["bias"]
        )
        expected = eager(inputs)
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
        sees = (expected > 0).any(-1)
        torch.testing.assert_close(weights.sum(-1), sees.float(), rtol=1e-5, atol=1e-5)
        leaves = [t for n, t in inputs.leaves.items() if n != "value" and bias != "hiding"]
        upstream = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
        if not leaves or not weights.requires_grad or mask == "nothing":
            continue
        grads = torch.autograd.grad(weights, leaves, upstream, materialize_grads=True)
        wanted = torch.autograd.grad(expected, leaves, upstream, materialize_grads=True)
        if all(w.isfinite().all() for w in wanted):  # torch's softmax of hidden rows has NaN
            for one, two in zip(grads, wanted, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_they_are_the_weights_that_the_kernel_used(dropout_p, backend):
    for mask in ("none", "keys", "tree", "nothing"):
        inputs = build(Case(mask, "table", dropout_p, 2, query_len=19, key_len=33), backend)
        output, lse = masked_attention(
            inputs.query,
            inputs.key,
            inputs.value,
            inputs.mask,
            **inputs.options,
            backend=backend,
            return_lse=True,
        )
        weights = attention_weights(inputs.query, inputs.key, lse, inputs.mask, **inputs.options)
        value = inputs.value.repeat_interleave(2, 1)
        torch.testing.assert_close(weights @ value, output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    query, key = (torch.randn(1, 2, 5, 8).to(dtype) for _ in range(2))
    _, lse = masked_attention(query, key, key, return_lse=True, backend="reference")
    weights = attention_weights(query, key, lse)
    assert weights.dtype == dtype
    exact = attention_weights(query.double(), key.double())
    torch.testing.assert_close(weights.double(), exact, rtol=1e-2, atol=1e-3)


def test_under_autocast():
    query, key = (torch.randn(1, 2, 5, 8) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        _, lse = masked_attention(query, key, key, return_lse=True, backend="reference")
        weights = attention_weights(query, key, lse)
    assert weights.dtype == torch.bfloat16
    exact = attention_weights(query.bfloat16().double(), key.bfloat16().double())
    torch.testing.assert_close(weights.double(), exact, rtol=1e-2, atol=1e-3)


def test_bad_arguments_are_named():
    query, key = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 7, 8)
    with pytest.raises(ValueError, match="seed is None"):
        attention_weights(query, key, dropout_p=0.1)
    with pytest.raises(ValueError, match="lse has shape"):
        attention_weights(query, key, torch.zeros(1, 2, 7))
    with pytest.raises(TypeError, match=r"lse is torch\.float64"):
        attention_weights(query, key, torch.zeros(1, 2, 5).double())
    with pytest.raises(TypeError, match="lse is AttentionMask"):
        attention_weights(query, key, AttentionMask.full(5, 7))
    with pytest.raises(ValueError, match="lse is on meta"):
        attention_weights(query, key, torch.zeros(1, 2, 5, device="meta"))
