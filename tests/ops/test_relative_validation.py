"""Bad relative arguments: the error names the argument, what came and what was expected."""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import attention_weights, relative_attention, two_stream_attention

Q = torch.randn(2, 4, 5, 8)
K = torch.randn(2, 2, 7, 8)
R = torch.randn(1, 4, 12, 8)
SEGMENT = {
    "segment_key": torch.randn(2, 4, 8),
    "query_segment": torch.zeros(1, 5, dtype=torch.long),
    "key_segment": torch.zeros(2, 7, dtype=torch.long),
}


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"query": [1.0]}, TypeError, "query is a list; expected a tensor"),
        ({"relative_key": None}, TypeError, "relative_key is None; expected a tensor"),
        ({"relative_key": [1.0]}, TypeError, "relative_key is a list; expected a tensor"),
        ({"relative_key": R.double()}, TypeError, r"relative_key has dtype torch\.float64"),
        ({"relative_key": R[0]}, ValueError, r"relative_key has shape \(4, 12, 8\)"),
        ({"relative_key": R[:, :3]}, ValueError, r"expected \(1 or 2, 1 or 4, R, 8\)"),
        ({"relative_key": R[:, :, :0]}, ValueError, "relative_key has shape"),
        ({"relative_key": R[:, :, :8]}, ValueError, "relative_key has 8 rows; expected S = 7"),
        (
            {"relative_key": R.to("meta")},
            ValueError,
            "relative_key is on meta; expected the device",
        ),
        ({"relative_value": R[:, :, 1:]}, ValueError, "relative_value has 11 rows; expected those"),
        ({"relative_offset": 1.5}, TypeError, "relative_offset is a float; expected an integer"),
        ({"content_bias": R[0, :3, 0]}, ValueError, r"content_bias has shape \(3, 8\)"),
        ({"position_bias": R[0, :, 0, 1:]}, ValueError, r"position_bias .* expected \(4, 8\)"),
        ({"segment_bias": R[0, :, 0]}, ValueError, "segment_key is None; segment_bias alone"),
        ({"segment_key": SEGMENT["segment_key"]}, ValueError, "query_segment is None"),
        (SEGMENT | {"query_segment": Q[:, 0, :, 0]}, TypeError, "query_segment has dtype"),
        (SEGMENT | {"key_segment": torch.zeros(7).int()}, ValueError, "key_segment has shape"),
        (
            {"query_position": torch.arange(5)[None]},
            ValueError,
            "relative_offset is None; it must be given together with query_position",
        ),
        (
            {"query_position": torch.arange(4)[None], "relative_offset": 5},
            ValueError,
            r"query_position has shape \(1, 4\); expected \(1, 5\) or \(2, 5\)",
        ),
        (
            {"query_position": torch.full((1, 5), 2**40), "relative_offset": 5},
            ValueError,
            "query_position holds 1099511627776, which does not fit into int32",
        ),
        ({"content_bias": R[0, :, 0].to_sparse()}, TypeError, "content_bias has layout"),
        ({"mask": AttentionMask.full(5, 6)}, ValueError, "mask has 5 queries and 6 keys"),
    ],
)
def test_errors_name_the_argument(arguments, error, match):
    given = {"query": Q, "relative_key": R} | arguments
    with pytest.raises(error, match=match):
        relative_attention(given.pop("query"), K, K, given.pop("relative_key"), **given)


def test_weights_without_what_a_term_belongs_to():
    with pytest.raises(ValueError, match="relative_key is None; position_bias alone"):
        attention_weights(Q, K, position_bias=R[0, :, 0])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"content_query": [1.0]}, TypeError, "content_query is a list; expected a tensor"),
        ({"content_query": Q.double()}, TypeError, "expected that of content_query"),
        ({"stream_query": None}, TypeError, "stream_query is a NoneType; expected a tensor"),
        ({"stream_query": Q[:, :, :2].double()}, TypeError, "stream_query has dtype"),
        ({"key": K[0]}, ValueError, r"key has shape \(2, 7, 8\); expected 4 dimensions"),
        ({"relative_key": None}, TypeError, "relative_key is a NoneType; expected a tensor"),
        ({"relative_key": R[0]}, ValueError, r"relative_key has shape \(4, 12, 8\)"),
        ({"target_mapping": [0, 3]}, TypeError, "target_mapping is a list; expected a tensor"),
        ({"query_segment": torch.zeros(5).long()}, ValueError, r"query_segment has shape \(5,\)"),
        ({"query_segment": torch.zeros(1, 9).long()}, ValueError, r"query_segment has .* \(1, 9\)"),
        ({"mask": torch.ones(5, 7)}, TypeError, "mask is a Tensor; expected an AttentionMask"),
        ({"stream_query": Q[:, :3, :2]}, ValueError, r"stream_query has shape \(2, 3, 2, 8\)"),
        ({"target_mapping": None}, ValueError, "target_mapping is None with 2 predicted rows"),
        ({"target_mapping": torch.zeros(2, 3).long()}, ValueError, "target_mapping has shape"),
        ({"target_mapping": torch.zeros(1, 2)}, TypeError, "target_mapping has dtype"),
        ({"target_mapping": torch.tensor([[0, 5]])}, ValueError, r"holds 0\.\.5; expected -1\.\.4"),
        ({"stream_mask": AttentionMask.full(3, 7)}, ValueError, "stream_mask has 3 queries"),
        ({"mask": AttentionMask.full(5, 6)}, ValueError, "mask has 5 queries and 6 keys"),
    ],
)
def test_errors_of_the_streams(arguments, error, match):
    given = {
        "content_query": Q,
        "stream_query": Q[:, :, :2],
        "key": K,
        "value": K,
        "relative_key": R,
        "target_mapping": torch.tensor([[0, 3]]),
    }
    with pytest.raises(error, match=match):
        two_stream_attention(**given | arguments)
