"""Dropout by Philox: known answers, the same bits in every backend, seeds, checkpointing."""

from functools import partial

import pytest
import torch
from scipy import stats
from torch.utils.checkpoint import checkpoint

from ptmkernels import AttentionMask
from ptmkernels.ops import attention_weights, masked_attention
from ptmkernels.ops.philox import dropout_keep, philox4x32
from tests.backends import KERNELS, device_of, normal

BACKENDS = [*KERNELS, "reference"]
ONES = 0xFFFFFFFF


# Random123's known answers for philox4x32-10 (Salmon et al. 2011): counter, key, result.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    seed = torch.tensor(
        [key[0] | key[1] << 32 if key[1] < 2**31 else (key[0] | key[1] << 32) - 2**64]
    )
    words = philox4x32(tuple(torch.tensor([c]) for c in counter), seed)
    assert words.tolist() == [list(expected)]


def test_counters_are_the_place_of_a_weight():
    """Weight (b, h, i, j): word j mod 4 of counter (j // 4, i, h, b)."""
    seed = torch.tensor([77])
    keep = dropout_keep(seed, 0.4, 2, 3, 4, 10)
    assert keep.shape == (2, 3, 4, 10)
    for b, h, i, j in ((0, 0, 0, 0), (1, 2, 3, 9), (0, 1, 2, 4), (1, 0, 3, 7)):
        words = philox4x32(tuple(torch.tensor([c]) for c in (j // 4, i, h, b)), seed)
        assert bool(keep[b, h, i, j]) == (int(words[0, j % 4]) >= int(0.4 * 2**32))


def kept(backend, p, seed, sizes=(2, 3, 9, 37), mask=None, dtype=torch.float32):
    """(B, H, L, S) the weights after dropout, read through values that are the unit vectors; on the CPU."""
    batch, heads, query_len, key_len = sizes
    device = device_of(backend)
    query = torch.zeros(batch, heads, query_len, key_len, dtype=dtype, device=device)
    key = torch.zeros(batch, heads, key_len, key_len, dtype=dtype, device=device)
    value = torch.eye(key_len, dtype=dtype, device=device).expand(batch, heads, -1, -1)
    seed = torch.tensor([seed], device=device)
    output = masked_attention(query, key, value, mask, dropout_p=p, seed=seed, backend=backend)
    return output.cpu()


def bits(p, seed, *sizes):
    return dropout_keep(torch.tensor([seed]), p, *sizes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF])
def test_bits_are_those_of_philox(p, seed, backend):
    weights, keep = kept(backend, p, seed), bits(p, seed, 2, 3, 9, 37)
    assert torch.equal(weights != 0, keep)
    expected = torch.full_like(weights[keep], 1 / 37 / (1 - p))
    torch.testing.assert_close(weights[keep], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("key_len", [1, 3, 5, 130, 255])
def test_bits_for_every_length_and_dtype(key_len, dtype, backend):
    sizes = (1, 2, 70, key_len)
    weights = kept(backend, 0.3, 5, sizes, dtype=dtype)
    assert torch.equal(weights != 0, bits(0.3, 5, *sizes))


@pytest.mark.parametrize("backend", KERNELS)
def test_bits_do_not_depend_on_the_mask(backend):
    """A skipped tile takes no random numbers from others."""
    sizes = (1, 1, 150, 150)
    mask = AttentionMask.window(150, 150, 20, 5, device=device_of(backend))
    weights = kept(backend, 0.3, 6, sizes, mask)
    assert torch.equal(weights != 0, bits(0.3, 6, *sizes) & mask.to_dense().cpu())


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics(backend):
    p, sizes = 0.3, (2, 3, 50, 64)
    weights = kept(backend, p, 11, sizes)
    keep = weights != 0
    assert stats.binomtest(int(keep.sum()), keep.numel(), 1 - p).pvalue > 1e-3
    # No two batch rows, heads, queries, keys or seeds share their bits.
    others = [keep[1, 0], keep[0, 1], keep[0, 0].roll(1, 0), keep[0, 0].roll(1, 1)]
    others += [(kept(backend, p, seed, sizes) != 0)[0, 0] for seed in (12, 11 + 2**32)]
    for other in others:
        agree = int((keep[0, 0] == other).sum())
        assert stats.binomtest(agree, 50 * 64, p * p + (1 - p) ** 2).pvalue > 1e-4
    torch.testing.assert_close(weights.sum(-1).mean(), torch.ones(()), rtol=0.02, atol=0)


def qkv(backend="cpu", requires_grad=False):
    return [
        normal(2, 2, 11, 16, backend=backend, seed=i).requires_grad_(requires_grad)
        for i in range(3)
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_manual_seed(backend):
    def run():
        return masked_attention(*qkv(backend), dropout_p=0.5, backend=backend)

    torch.manual_seed(3)
    first, second = run(), run()
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(run(), first)
    assert torch.equal(run(), second)
    torch.manual_seed(4)
    assert not torch.equal(run(), first)


def test_without_dropout_the_generator_is_left_alone():
    state = torch.get_rng_state()
    masked_attention(*qkv(), backend="reference")
    masked_attention(*qkv(), dropout_p=0.5, seed=torch.tensor([1]), backend="reference")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backend", KERNELS)
def test_backends_draw_the_same_seed(backend):
    outputs = []
    for chosen in (backend, "reference"):
        torch.manual_seed(8)
        outputs.append(masked_attention(*qkv(backend), dropout_p=0.4, backend=chosen))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant, backend):
    """The second forward call draws the bits of the first."""

    def block(query, key, value):
        hidden = masked_attention(query, key, value, dropout_p=0.5, backend=backend)
        return masked_attention(hidden, key, value, dropout_p=0.5, backend=backend).sin()

    found = []
    for call in (block, partial(checkpoint, block, use_reentrant=use_reentrant)):
        leaves = qkv(backend, requires_grad=True)
        torch.manual_seed(9)
        output = call(*leaves)
        output.sum().backward()
        found.append([output.detach(), *(t.grad for t in leaves)])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_drops_what_forward_dropped(backend):
    """The gradient of the values is the transposed weights after dropout."""
    query, key, value = qkv(backend, requires_grad=True)
    upstream = torch.eye(11, 16, device=query.device).expand(2, 2, -1, -1)
    seed = torch.tensor([21], device=query.device)
    output = masked_attention(query, key, value, dropout_p=0.5, seed=seed, backend=backend)
    (grad,) = torch.autograd.grad(output, value, upstream)
    assert torch.equal(grad[..., :11].mT.cpu() != 0, bits(0.5, 21, 2, 2, 11, 11))


@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_dropped(backend):
    tensors = [normal(1, 2, 5, 8, backend=backend, seed=i).requires_grad_() for i in range(3)]
    output, lse = masked_attention(*tensors, dropout_p=1.0, backend=backend, return_lse=True)
    assert not output.any()
    torch.testing.assert_close(lse, masked_attention(*tensors, return_lse=True)[1])
    assert not any(grad.any() for grad in torch.autograd.grad(output.sum(), tensors))
    seed = torch.tensor([3], device=output.device)
    assert not attention_weights(*tensors[:2], lse, dropout_p=1.0, seed=seed).any()
