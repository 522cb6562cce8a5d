"""The CUDA kernels of the word-vector losses, executed on the CPU by the emulation of tests/simt.

Every test also fails on what the emulation reports: races, addresses outside of the tensors.
"""

import pytest
import torch

from ptmkernels.ops import AliasTable, HuffmanTree
from ptmkernels.ops.hierarchical_softmax import reference
from ptmkernels.ops.hierarchical_softmax.reference import hierarchical_softmax_loss
from ptmkernels.ops.negative_sampling.reference import negative_sampling_loss
from tests.simt.word_vectors import (
    hierarchical_softmax,
    hierarchical_softmax_log_prob,
    negative_sampling,
    scale_of,
)
from tests.tolerances import assert_close_to_reference

pytestmark = pytest.mark.usefixtures("nothing_reported")
TYPES = [torch.float32, torch.bfloat16]


def rows(count, width, dtype, seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, width, generator=generator) * size).to(dtype)


def ids(size, shape, seed=3):
    return torch.randint(0, size, shape, generator=torch.Generator().manual_seed(seed))


def gradients(loss, hidden, weight, bias=None):
    inputs = [t for t in (hidden, weight, bias) if t is not None]
    grads = torch.autograd.grad((loss * scale_of(loss)).sum(), inputs)
    names = ("grad_hidden", "grad_weight", "grad_bias")
    return {"loss": loss.detach(), **dict(zip(names, grads, strict=False))}


def formula(dtype, hidden, target, weight, used, bias=None, log_noise=None, skip_target=True):
    hidden, weight = (t.to(dtype).requires_grad_() for t in (hidden, weight))
    bias = None if bias is None else bias.to(dtype).requires_grad_()
    noise = None if log_noise is None else log_noise.to(dtype)
    loss = negative_sampling_loss(hidden, weight, used, bias, noise, skip_target)
    return gradients(loss, hidden, weight, bias)


def tree_formula(dtype, hidden, target, weight, tree):
    hidden, weight = (t.to(dtype).requires_grad_() for t in (hidden, weight))
    return gradients(hierarchical_softmax_loss(hidden, target, weight, tree), hidden, weight)


def compare(actual, low, exact):
    for name, expected in exact.items():
        assert_close_to_reference(actual[name], low[name], expected, name, dtype=torch.float32)


@pytest.mark.parametrize("types", [(a, b) for a in TYPES for b in TYPES], ids=str)
@pytest.mark.parametrize(
    ("batch", "width", "negatives"),
    [(13, 100, 5), (5, 41, 8), (3, 1, 0), (2, 260, 20), (70, 32, 1)],
)
def test_negative_sampling(batch, width, negatives, types):
    """Whole and odd vectors, several groups of outputs, an id with entries in several chunks."""
    hidden, weight = rows(batch, width, types[0], 1), rows(17, width, types[1], 2, 0.3)
    target, noise = ids(17, (batch,)), ids(2 if batch == 70 else 17, (batch, negatives), 4)
    actual = negative_sampling(hidden, target, weight, noise)
    used = torch.cat([target[:, None], noise], 1)
    assert torch.equal(actual["ids"], used)
    arguments = (hidden, target, weight, used)
    compare(actual, formula(torch.float32, *arguments), formula(torch.float64, *arguments))


@pytest.mark.parametrize("nce", [False, True])
@pytest.mark.parametrize("negatives", [1, 5, 9])
def test_drawn_negatives(negatives, nce):
    """The ids are those of every backend; bias, noise probabilities and negatives equal to targets."""
    sampler = AliasTable.from_weights(torch.arange(1, 12))
    hidden, weight = rows(9, 20, torch.float32, 1), rows(11, 20, torch.float32, 2)
    target, seed = ids(11, (9,)), torch.tensor([2**40 + 7])
    options = {"bias": torch.linspace(-1, 1, 11), "skip_target": not nce}
    if nce:
        options["log_noise"] = (sampler.probabilities * negatives).log()
    actual = negative_sampling(
        *(hidden, target, weight),
        alias=sampler.table,
        seed=seed,
        num_negatives=negatives,
        **options,
    )
    used = torch.cat([target[:, None], sampler.sample((9, negatives), seed)], 1)
    assert torch.equal(actual["ids"], used)
    low, exact = (
        formula(dtype, hidden, target, weight, used, **options)
        for dtype in (torch.float32, torch.float64)
    )
    compare(actual, low, exact)


