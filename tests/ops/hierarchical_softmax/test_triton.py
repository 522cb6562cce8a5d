"""The Triton backend of the hierarchical softmax, interpreted on the CPU, or run on a GPU."""

import pytest
import torch

from ptmkernels.ops import HuffmanTree, hierarchical_softmax_loss
from tests.ops.hierarchical_softmax import test_log_prob as log_prob
from tests.ops.hierarchical_softmax.test_hierarchical_softmax import case, run
from tests.ops.test_attention_runs import Counter
from tests.ops.word_vectors.losses import DEVICE, MARKS, check

pytestmark = MARKS


@pytest.mark.parametrize(
    ("sizes", "sparse"),
    [
        ({"width": 1, "size": 2, "batch": 3}, False),
        ({"width": 7, "size": 1, "batch": 3}, False),
        ({"width": 41, "batch": 4, "dtype": torch.bfloat16}, True),
        ({"width": 100, "size": 300, "batch": 3}, False),
        ({"width": 530, "batch": 3, "dtype": torch.bfloat16}, False),
        ({"batch": 0}, False),
    ],
    ids=str,
)
def test_against_float64(sizes, sparse):
    check(run, case(**sizes), sparse=sparse)


def test_a_path_longer_than_a_tile():
    """Counts that double: the tree is a chain, and its longest path has 24 nodes."""
    tree = HuffmanTree.from_counts(torch.tensor([2**n for n in range(24, -1, -1)]))
    assert tree.depth == 24
    hidden, _, weight, _ = case(batch=3, size=25)
    check(run, (hidden, torch.tensor([24, 0, 11]), weight, tree))


@pytest.mark.parametrize("sizes", [{"size": 2}, {"size": 300, "batch": 5}, {"batch": 0}], ids=str)
def test_log_prob(sizes):
    """The last but one takes several programs for a depth of the tree."""
    hidden, _, weight, tree = (t.to(DEVICE) for t in case(**{"batch": 3, "width": 7, **sizes}))
    log_prob.check("triton", hidden, weight, tree)


def test_log_prob_of_a_chain():
    hidden, _, weight, _ = (t.to(DEVICE) for t in case(batch=3, size=25))
    log_prob.check("triton", hidden, weight, log_prob.chain(25).to(DEVICE))


def test_the_kernels_run():
    inputs = [t.to(DEVICE) for t in case(batch=3)]
    with Counter() as counter:
        run("triton", *inputs)
    ran = {name: n for name, n in counter.counts.items() if "hierarchical" in name}
    assert ran == {f"triton_hierarchical_softmax_{way}": 1 for way in ("forward", "backward")}
    assert not {"mm", "bmm", "index", "index_add_", "gather"} & set(counter.counts)


def test_opcheck_and_compile():
    hidden, target, weight, tree = (t.to(DEVICE) for t in case(batch=2))
    leaves = [t.requires_grad_() for t in (hidden, weight)]
    arguments = (hidden, target, weight, tree.offsets, tree.path, tree.depth, False)
    op = torch.ops.ptmkernels.triton_hierarchical_softmax_forward.default
    torch.library.opcheck(op, arguments)

    def loss(h, w):
        return hierarchical_softmax_loss(h, target, w, tree, backend="triton")

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, loss))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
