"""`&` and `cat` against brute force: exact, or refused."""

import pytest
import torch

from ptmkernels import AttentionMask
from tests.masks.cases import MASKS, assert_mask, brute

ANY_ORDER = {"full", "keys", "tree", "dense", "heads"}


def heads_dense(mask):
    dense = mask.to_dense()
    return dense if dense.dim() == 4 else dense[:, None]


@pytest.mark.parametrize("one", MASKS)
@pytest.mark.parametrize("two", MASKS)
def test_and_is_exact_or_refused(one, two):
    a, b = MASKS[one], MASKS[two]
    own = [name for name in (one, two) if name == "permutation"]
    if one == two == "tree":
        with pytest.raises(ValueError, match="trees"):
            a & b
    elif own and not {one, two} & ANY_ORDER:
        with pytest.raises(ValueError, match="order the keys differently"):
            a & b
    else:
        both, turned = a & b, b & a
        assert torch.equal(heads_dense(both), heads_dense(a) & heads_dense(b))
        assert torch.equal(both.to_dense(), turned.to_dense())
        again = both & AttentionMask.full(8)
        assert torch.equal(again.to_dense(), both.to_dense())


def test_and_of_three_with_memory():
    rank = torch.tensor([[2, 0, 1, 1]])
    keys = torch.tensor([[0, 1, 1, 1, 1, 0]])
    mask = AttentionMask.permutation(rank, memory_len=2) & AttentionMask.keys(keys, query_len=4)
    expected = brute(
        1, 4, 6, lambda b, i, j: keys[0, j] and (j < 2 or rank[0, j - 2] <= rank[0, i])
    )
    assert_mask(mask, expected)


def test_and_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="query_len 3 and 4"):
        AttentionMask.full(3) & AttentionMask.full(4)
    with pytest.raises(ValueError, match="device cpu and meta"):
        AttentionMask.full(3) & AttentionMask.full(3, device="meta")
    with pytest.raises(ValueError, match="batch_size 2 and 3"):
        AttentionMask.prefix([1, 2], 3) & AttentionMask.prefix([1, 2, 3], 3)
    with pytest.raises(TypeError):
        AttentionMask.full(3) & torch.ones(3, 3)


@pytest.mark.parametrize("one", MASKS)
@pytest.mark.parametrize("two", MASKS)
def test_cat(one, two):
    a, b = MASKS[one], MASKS[two]
    joined = AttentionMask.cat([a, b, a])
    assert joined.batch_size == 2 * a.batch_size + b.batch_size
    assert all(t is None or t.is_contiguous() for t in joined._tensors())
    parts = [heads_dense(m) for m in (a, b, a)]
    heads = max(part.shape[1] for part in parts)
    expected = torch.cat([part.expand(-1, heads, -1, -1) for part in parts])
    assert torch.equal(heads_dense(joined).expand(expected.shape), expected)


def test_cat_is_unilm():
    """The four modes of UniLM in one batch, each row padded, then packed."""
    length = 6
    modes = [
        AttentionMask.full(length),
        AttentionMask.causal(length),
        AttentionMask.right_to_left(length),
        AttentionMask.prefix([3], length),
    ]
    keys = torch.arange(length) < torch.tensor([6, 4, 5, 6])[:, None]
    mask = AttentionMask.cat(modes) & AttentionMask.keys(keys)
    expected = torch.cat([m.to_dense() for m in modes]) & keys[:, None]
    assert_mask(mask, expected)


def test_cat_refuses():
    with pytest.raises(ValueError, match="empty"):
        AttentionMask.cat([])
    with pytest.raises(ValueError, match="expected one pair"):
        AttentionMask.cat([AttentionMask.full(3), AttentionMask.full(4)])
