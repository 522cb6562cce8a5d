"""Bad input: the error names the argument, what came and what was expected. T5's buckets."""

import math

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention, t5_buckets

Q = torch.randn(2, 4, 5, 8)
K = torch.randn(2, 2, 7, 8)
BUCKETS = torch.zeros(11, dtype=torch.int32)


def call(query=Q, key=K, value=None, mask=None, **options):
    return masked_attention(query, key, key if value is None else value, mask, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"query": [1.0]}, TypeError, "query is a list; expected a tensor"),
        ({"query": Q.numpy()}, TypeError, "query is a ndarray; expected a tensor"),
        (
            {"query": torch.nested.as_nested_tensor(Q)},
            TypeError,
            "query is a nested tensor; expected a dense tensor",
        ),
        ({"query": Q[0]}, ValueError, r"query has shape \(4, 5, 8\); expected 4 dimensions"),
        ({"key": K[:, :, 0]}, ValueError, "key has shape"),
        ({"query": Q.int()}, TypeError, r"query has dtype torch\.int32; expected one of"),
        ({"query": Q.to(torch.complex64)}, TypeError, "query has dtype"),
        ({"key": K.double()}, TypeError, r"key has dtype torch\.float64; expected that of query"),
        ({"value": K.half()}, TypeError, r"value has dtype torch\.float16"),
        ({"key": K.to("meta")}, ValueError, "key is on meta; expected the device of query, cpu"),
        ({"query": Q.to_sparse()}, TypeError, r"query has layout torch\.sparse_coo"),
        (
            {"query": Q[..., :0], "key": K[..., :0]},
            ValueError,
            "head dimension 0; expected at least 1",
        ),
        ({"key": K[:1]}, ValueError, r"key has shape \(1, 2, 7, 8\); expected \(2, heads, S, 8\)"),
        ({"key": K[..., :7]}, ValueError, "key has shape"),
        ({"value": K[:, :, :6]}, ValueError, r"value has shape .*; expected that of key"),
        (
            {"key": torch.randn(2, 3, 7, 8)},
            ValueError,
            "key has 3 heads; expected a divisor of the 4",
        ),
        ({"key": K[:, :0]}, ValueError, "key has 0 heads"),
        (
            {"mask": torch.ones(5, 7).bool()},
            TypeError,
            "mask is a Tensor; expected an AttentionMask",
        ),
        (
            {"mask": AttentionMask.full(5, 6)},
            ValueError,
            "mask has 5 queries and 6 keys; expected 5 and 7",
        ),
        (
            {"mask": AttentionMask.keys(torch.ones(3, 7).int(), 5)},
            ValueError,
            "mask has batch size 3; expected 1 or 2",
        ),
        (
            {"mask": AttentionMask.dense(torch.ones(1, 3, 5, 7).bool())},
            ValueError,
            r"mask\.allowed has 3 heads; expected 1 or 4",
        ),
        ({"mask": AttentionMask.full(5, 7, device="meta")}, ValueError, "mask is on meta"),
        ({"bias": 1.0}, TypeError, "bias is a float"),
        ({"bias": torch.ones(5, 7).bool()}, TypeError, r"bias has dtype torch\.bool"),
        (
            {"bias": torch.ones(7, 5)},
            ValueError,
            r"bias has shape \(7, 5\); expected one that broad",
        ),
        ({"bias": torch.ones(1, 1, 1, 5, 7)}, ValueError, "bias has shape"),
        ({"bias": torch.ones(3, 1, 5, 7)}, ValueError, "bias has shape"),
        ({"bias": torch.ones(5, 7, device="meta")}, ValueError, "bias is on meta"),
        (
            {"bias": BucketedBias(torch.ones(3, 2), BUCKETS)},
            ValueError,
            r"bias\.table has shape \(3, 2\); expected \(N, 4\)",
        ),
        (
            {"bias": BucketedBias(torch.ones(3, 4), BUCKETS[:9])},
            ValueError,
            r"bias\.buckets has shape \(9,\); expected .* = \(11,\)",
        ),
        (
            {"bias": BucketedBias(torch.ones(3, 4, device="meta"), BUCKETS)},
            ValueError,
            r"bias\.table is on meta",
        ),
        ({"scale": math.nan}, ValueError, "scale is nan; expected a finite number"),
        ({"scale": math.inf}, ValueError, "scale is inf"),
        ({"scale": "big"}, TypeError, "scale is a str; expected a number"),
        ({"scale": torch.ones(())}, TypeError, "scale is a Tensor"),
        ({"dropout_p": -0.1}, ValueError, "dropout_p is -0.1; expected 0 <= dropout_p <= 1"),
        ({"dropout_p": 1.1}, ValueError, r"dropout_p is 1\.1"),
        ({"dropout_p": math.nan}, ValueError, "dropout_p is nan"),
        ({"dropout_p": None}, TypeError, "dropout_p is a NoneType"),
        ({"dropout_p": True}, TypeError, "dropout_p is a bool"),
        ({"seed": 3}, TypeError, "seed is int; expected an int64 tensor"),
        ({"seed": torch.tensor([3.0])}, TypeError, r"seed is torch\.float32"),
        ({"seed": torch.tensor([3, 4])}, ValueError, r"seed has shape \(2,\); expected \(1,\)"),
        ({"seed": torch.tensor(3)}, ValueError, r"seed has shape \(\)"),
        ({"seed": torch.tensor([3], device="meta")}, ValueError, "seed is on meta"),
        ({"backend": "gpu"}, ValueError, "backend is 'gpu'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        call(**arguments)


def test_the_good_call_works():
    assert call().shape == Q.shape
    output, lse = call(return_lse=True)
    assert lse.shape == (2, 4, 5)
    assert output.is_contiguous()


def test_no_heads():
    empty = torch.zeros(2, 0, 5, 8)
    with pytest.raises(ValueError, match="key has 0 heads"):
        masked_attention(empty, empty, empty)


@pytest.mark.parametrize(
    ("table", "buckets", "error", "match"),
    [
        ([[1.0]], BUCKETS, TypeError, "table is a list"),
        (torch.ones(3, 4).int(), BUCKETS, TypeError, r"table has dtype torch\.int32"),
        (torch.ones(3), BUCKETS, ValueError, r"table has shape \(3,\); expected \(N, H\)"),
        (torch.ones(3, 4), BUCKETS.float(), TypeError, r"buckets has dtype torch\.float32"),
        (torch.ones(3, 4), BUCKETS.bool(), TypeError, r"buckets has dtype torch\.bool"),
        (torch.ones(3, 4), BUCKETS[None], ValueError, "buckets has shape"),
        (torch.ones(3, 4), BUCKETS + 3, ValueError, "buckets holds 3 to 3; expected 0 to 2"),
        (torch.ones(3, 4), BUCKETS - 1, ValueError, "buckets holds -1 to -1"),
        (torch.ones(0, 4), BUCKETS, ValueError, "buckets holds 0 to 0; expected 0 to -1"),
    ],
)
def test_bucketed_bias_names_what_is_wrong(table, buckets, error, match):
    with pytest.raises(error, match=match):
        BucketedBias(table, buckets)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (32, 64), (4, 3)])
