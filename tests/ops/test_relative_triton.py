"""The Triton backend of `relative_attention` and `two_stream_attention`, interpreted or on a GPU.

Few and small cases, since the interpreter takes some 50 ms for each tile; its tiles have 16 or 32 queries
and keys, so that these make several, with bands of two and three chunks.
"""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import relative_attention, two_stream_attention
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions
from ptmkernels.ops.attention.relative import relative_options
from tests.ops.relative_cases import TERMS, RelativeCase, build, call
from tests.ops.test_attention_runs import HARMLESS, Counter
from tests.ops.test_attention_triton import DEVICE, pytestmark  # noqa: F401
from tests.ops.test_relative_attention import check

VECTORS = TERMS[:2]


def case(rows, terms=TERMS[:3], shared="b", **options) -> RelativeCase:
    sizes = {"batch": 1, "heads": 2, "key_heads": 2, "query_len": 17, "key_len": 19, "head_dim": 26}
    return RelativeCase(rows, shared, terms, **(sizes | options))


CASES = [
    case("xl", VECTORS, mask="recurrence", query_len=35, key_len=41),
    case("xlnet", mask="keys", shared="", batch=2, dtype=torch.bfloat16),
    case("clip", ("relative_value",), "bh", key_heads=1, key_len=35, dropout_p=0.3),
    case("xlnet", TERMS, position="sorted", head_dim=41, dtype=torch.float16),
    case("clip", TERMS, "bh", position="any", bias="table", mask="dense"),
    case("xl", ("position_bias",), bias="keys", key_heads=1, head_dim=64),
    case("xlnet", ("segment",), bias="full", mask="causal", strided=True),
    case("xl", TERMS, query_len=1, key_len=70, mask="recurrence", head_dim=1),
    case("clip", TERMS, query_len=3, key_len=70, dropout_p=0.3, position="any"),
    case("xlnet", VECTORS, query_len=2, key_len=40, key_heads=1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case):
    check(case, "triton")


@pytest.mark.parametrize(("batch", "query_len", "key_len"), [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_empty(batch, query_len, key_len):
    leaves, rest = build(
        RelativeCase("clip", terms=TERMS, batch=batch, query_len=query_len, key_len=key_len),
        "triton",
    )
    for name, found in call(leaves, rest, "triton").items():
        assert torch.equal(found, torch.full_like(found, -torch.inf if name == "lse" else 0)), name


def test_negative_scale():
    """The kernels take the maximum before they scale, so they negate q, u, v and w instead."""
    leaves, rest = build(case("clip", TERMS, query_len=5, key_len=7, head_dim=8), "triton")
    actual = call(leaves, rest | {"scale": -0.3}, "triton")
    expected = call(leaves, rest | {"scale": -0.3}, "reference")
    for name, found in actual.items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("length", "where"),
    [
        (31, [[1, 9, 27, 30]]),
        (70, [[5, 5, 69, -1, *range(40, 64)], [0, 0, 0, 0, *range(5, 29)]]),
    ],
)
def test_two_streams(length, where):
    """Rows of both streams in the order of their positions, in one tile and in several."""
    generator = torch.Generator().manual_seed(5)
    where = torch.tensor(where, device=DEVICE)
    batch, predicted = where.shape
    order = torch.stack([torch.randperm(length, generator=generator) for _ in range(batch)])
    order, index = order.to(DEVICE), where.clamp(min=0)
    targets = torch.zeros_like(order, dtype=torch.bool).scatter(1, index, True)
    masks = (
        AttentionMask.permutation(order, targets),
        AttentionMask.permutation(order, targets, "query", query_index=index),
    )

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(DEVICE).requires_grad_()

    tensors = [normal(batch, 2, n, 16) for n in (length, predicted, length, length)]
    tensors += [normal(1, 2, 2 * length, 16), normal(2, 16), normal(2, 16)]
    found = []
    for backend in ("triton", "reference"):
        streams = two_stream_attention(*tensors, *masks, target_mapping=where, backend=backend)
        loss = sum(stream.sin().sum() for stream in streams)
        found.append([*streams, *torch.autograd.grad(loss, tensors)])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_rows_beyond_what_is_visible_do_no_harm():
    """A relative key of NaN at distances that the mask hides is not kept."""
    query = torch.randn(1, 1, 35, 16, device=DEVICE)
    rows = torch.randn(1, 1, 70, 16, device=DEVICE)
    mask = AttentionMask.documents(torch.arange(35)[None] // 18).to(DEVICE)
    clean = relative_attention(query, query, query, rows, mask=mask, backend="triton")
    rows[:, :, : 35 - 17] = torch.nan
    rows[:, :, 35 + 18 :] = torch.nan
    again = relative_attention(query, query, query, rows, mask=mask, backend="triton")
    assert torch.equal(again, clean)


def test_the_kernel_runs_and_gives_the_same_bits_again():
    leaves, rest = build(case("clip", TERMS, query_len=5, key_len=7), "triton")
    with Counter() as counter:
        first = call(leaves, rest, "triton")
    counts = {n: count for n, count in counter.counts.items() if n not in HARMLESS}
    assert counts.pop("triton_attention_forward") == counts.pop("triton_attention_backward") == 1
    assert not {"bmm", "mm", "exp", "gather"} & set(counts)
    second = call(leaves, rest, "triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_have_the_layout_that_their_fakes_promise():
    given = case("clip", TERMS, "bh", query_len=5, key_len=7, position="any")
    leaves, rest = build(given, "triton")
    query, key, value, *options = [leaf.detach() for leaf in leaves.values()]
    names = list(leaves)[3:]
    integers = {n: rest[n] for n in ("query_segment", "key_segment", "query_position")}
    tensors = dict(zip(names, options, strict=True)) | integers
    relative = relative_options(query, key, rest["relative_offset"], **tensors)
    options = AttentionOptions.of(query, None, None, None, 0.0, None, **relative)
    output, lse = torch.ops.ptmkernels.triton_attention_forward(query, key, value, *options)
    wanted = sum(1 << n for n, name in enumerate(DIFFERENTIABLE) if name in names)
    torch.library.opcheck(
        torch.ops.ptmkernels.triton_attention_backward.default,
        (torch.ones_like(output), None, query, key, value, output, lse, *options, wanted),
        test_utils=("test_schema", "test_faketensor"),
    )
