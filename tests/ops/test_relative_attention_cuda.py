"""The relative terms of the CUDA kernels, executed on the CPU by the emulation of tests/simt.

Every test also fails on what the emulation reports. On a GPU the backend "cuda" runs in
tests/ops/test_relative_attention.py as well.
"""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import relative_attention, two_stream_attention
from tests.backends import normal
from tests.ops.attention_cases import DTYPES
from tests.ops.relative_cases import TERMS, RelativeCase, build, call
from tests.ops.test_relative_attention import check
from tests.simt.attention import in_place_of_cpu

SMALL = {"query_len": 21, "key_len": 38, "batch": 1}


@pytest.fixture(autouse=True)
def emulated(nothing_reported):
    with in_place_of_cpu():
        yield


@pytest.mark.parametrize(
    "case",
    [
        # Two tiles of queries, several of keys; a gradient of r for each row, head and sequence.
        RelativeCase(
            "xl", "", TERMS, "", "recurrence", "none", 0.0, 2, torch.bfloat16, 41, 70, 131
        ),
        # The distances of nearly every tile lie beyond the rows, which the heads share.
        RelativeCase("clip", "bh", TERMS, "", "keys", "table", 0.3, 4, torch.bfloat16, 26, 70, 131),
        # Bands of several pieces, in any order.
        RelativeCase("xlnet", "b", TERMS, "any", "none", "full", 0.3, 1, torch.float16, 64, 70, 40),
        RelativeCase("xlnet", "b", TERMS[:3], "sorted", "query", query_len=70, key_len=70),
        RelativeCase("xlnet", "b", TERMS, "", "dense_heads", "keys", strided=True),
        RelativeCase("clip", "b", TERMS[3:], "", "nothing", head_dim=1, query_len=5, key_len=9),
        RelativeCase(
            "clip", "", (), "any", "tree", "none", 0.3, 2, head_dim=75, query_len=19, key_len=33
        ),
    ],
    ids=str,
)
def test_against_float64(case):
    check(case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 100, 200])
def test_every_padded_head_dimension(head_dim, dtype):
    sizes = SMALL | {"head_dim": head_dim, "dtype": dtype, "key_heads": 2}
    check(RelativeCase("xlnet", "b", TERMS, "sorted", "keys", "table", 0.2, **sizes))


def test_one_query_splits_over_the_keys():
    sizes = {"query_len": 1, "key_len": 500, "batch": 1, "head_dim": 64, "dtype": torch.bfloat16}
    check(RelativeCase("xl", "b", TERMS, dropout_p=0.2, key_heads=2, **sizes))


@pytest.mark.parametrize(("batch", "query_len", "key_len"), [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_empty(batch, query_len, key_len):
    sizes = {"batch": batch, "query_len": query_len, "key_len": key_len}
    leaves, rest = build(RelativeCase("clip", terms=TERMS, **sizes))
    for name, found in call(leaves, rest, "cpu").items():
        assert torch.equal(found, torch.full_like(found, -torch.inf if name == "lse" else 0)), name


def test_positions_far_outside():
    """A band is no longer than the rows and two tiles, wherever the queries stand."""
    query, key, value = (normal(1, 2, 20, 16, seed=i) for i in range(3))
    rows = normal(1, 2, 9, 16, seed=3)
    position = torch.tensor([[-(2**31), 2**31 - 1, *range(18)]])
    given = {"relative_offset": 4, "query_position": position}
    found = relative_attention(query, key, value, rows, **given, backend="cpu")
    wanted = relative_attention(query, key, value, rows, **given, backend="reference")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_two_streams():
    length, where = 40, torch.tensor([[1, 7, 8, 30]])
    content, key, value = (normal(1, 2, length, 26, seed=i) for i in range(3))
    stream, rows = normal(1, 2, 4, 26, seed=3), normal(1, 2, 2 * length, 26, seed=4)
    order = torch.randperm(length, generator=torch.Generator().manual_seed(5))[None]
    targets = torch.zeros(1, length, dtype=torch.bool).index_fill(1, where[0], True)
    masks = (
        AttentionMask.permutation(order, targets),
        AttentionMask.permutation(order, targets, "query", query_index=where),
    )
    biases = normal(2, 2, 26, seed=6)
    leaves = [t.requires_grad_() for t in (content, stream, key, value, rows)]
    results = []
    for backend in ("cpu", "reference"):
        both = two_stream_attention(*leaves, *biases, *masks, target_mapping=where, backend=backend)
        results.append([*both, *torch.autograd.grad(sum(t.sin().sum() for t in both), leaves)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)


def test_the_same_bits_again():
    leaves, rest = build(RelativeCase(terms=TERMS, dropout_p=0.1, dtype=torch.bfloat16, **SMALL))
    first, second = call(leaves, rest, "cpu"), call(leaves, rest, "cpu")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_float32_in_tf32():
    leaves, rest = build(RelativeCase(terms=TERMS, **SMALL))
    exact = call(leaves, rest, "cpu")
    with in_place_of_cpu(tf32=True):
        narrow = call(leaves, rest, "cpu")
    for name, one in exact.items():
        difference = (one - narrow[name]).abs().max()
        assert 0 < difference < 5e-3 * max(1.0, one.abs().max()), name
