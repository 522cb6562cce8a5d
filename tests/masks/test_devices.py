"""Masks of a device that nobody waits for: what is clamped there, what is known without a look at values."""

import pickle

import pytest
import torch

from ptmkernels import AttentionMask, _mask_tensors
from ptmkernels._mask_tensors import LOWEST, PADDED
from tests.masks.cases import assert_mask

ROW = torch.arange(4)
FAR = torch.tensor([0, 1, 2**40, -(2**40)])


@pytest.fixture
def unread(monkeypatch):
    """The CPU is a device whose values are not looked at."""
    monkeypatch.setattr(_mask_tensors, "readable", lambda *tensors: False)
    monkeypatch.setattr("ptmkernels.masks.readable", lambda *tensors: False)


@pytest.mark.usefixtures("unread")
def test_numbers_beyond_int32_are_the_last_that_fit():
    mask = AttentionMask(FAR, FAR, FAR)
    assert mask.key_rank.tolist() == mask.query_low.tolist() == [[0, 1, PADDED, LOWEST]]
    assert mask.query_high.tolist() == [[0, 1, PADDED - 1, LOWEST]]


@pytest.mark.usefixtures("unread")
def test_no_query_sees_padded_keys():
    rank = torch.where(ROW < 2, ROW, PADDED)
    mask = AttentionMask(rank, ROW[:3] * 0, torch.full((3,), PADDED))
    assert_mask(mask, (ROW < 2).expand(1, 3, 4))


@pytest.mark.usefixtures("unread")
def test_ranks_of_a_permutation_stay_between_memory_and_padding():
    rank = torch.tensor([[LOWEST, 0, PADDED]])
    content, query = (
        AttentionMask.permutation(rank, torch.ones(1, 3).bool(), stream, memory_len=1)
        for stream in ("content", "query")
    )
    assert_mask(content, torch.ones(3, 4).tril(1).bool()[None])
    assert_mask(query, torch.ones(3, 4).tril(0).bool()[None])


@pytest.mark.usefixtures("unread")
def test_lengths_are_those_that_there_are():
    assert_mask(AttentionMask.prefix([-3, 9], 4), AttentionMask.prefix([0, 4], 4).to_dense())
    packed = AttentionMask.full(4).pack([-3, 9])
    assert_mask(packed, torch.ones(1, 4, 4).bool())


@pytest.mark.usefixtures("unread")
def test_each_run_is_a_document():
    split, runs = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 2])
    assert_mask(AttentionMask.documents(split), AttentionMask.documents(runs).to_dense())


@pytest.mark.usefixtures("unread")
def test_ranks_that_spread_too_far_are_asserted():
    rank = torch.tensor([[0, 2**30], [0, 2**30]])
    mask = AttentionMask(rank, rank, rank)
    with pytest.raises(RuntimeError, match="spread over more than"):
        mask.gather(torch.tensor([0, 1]), torch.tensor([0, 1]))


def permutation(rank, **options):
    return AttentionMask.permutation(rank, torch.ones_like(rank).bool(), **options)


def test_masks_that_are_known_to_rank_alike():
    rank, keep = torch.tensor([[2, 0, 1]]), torch.tensor([[1, 1, 0]])
    first, second = permutation(rank), permutation(rank, stream="query")
    keys = AttentionMask.keys(keep), AttentionMask.keys(keep)
    alike = [
        (first, second),
        (first & keys[0], second & keys[1]),
        (first & AttentionMask.full(3), second & AttentionMask.full(3)),
        (first.to("cpu"), second),
        (first, AttentionMask(first.key_rank, rank, rank)),
        (AttentionMask.causal(3), AttentionMask.window(2, 3, 1, 1)),
        (AttentionMask.dense(torch.ones(3, 3).bool()), AttentionMask.full(2, 3)),
        (AttentionMask(rank, rank, rank), AttentionMask(rank, rank * 0, rank)),
        keys,
    ]
    for one, other in alike:
        assert one.ranks_like(other)
        assert other.ranks_like(one)
        assert torch.equal(one.key_rank, other.key_rank)


def test_masks_that_may_rank_otherwise():
    rank, keep = torch.tensor([[2, 0, 1]]), torch.tensor([[1, 1, 0]])
    first, keys = permutation(rank), AttentionMask.keys(keep)
    gathered = AttentionMask.full(3).gather(torch.zeros(3).long(), ROW[:3])
    unlike = [
        (first, permutation(rank.clone())),
        (first, permutation(rank, memory_len=1)),
        (first, first & keys),
        (first, AttentionMask.causal(3)),
        (AttentionMask.causal(3), AttentionMask.causal(3, 4)),
        (keys, AttentionMask.keys(keep.clone())),
        (gathered, gathered.to("meta")),
        (first, pickle.loads(pickle.dumps(first))),
    ]
    for one, other in unlike:
        assert not one.ranks_like(other)
        assert not other.ranks_like(one)


def test_a_rank_that_was_changed_is_another():
    rank = torch.tensor([[2, 0, 1]])
    first = permutation(rank)
    rank += 1
    assert not first.ranks_like(permutation(rank))
    with torch.inference_mode():
        rank = torch.tensor([[2, 0, 1]])  # changes of such a tensor are not counted
        assert not permutation(rank).ranks_like(permutation(rank))
