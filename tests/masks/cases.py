"""Masks of every kind, and how the tests compare them with brute force."""

import itertools

import torch

from ptmkernels import AttentionMask


def brute(batch, query_len, key_len, rule):
    """(B, L, S) booleans from a rule on (b, i, j)."""
    dense = torch.zeros(batch, query_len, key_len, dtype=torch.bool)
    for b, i, j in itertools.product(range(batch), range(query_len), range(key_len)):
        dense[b, i, j] = bool(rule(b, i, j))
    return dense


def assert_mask(mask, expected):
    dense = mask.to_dense()
    assert dense.dtype == torch.bool
    assert dense.shape[-2:] == (mask.query_len, mask.key_len)
    assert torch.equal(dense.expand(expected.shape), expected)


def random_keys(batch, length, generator):
    return torch.rand(batch, length, generator=generator) < 0.6


def square_masks():
    """Masks of length 8 by name, of batch sizes 1 and 3; every kind that there is."""
    generator = torch.Generator().manual_seed(3)
    trunk = torch.tensor([1, 0, 0, 1, 1, 0, 1, 1])
    low = torch.tensor([0, 0, 1, 9, 2, 2, 9, 9])
    high = torch.tensor([1, 0, 1, 0, 2, 2, 0, 0])
    return {
        "full": AttentionMask.full(8),
        "keys": AttentionMask.keys(random_keys(3, 8, generator)),
        "causal": AttentionMask.causal(8),
        "right_to_left": AttentionMask.right_to_left(8),
        "prefix": AttentionMask.prefix([2, 0, 8], 8),
        "documents": AttentionMask.documents(torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])),
        "window": AttentionMask.window(8, 8, 2, 3),
        "recurrence": AttentionMask.recurrence(8, 0, 4),
        "permutation": AttentionMask.permutation(torch.randint(0, 6, (3, 8), generator=generator)),
        "tree": AttentionMask.tree(trunk, low, high),
        "dense": AttentionMask.dense(torch.rand(3, 8, 8, generator=generator) < 0.7),
        "heads": AttentionMask.dense(torch.rand(1, 2, 8, 8, generator=generator) < 0.7),
    }


MASKS = square_masks()
