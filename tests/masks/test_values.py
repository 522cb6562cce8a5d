"""Masks as arguments and values: what is refused, copies, devices, fake tensors, compilation, plots."""

import copy
import pickle

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels._mask_tensors import PADDED
from tests.masks.cases import MASKS, assert_mask, random_keys

ROW = torch.arange(4)


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: AttentionMask([0, 1], ROW, ROW), TypeError, "key_rank is a list"),
        (lambda: AttentionMask(ROW, ROW.float(), ROW), TypeError, "query_low has dtype"),
        (lambda: AttentionMask(ROW, ROW, ROW[None, None]), ValueError, "query_high has shape"),
        (lambda: AttentionMask(ROW, ROW, ROW[:3]), ValueError, "same number"),
        (lambda: AttentionMask(ROW, ROW, ROW + PADDED - 3), ValueError, "kept for padded keys"),
        (lambda: AttentionMask(ROW, ROW, ROW + 2**32), ValueError, "query_high holds 4294967296"),
        (lambda: AttentionMask(ROW - 2**33, ROW, ROW), ValueError, "key_rank holds"),
        (lambda: AttentionMask(ROW.expand(2, 4), ROW, ROW.expand(3, 4)), ValueError, "batch size"),
        (lambda: AttentionMask(ROW, ROW, ROW.to("meta")), ValueError, "query_high is on meta"),
        (lambda: AttentionMask(ROW, ROW, ROW, branches=ROW), ValueError, "branches has shape"),
        (
            lambda: AttentionMask(ROW[:3], ROW, ROW, branches=torch.zeros(1, 3, 3).int()),
            ValueError,
            "no more queries than keys",
        ),
        (lambda: AttentionMask(ROW, ROW, ROW, allowed=ROW), TypeError, "allowed has dtype"),
        (
            lambda: AttentionMask(ROW, ROW, ROW, allowed=torch.ones(3, 4).bool()),
            ValueError,
            "allowed has shape",
        ),
        (lambda: AttentionMask.full(-1), ValueError, "query_len is -1"),
        (lambda: AttentionMask.full(2.0), TypeError, "query_len is 2.0"),
        (lambda: AttentionMask.causal(2, -3), ValueError, "key_len is -3"),
        (lambda: AttentionMask.right_to_left(2, True), TypeError, "key_len is True"),
        (lambda: AttentionMask.window(3, 3, -1, 0), ValueError, "left is -1"),
        (lambda: AttentionMask.window(3, 3, 0, -2), ValueError, "right is -2"),
        (lambda: AttentionMask.window(3, 3, 1.5), TypeError, "left is 1.5"),
        (lambda: AttentionMask.recurrence(3, -1), ValueError, "memory_len is -1"),
        (lambda: AttentionMask.recurrence(3, 2, 0), ValueError, "attend_len is 0"),
        (lambda: AttentionMask.keys(torch.ones(2, 3)), TypeError, "allowed has dtype"),
        (lambda: AttentionMask.keys([[1, 0]]), TypeError, "allowed is a list"),
        (lambda: AttentionMask.keys(ROW), ValueError, "allowed has shape"),
        (lambda: AttentionMask.keys(ROW[None] > 0, query_len=-1), ValueError, "query_len is -1"),
        (lambda: AttentionMask.prefix([1.5], 3), TypeError, "prefix_lengths has dtype"),
        (lambda: AttentionMask.prefix([-1], 3), ValueError, "from 0 to 3"),
        (lambda: AttentionMask.prefix([4], 3), ValueError, "from 0 to 3"),
        (lambda: AttentionMask.prefix(2, 3), ValueError, "prefix_lengths has shape"),
        (lambda: AttentionMask.documents(torch.tensor([0, 1, 0])), ValueError, "contiguous"),
        (
            lambda: AttentionMask.documents(torch.tensor([[0, 0, 1], [5, 4, 5]])),
            ValueError,
            "row 1",
        ),
        (lambda: AttentionMask.documents(torch.rand(3)), TypeError, "ids has dtype"),
        (lambda: AttentionMask.documents(ROW[None, None]), ValueError, "ids has shape"),
        (lambda: AttentionMask.permutation(ROW, stream="both"), ValueError, "stream is 'both'"),
        (lambda: AttentionMask.permutation(ROW, stream="query"), ValueError, "targets is None"),
        (lambda: AttentionMask.permutation(ROW.float()), TypeError, "rank has dtype"),
        (lambda: AttentionMask.permutation(ROW + PADDED - 3), ValueError, "rank holds"),
        (lambda: AttentionMask.permutation(ROW, memory_len=-1), ValueError, "memory_len is -1"),
        (
            lambda: AttentionMask.permutation(ROW, torch.ones(1, 3).bool(), "query"),
            ValueError,
            "targets has shape",
        ),
        (lambda: AttentionMask.tree(ROW.float(), ROW, ROW), TypeError, "trunk has dtype"),
        (lambda: AttentionMask.tree(ROW, ROW[:3], ROW), ValueError, "branch_low has 3 tokens"),
        (lambda: AttentionMask.dense(torch.ones(3, 3)), TypeError, "allowed has dtype"),
        (lambda: AttentionMask.dense(torch.ones(3).bool()), ValueError, "allowed has shape"),
        (lambda: AttentionMask.dense([[True]]), TypeError, "allowed is a list"),
    ],
)
def test_bad_arguments_are_named(build, error, match):
    with pytest.raises(error, match=match):
        build()


