"""The loss of the hierarchical softmax: kernels against the reference in float64, opcheck, errors."""

import pytest
import torch

from ptmkernels.ops import HuffmanTree, hierarchical_softmax_loss
from tests.tolerances import assert_close_to_reference


def case(batch=13, width=41, size=29, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tree = HuffmanTree.from_counts(torch.tensor([1000 // (i + 1) + 1 for i in range(size)]))
    hidden = torch.randn(batch, width, generator=generator).to(dtype)
    weight = (torch.randn(size - 1, width, generator=generator) * 0.3).to(dtype)
    return hidden, torch.randint(0, size, (batch,), generator=generator), weight, tree


def run(backend, hidden, target, weight, tree, dtype=None, **options):
    hidden, weight = (t.to(dtype or t.dtype).detach().requires_grad_() for t in (hidden, weight))
    loss = hierarchical_softmax_loss(
        hidden, target, weight, tree, reduction="none", backend=backend, **options
    )
    scale = torch.linspace(0.5, 2, len(loss), dtype=loss.dtype, device=loss.device)
    grads = torch.autograd.grad((loss * scale).sum(), (hidden, weight))
    return [loss, *(g.to_dense() if g.is_sparse else g for g in grads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width,size", [(1, 2), (26, 29), (100, 300)])
@pytest.mark.parametrize("sparse", [False, True])
def test_kernels(dtype, width, size, sparse):
    inputs = case(width=width, size=size, dtype=dtype)
    actual = run("cpu", *inputs, sparse=sparse)
    low = run("reference", *inputs)
    exact = run("reference", *inputs, dtype=torch.float64)
    for name, a, b, c in zip(("loss", "hidden", "weight"), actual, low, exact, strict=True):
        assert_close_to_reference(a, b, c, name)


def test_opcheck_and_compile():
    hidden, target, weight, tree = case()
    hidden.requires_grad_()
    weight.requires_grad_()
    arguments = (hidden, target, weight, tree.offsets, tree.path, tree.depth, False)
    torch.library.opcheck(torch.ops.ptmkernels.hierarchical_softmax_forward.default, arguments)

    def loss(h, w):
        return hierarchical_softmax_loss(h, target, w, tree)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(compiled(hidden, weight), weight)[0],
        torch.autograd.grad(loss(hidden, weight), weight)[0],
    )


def test_errors():
    hidden, target, weight, tree = case()

    def refuse(match, *args, error=ValueError, **options):
        with pytest.raises(error, match=match):
            hierarchical_softmax_loss(*args, **options)

    refuse("target holds 0..29", hidden, torch.tensor([29] + [0] * 12), weight, tree)
    refuse(
        r"node_weight has shape \(27, 41\); expected .* \(28, 41\)",
        hidden,
        target,
        weight[1:],
        tree,
    )
    refuse("tree is a tuple", hidden, target, weight, (1, 2), error=TypeError)
    refuse("reduction", hidden, target, weight, tree, reduction="max")
    assert hierarchical_softmax_loss(hidden[:0], target[:0], weight, tree, reduction="sum") == 0


@pytest.mark.parametrize(
    ("offsets", "path", "message"),
    [
        (
            [0, 1, 2, 4, 6],
            [200, 2, 4, 1, 3, 0],
            r"path holds the inner nodes 0..100; expected 0..2",
        ),
        ([0, 1, 2, 4, 6], [-4, 2, 4, 1, 3, 0], r"path holds the inner nodes -2..2"),
        ([0, 9, 2, 4, 6], [4, 2, 4, 1, 3, 0], "offsets must rise from 0 to 6"),
        ([0, 1, 2, 4, 7], [4, 2, 4, 1, 3, 0], "offsets must rise from 0 to 6"),
    ],
)
def test_paths_that_are_no_tree(offsets, path, message):
    with pytest.raises(ValueError, match=message):
        HuffmanTree(torch.tensor(offsets), torch.tensor(path, dtype=torch.int32))


def test_tensors_that_are_no_tree():
    with pytest.raises(TypeError, match=r"path must be a tensor of one dimension and torch.int32"):
        HuffmanTree(torch.tensor([0, 1, 2]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"counts has shape \(1, 2\)"):
        HuffmanTree.from_counts(torch.tensor([[2, 1]]))
    with pytest.raises(ValueError, match=r"counts holds 2\.5; expected whole numbers"):
        HuffmanTree.from_counts([4.0, 2.5])
    with pytest.raises(ValueError, match="offsets is empty"):
        HuffmanTree(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int32))


def test_a_tree_with_gaps_between_its_values():
    hidden, target, weight, tree = case()
    spread = HuffmanTree(*(torch.stack([t, t + 1], 1)[:, 0] for t in (tree.offsets, tree.path)))
    torch.testing.assert_close(
        hierarchical_softmax_loss(hidden, target, weight, spread),
        hierarchical_softmax_loss(hidden, target, weight, tree),
    )