def test_rows_of_a_wider_matrix_and_no_dense_gradient():
    hidden, wide = rows(6, 24, torch.float32, 1), rows(9, 31, torch.bfloat16, 2)
    weight, target, noise = wide[:, 3:27], ids(9, (6,)), ids(9, (6, 4))
    actual = negative_sampling(hidden, target, weight, noise, dense=False)
    assert actual.pop("grad_weight").shape == (0, 0)
    assert actual.pop("grad_bias").shape == (0,)
    again = negative_sampling(hidden, target, weight.contiguous(), noise)
    for name in ("loss", "grad_hidden"):
        torch.testing.assert_close(actual[name], again[name])


def test_empty_batch():
    hidden, weight = rows(0, 8, torch.float32, 1), rows(5, 8, torch.float32, 2)
    target = ids(5, (0,))
    actual = negative_sampling(hidden, target, weight, ids(5, (0, 3)))
    assert actual["loss"].shape == (0,)
    assert not actual["grad_weight"].any()
    tree = HuffmanTree.from_counts(torch.arange(5, 0, -1))
    actual = hierarchical_softmax(hidden, target, weight[1:], tree)
    assert actual["loss"].shape == (0,)
    assert not actual["grad_weight"].any()


@pytest.mark.parametrize("types", [(a, b) for a in TYPES for b in TYPES], ids=str)
@pytest.mark.parametrize(("batch", "width", "size"), [(13, 100, 29), (5, 41, 300), (67, 8, 3)])
def test_hierarchical_softmax(batch, width, size, types):
    tree = HuffmanTree.from_counts(torch.tensor([1000 // (i + 1) + 1 for i in range(size)]))
    hidden, weight = rows(batch, width, types[0], 1), rows(size - 1, width, types[1], 2, 0.3)
    arguments = (hidden, ids(size, (batch,)), weight, tree)
    compare(
        hierarchical_softmax(*arguments),
        tree_formula(torch.float32, *arguments),
        tree_formula(torch.float64, *arguments),
    )


def test_a_deep_tree_and_a_tree_of_one_word():
    """A chain: word w is reached after w + 1 decisions, several groups of them."""
    counts = torch.tensor([2 ** (40 - i) for i in range(40)])
    tree = HuffmanTree.from_counts(counts)
    arguments = (rows(7, 5, torch.float32, 1), ids(40, (7,)), rows(39, 5, torch.float32, 2), tree)
    compare(
        hierarchical_softmax(*arguments),
        tree_formula(torch.float32, *arguments),
        tree_formula(torch.float64, *arguments),
    )
    alone = HuffmanTree.from_counts(torch.tensor([3]))
    hidden, target = rows(4, 6, torch.float32, 1), torch.zeros(4, dtype=torch.int64)
    actual = hierarchical_softmax(hidden, target, torch.empty(0, 6), alone)
    assert not actual["loss"].any()
    assert not actual["grad_hidden"].any()


@pytest.mark.parametrize(
    ("batch", "counts"),
    [
        (5, [1000 // (i + 1) + 1 for i in range(300)]),  # several blocks for a depth
        (2, [2 ** (40 - i) for i in range(40)]),  # a chain
        (3, [2, 1]),
        (3, [1]),
        (0, [2, 1]),
    ],
    ids=["wide", "deep", "two", "one", "empty"],
)
def test_log_prob(batch, counts):
    tree = HuffmanTree.from_counts(torch.tensor(counts))
    hidden, weight = rows(batch, 9, torch.float32, 1), rows(len(counts) - 1, 9, torch.float32, 2)
    grad = rows(batch, len(counts), torch.float32, 3)

    def formula(dtype):
        logits = (hidden @ weight.T).to(dtype).requires_grad_()
        log_prob = reference.hierarchical_softmax_log_prob(logits, tree)
        (slope,) = torch.autograd.grad(log_prob, logits, grad.to(dtype), allow_unused=True)
        return {"log_prob": log_prob.detach(), "grad_logits": slope}

    actual = hierarchical_softmax_log_prob(hidden, weight, tree, grad)
    assert actual["log_prob"].shape == grad.shape
    if len(counts) > 1:
        compare(actual, formula(torch.float32), formula(torch.float64))
    else:
        assert not actual["log_prob"].any()