@pytest.mark.parametrize("name", MASKS)
def test_copies_and_pytrees(name):
    mask = MASKS[name]
    leaves, spec = torch.utils._pytree.tree_flatten(mask)
    others = [
        copy.deepcopy(mask),
        pickle.loads(pickle.dumps(mask)),
        torch.utils._pytree.tree_unflatten(leaves, spec),
        mask.to("cpu"),
    ]
    for other in others:
        assert_mask(other, mask.to_dense())
        assert repr(other) == repr(mask)
        # What `&` may do with it came along.
        assert torch.equal((other & MASKS["keys"]).to_dense(), (mask & MASKS["keys"]).to_dense())
        if name != "permutation":
            other & MASKS["causal"]


def test_repr_and_device():
    mask = MASKS["tree"] & MASKS["heads"]
    assert repr(mask) == (
        "AttentionMask(batch_size=1, query_len=8, key_len=8, branches, allowed, device=cpu)"
    )
    moved = mask.to("meta")
    assert moved.device.type == "meta"
    assert moved.to_dense().shape == (1, 2, 8, 8)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_constructors_take_a_device(device):
    for mask in (
        AttentionMask.full(3, device=device),
        AttentionMask.causal(3, device=device),
        AttentionMask.right_to_left(3, device=device),
        AttentionMask.window(3, 3, 1, 1, device=device),
        AttentionMask.recurrence(3, 2, device=device),
        AttentionMask.prefix([1, 2], 3, device=device),
        AttentionMask.keys(torch.ones(2, 3, dtype=torch.bool, device=device)),
        AttentionMask.documents(torch.zeros(3, dtype=torch.int32, device=device)),
        AttentionMask.permutation(torch.zeros(2, 3, dtype=torch.int64, device=device)),
        AttentionMask.causal(3, device=device).gather(*torch.zeros(2, 4, device=device).long()),
    ):
        assert mask.device.type == device
        assert mask.to_dense().device.type == device


def test_fake_tensors():
    with torch._subclasses.FakeTensorMode():
        mask = AttentionMask(torch.arange(4), torch.zeros(4).long(), torch.arange(4))
        keys = AttentionMask.keys(torch.ones(2, 4).bool())
        documents = AttentionMask.documents(torch.zeros(2, 4).long(), causal=True)
        order = AttentionMask.permutation(torch.zeros(2, 4).long())
        assert (mask & keys).to_dense().shape == (2, 4, 4)
        assert (documents & AttentionMask.window(4, 4, 1)).to_dense().shape == (2, 4, 4)
        assert order.to_dense().shape == (2, 4, 4)
        assert mask.gather(torch.zeros(5).long(), torch.arange(5)).key_len == 5


def build_many(keys, ids, rank):
    length = keys.shape[1]
    documents = AttentionMask.documents(ids, causal=True) & AttentionMask.keys(keys)
    order = AttentionMask.permutation(rank) & AttentionMask.keys(keys)
    window = AttentionMask.window(length, None, 2, 1) & AttentionMask.prefix([2, 1], length)
    joined = AttentionMask.cat([documents, order, window])
    picked = joined.gather(torch.zeros_like(ids[0]), torch.arange(length))
    return joined.to_dense(), picked.to_dense()


@pytest.mark.parametrize("dynamic", [False, True])
def test_masks_are_built_inside_compiled_functions(dynamic):
    compiled = torch.compile(build_many, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (7, 8, 11):
        generator = torch.Generator().manual_seed(length)
        keys = random_keys(2, length, generator)
        ids = torch.arange(length).expand(2, -1) // 3
        rank = torch.randint(0, 9, (2, length), generator=generator)
        for actual, expected in zip(
            compiled(keys, ids, rank), build_many(keys, ids, rank), strict=True
        ):
            assert torch.equal(actual, expected)


def test_masks_are_arguments_of_compiled_functions():
    compiled = torch.compile(
        lambda mask: (mask & AttentionMask.causal(8)).to_dense(), fullgraph=True, backend="eager"
    )
    for name in ("keys", "dense", "window"):
        assert torch.equal(compiled(MASKS[name]), (MASKS[name] & MASKS["causal"]).to_dense())


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = MASKS["keys"].plot(batch=2)
    image = axes.images[0].get_array()
    assert torch.equal(torch.as_tensor(image.data) > 0, MASKS["keys"].to_dense()[2])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")
    given_axes = plt.subplots()[1]
    assert MASKS["heads"].plot(ax=given_axes) is given_axes
    plt.close("all")
