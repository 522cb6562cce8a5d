"""A padded batch's tokens laid out as one row: `gather` and `pack`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmkernels import AttentionMask
from ptmkernels._mask_tensors import LOWEST, PADDED
from tests.masks.cases import MASKS, assert_mask, random_keys


def laid_out(mask, rows, columns):
    """Brute force: (1, T, T), what token t sees of token u."""
    dense = mask.to_dense()
    dense = dense.expand(max(int(rows.max()) + 1 if len(rows) else 1, dense.shape[0]), -1, -1)
    seen = dense[rows[:, None], columns[:, None], columns[None, :]]
    return (seen & (rows[:, None] == rows[None, :]))[None]


PACKABLE = [name for name in MASKS if MASKS[name].allowed is None]


@pytest.mark.parametrize("name", PACKABLE)
def test_pack(name):
    lengths = torch.tensor([5, 0, 8])
    packed = MASKS[name].pack(lengths)
    keys = torch.arange(8) < lengths[:, None]
    rows, columns = keys.nonzero(as_tuple=True)
    assert_mask(packed, laid_out(MASKS[name], rows, columns))
    assert_mask(MASKS[name].pack([5, 0, 8]), packed.to_dense())
    padded = MASKS[name] & AttentionMask.keys(keys)
    assert_mask(padded.pack(lengths), packed.to_dense())


@pytest.mark.parametrize("name", PACKABLE)
def test_gather_left_padding_holes_and_any_order(name):
    generator = torch.Generator().manual_seed(4)
    left = torch.arange(8) >= torch.tensor([[3], [0], [7]])
    for keys in (left, random_keys(3, 8, generator)):
        rows, columns = keys.nonzero(as_tuple=True)
        assert_mask(MASKS[name].gather(rows, columns), laid_out(MASKS[name], rows, columns))
        order = torch.randperm(len(rows), generator=generator)
        shuffled = rows[order], columns[order]
        assert_mask(MASKS[name].gather(*shuffled), laid_out(MASKS[name], *shuffled))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 12))
def test_gather_of_random_orders(seed, batch, length):
    generator = torch.Generator().manual_seed(seed)
    rank = torch.randint(-(2**20), 2**20, (batch, length), generator=generator)
    targets, keys = (random_keys(batch, length, generator) for _ in range(2))
    mask = AttentionMask.permutation(rank, targets, "query") & AttentionMask.keys(keys)
    rows, columns = random_keys(batch, length, generator).nonzero(as_tuple=True)
    assert_mask(mask.gather(rows, columns), laid_out(mask, rows, columns))


def test_packed_masks_take_padding_and_nothing_at_all():
    packed = AttentionMask.causal(3).pack([2, 3]) & AttentionMask.keys(
        torch.tensor([[1, 0, 1, 1, 1]])
    )
    assert packed.to_dense()[0].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1],
    ]  # fmt: skip
    for mask in (AttentionMask.full(4), AttentionMask.full(0), MASKS["keys"]):
        assert mask.pack([0, 0, 0]).key_len == 0


def test_pack_on_the_class_packs_the_full_mask():
    documents = AttentionMask.documents(torch.tensor([0, 0, 2, 2, 2]))
    for lengths in ([2, 0, 3], torch.tensor([2, 0, 3], dtype=torch.int32)):
        assert_mask(AttentionMask.pack(lengths), documents.to_dense())
    assert AttentionMask.pack([]).key_len == 0
    assert "laid out as one row" in AttentionMask.pack.__doc__
    with pytest.raises(TypeError, match="lengths has dtype"):
        AttentionMask.pack([2.0, 3.0])
    with pytest.raises(ValueError, match="lengths holds -1; expected numbers from 0 to 2"):
        AttentionMask.pack([2, -1])


def test_pack_refuses():
    mask = MASKS["keys"]
    with pytest.raises(ValueError, match="lengths"):
        mask.pack([1, 2])
    with pytest.raises(ValueError, match="0 to 8"):
        mask.pack([1, 2, 9])
    with pytest.raises(ValueError, match="0 to 8"):
        mask.pack([1, -2, 3])
    with pytest.raises(ValueError, match="dense"):
        MASKS["dense"].pack([1, 2, 3])
    with pytest.raises(ValueError, match="L = S"):
        AttentionMask.full(3, 4).pack([2])
    with pytest.raises(ValueError, match="rows and columns"):
        mask.gather(torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(ValueError, match="columns holds -1 to 8; expected 0 to 7"):
        mask.gather(torch.tensor([0, 0]), torch.tensor([8, -1]))
    many = MASKS["keys"]
    with pytest.raises(ValueError, match=f"rows holds 9 to 9; expected 0 to {many.batch_size - 1}"):
        many.gather(torch.tensor([9]), torch.tensor([0]))
    wide = AttentionMask.permutation(torch.tensor([[LOWEST + 1, PADDED - 1]]))
    with pytest.raises(ValueError, match="spread"):
        wide.pack([2, 2])
