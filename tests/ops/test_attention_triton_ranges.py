"""The ranges of tiles: computed once for a mask, and never used where they may not hold any more."""

import gc
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ptmkernels import AttentionMask
from ptmkernels.ops import masked_attention
from ptmkernels.ops.attention.options import AttentionOptions
from tests.ops.test_attention_triton import DEVICE, pytestmark  # noqa: F401

LENGTH = 37


@contextmanager
def computations():
    """A list that receives an entry whenever ranges are computed."""
    from ptmkernels.ops.attention import triton_ranges

    found, compute = [], triton_ranges._computed

    def counted(*arguments):
        found.append(arguments[3:])
        return compute(*arguments)

    with patch.object(triton_ranges, "_computed", counted):
        yield found


def inputs(requires_grad: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = [torch.randn(2, 2, LENGTH, 16, generator=generator).to(DEVICE) for _ in range(3)]
    return [t.requires_grad_(requires_grad) for t in made]


def check(mask: AttentionMask) -> None:
    """The kernels agree with the formula about `mask`."""
    actual, expected = (
        masked_attention(*inputs(), mask, backend=backend) for backend in ("triton", "reference")
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def layers(mask: AttentionMask, count: int) -> torch.Tensor:
    hidden = query, key, value = inputs(requires_grad=True)
    for _ in range(count):
        query = masked_attention(query, key, value, mask, backend="triton")
    return torch.cat(torch.autograd.grad(query.sin().sum(), hidden))


def test_every_layer_uses_the_same_ranges():
    """Forward, dq and dk, dv have their own shapes of tiles; no layer adds a computation."""
    mask = AttentionMask.causal(LENGTH, device=DEVICE)
    with computations() as found:
        layers(mask, 3)
    assert 0 < len(found) == len(set(found)) <= 3


def test_backward_after_the_mask_is_gone():
    """The graph of autograd keeps the tensors of the mask."""
    mask = AttentionMask.causal(LENGTH, device=DEVICE)
    query, key, value = inputs(requires_grad=True)
    output = masked_attention(query, key, value, mask, backend="triton")
    expected = masked_attention(query, key, value, mask, backend="reference")
    del mask
    gc.collect()
    first, second = (torch.autograd.grad(o.sin().sum(), query)[0] for o in (output, expected))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["key_rank", "query_low", "query_high"])
def test_a_change_in_place_is_seen(name):
    mask = AttentionMask.window(LENGTH, LENGTH, 20, 3, device=DEVICE)
    check(mask)
    getattr(mask, name).sub_(9)
    check(mask)
    getattr(mask, name).copy_(getattr(mask, name).flip(1))
    check(mask)


def test_masks_that_share_tensors_have_their_own_ranges():
    causal = AttentionMask.causal(LENGTH, device=DEVICE)
    ends = (causal.query_low + 9, causal.query_high - 9)
    check(causal)
    check(AttentionMask(causal.key_rank, ends[0], causal.query_high))
    check(AttentionMask(causal.key_rank, causal.query_low, ends[1]))
    check(causal)


def test_dense_parts_beside_the_same_tensors_have_their_own_ranges():
    causal = AttentionMask.causal(LENGTH, device=DEVICE)
    check(causal)
    allowed = torch.rand(LENGTH, LENGTH, device=DEVICE) < 0.7
    check(causal & AttentionMask.dense(allowed))
    vectors = (causal.key_rank, causal.query_low, causal.query_high)
    check(AttentionMask(*vectors, allowed=allowed))


def test_inference_tensors_are_not_remembered():
    """They count no versions, so that a change in place would not be seen."""
    with torch.inference_mode():
        mask = AttentionMask.window(LENGTH, LENGTH, 20, 3, device=DEVICE)
        check(mask)
        mask.query_high.sub_(9)
        check(mask)
    own = AttentionMask.window(LENGTH, LENGTH, 20, 3, device=DEVICE)
    with torch.inference_mode(), computations() as found:
        check(own)
        check(own)
    assert len(found) == 1


def test_ranges_are_freed_with_the_mask():
    from ptmkernels.ops.attention import triton_ranges

    gc.collect()
    before = len(triton_ranges._known)
    masks = [AttentionMask.causal(LENGTH, device=DEVICE) for _ in range(3)]
    for mask in masks:
        check(mask)
    assert len(triton_ranges._known) == before + 3
    del mask, masks
    gc.collect()
    assert len(triton_ranges._known) == before


def test_a_captured_graph_computes_its_own():
    """A replay has to look at the mask as it is then, and a graph's memory is not for others."""
    from ptmkernels.ops.attention import triton_ranges

    mask = AttentionMask.causal(LENGTH, device=DEVICE)
    with computations() as found:
        for captured, expected in ((True, 1), (True, 2), (False, 3), (True, 4), (False, 4)):
            with patch.object(triton_ranges, "capturing", lambda _, now=captured: now):
                check(mask)
            assert len(found) == expected


def test_every_stream_computes_its_own():
    from ptmkernels.ops.attention import triton_ranges

    mask = AttentionMask.causal(LENGTH, device=DEVICE)
    with computations() as found:
        for stream, expected in ((1, 1), (2, 2), (1, 2)):
            with patch.object(triton_ranges, "current_stream", lambda now=stream: now):
                check(mask)
            assert len(found) == expected


def test_compiled_code_remembers_nothing():
    """It writes into its own buffers without counting versions."""
    from ptmkernels.ops.attention import triton_ranges

    def call(query, key, value, shift):
        mask = AttentionMask.causal(LENGTH, device=DEVICE)
        mask = AttentionMask(mask.key_rank, mask.query_low, mask.query_high - shift)
        return masked_attention(query, key, value, mask, backend="triton")

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    before = len(triton_ranges._known)
    for shift in (torch.tensor(0, device=DEVICE), torch.tensor(9, device=DEVICE)):
        actual = compiled(*inputs(), shift)
        assert len(triton_ranges._known) == before
        torch.testing.assert_close(actual, call(*inputs(), shift))


def test_fake_tensors_are_not_remembered():
    from ptmkernels.ops.attention import triton_ranges

    before = len(triton_ranges._known)
    with FakeTensorMode():
        mask = AttentionMask.causal(LENGTH)
        query = torch.empty(1, 2, LENGTH, 16)
        triton_ranges.remember(AttentionOptions.of(query, mask, None, None, 0.0, None))
    assert len(triton_ranges._known) == before