def test_t5_buckets_are_those_of_transformers(num_buckets, max_distance, bidirectional):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = torch.arange(-1000, 1000)
    expected = t5.T5Attention._relative_position_bucket(
        distance, bidirectional, num_buckets, max_distance
    )
    actual = t5_buckets(distance, num_buckets, bidirectional, max_distance)
    assert actual.dtype == torch.int32
    assert torch.equal(actual, expected.to(torch.int32))


@pytest.mark.parametrize(
    ("query_len", "key_len"), [(5, 5), (1, 9), (4, 9), (9, 4), (0, 3), (3, 0), (0, 0)]
)
def test_t5_bias_is_at_the_key_positions_of_the_queries(query_len, key_len):
    table = torch.arange(8.0)[:, None]
    bias = BucketedBias.t5(table, query_len, key_len, max_distance=20)
    assert bias.buckets.shape == (max(query_len + key_len - 1, 0),)
    for i in range(query_len):
        for j in range(key_len):
            distance = torch.tensor(j - (i + key_len - query_len))
            bucket = bias.buckets[j - i + query_len - 1]
            assert bucket == t5_buckets(distance, 8, max_distance=20)


def test_t5_buckets_refuse_too_few():
    with pytest.raises(ValueError, match="num_buckets is 3; expected at least 4"):
        t5_buckets(torch.arange(3), 3)
    with pytest.raises(ValueError, match="num_buckets is 1; expected at least 2"):
        t5_buckets(torch.arange(3), 1, bidirectional=False)
    with pytest.raises(ValueError, match="max_distance is 8; expected more than 8"):
        t5_buckets(torch.arange(3), 32, max_distance=8)
