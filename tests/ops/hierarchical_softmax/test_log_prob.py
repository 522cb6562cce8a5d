"""Log-probabilities of all words: kernels against the reference in float64, the tree's table, errors."""

import itertools

import pytest
import torch

from ptmkernels.ops import HuffmanTree, hierarchical_softmax_log_prob, hierarchical_softmax_loss
from tests.ops.hierarchical_softmax.test_hierarchical_softmax import case
from tests.tolerances import assert_close_to_reference

ARCHS = ("generic", "avx2", "avx512", "wide")


def chain(size):
    """Counts that double: word w is reached after w + 1 decisions."""
    return HuffmanTree.from_counts(torch.tensor([2**n for n in range(size - 1, -1, -1)]))


def run(backend, hidden, weight, tree, dtype=None):
    """Log-probabilities, and gradients that differ from word to word."""
    hidden, weight = (t.to(dtype or t.dtype).detach().requires_grad_() for t in (hidden, weight))
    log_prob = hierarchical_softmax_log_prob(hidden, weight, tree, backend=backend)
    scale = torch.linspace(-1, 2, log_prob.numel(), dtype=log_prob.dtype, device=log_prob.device)
    total = (log_prob * scale.view_as(log_prob)).sum()
    return [log_prob, *torch.autograd.grad(total, (hidden, weight))]


def check(backend, hidden, weight, tree):
    actual = run(backend, hidden, weight, tree)
    low = run("reference", hidden.cpu(), weight.cpu(), tree.to("cpu"))
    exact = run("reference", hidden.cpu(), weight.cpu(), tree.to("cpu"), torch.float64)
    for name, a, b, c in zip(("log_prob", "hidden", "weight"), actual, low, exact, strict=True):
        assert_close_to_reference(a.cpu(), b, c, name)


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels(arch, monkeypatch):
    """Every instruction set that this machine has, whole vectors of nodes and odd ones."""
    monkeypatch.setenv("PTMKERNELS_CPU_ARCH", arch)
    for size, dtype in itertools.product((2, 3, 17, 29, 300), (torch.float32, torch.bfloat16)):
        hidden, _, weight, tree = case(batch=5, size=size, dtype=dtype)
        try:
            check("cpu", hidden, weight, tree)
        except RuntimeError as error:
            if "cannot run" not in str(error):
                raise
            pytest.skip(str(error))
    hidden, _, weight, _ = case(batch=3, size=40)
    check("cpu", hidden, weight, chain(40))


@pytest.mark.parametrize("arch", ARCHS)
def test_logits_of_every_size(arch, monkeypatch):
    """One node: log sigmoid(+-x) and its slope where exp would overflow, at 0, and NaN."""
    monkeypatch.setenv("PTMKERNELS_CPU_ARCH", arch)
    x = torch.tensor(
        [-1e4, -200.0, -88.7, -20.0, -1.0, -1e-4, 0.0, 1e-8, 3.0, 17.0, 90.0, 1e4, torch.inf]
    )
    leaf = x[:, None].requires_grad_()
    tree = HuffmanTree.from_counts(torch.tensor([2, 1]))
    sign = 1 - 2 * (tree.path[0] & 1)
    try:
        log_prob = hierarchical_softmax_log_prob(leaf, torch.ones(1, 1), tree, backend="cpu")
    except RuntimeError as error:
        pytest.skip(str(error))
    both = torch.stack([sign * x, -sign * x], 1).double()
    torch.testing.assert_close(
        log_prob.double(), torch.nn.functional.logsigmoid(both), rtol=3e-7, atol=1e-37
    )
    (slope,) = torch.autograd.grad(log_prob[:, 0].sum(), leaf)
    expected = (sign * torch.sigmoid(-both[:, 0])).float()
    torch.testing.assert_close(slope[:, 0], expected, rtol=1e-6, atol=1e-37)
    unknown = hierarchical_softmax_log_prob(torch.tensor([[torch.nan]]), torch.ones(1, 1), tree)
    assert unknown.isnan().all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("size", [1, 2, 3, 29, 500])
def test_probabilities_are_those_of_the_loss(size, backend):
    hidden, _, weight, tree = case(size=size)
    log_prob = hierarchical_softmax_log_prob(hidden, weight, tree, backend=backend)
    assert log_prob.shape == (13, size)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(13))
    every = torch.arange(size)
    loss = hierarchical_softmax_loss(
        hidden[:1].expand(size, -1), every, weight, tree, reduction="none"
    )
    torch.testing.assert_close(-loss, log_prob[0], rtol=1e-5, atol=1e-5)


def test_gradients():
    hidden, _, weight, tree = case(batch=3, width=4, size=7)
    inputs = (hidden.double().requires_grad_(), weight.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda h, w: hierarchical_softmax_log_prob(h, w, tree), inputs)
    hidden.requires_grad_()
    loss = hierarchical_softmax_log_prob(hidden, weight, tree, backend="cpu").sum()
    (grad,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "tree",
    [chain(2), chain(30), HuffmanTree.from_counts(torch.tensor([9, 5, 3, 2, 2, 1, 1]), "heap")],
    ids=["two", "chain", "heap"],
)
def test_the_steps_lead_to_every_word(tree):
    """Walked by hand: each word is reached by its own code bits, each node before what follows it."""
    steps, levels = tree.descent
    paths = [[] for _ in range(len(tree))]
    for depth, (begin, end) in enumerate(itertools.pairwise(levels.tolist())):
        for node, zero, one in steps[begin:end].tolist():
            assert len(paths[zero]) == depth
            paths[one] = [*paths[zero], 2 * node + 1]
            paths[zero] = [*paths[zero], 2 * node]
    for word, path in enumerate(paths):
        assert path == tree.path[tree.offsets[word] : tree.offsets[word + 1]].tolist()


def test_memory_does_not_grow_with_the_depth():
    """The largest tensor of a call, forward and backward, has B V elements."""
    hidden, _, weight, _ = case(batch=2, width=3, size=60)
    tree = chain(60)
    assert tree.depth == 59
    _ = tree.descent

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.size = max(self.size, result.numel())
            return result

    with Largest() as largest:
        hidden.requires_grad_()
        hierarchical_softmax_log_prob(hidden, weight, tree, backend="cpu").sum().backward()
    assert largest.size == max(2 * 60, 59 * 3)


def test_opcheck_and_compile():
    hidden, _, weight, tree = case(batch=3)
    logits = (hidden @ weight.T).requires_grad_()
    op = torch.ops.ptmkernels.hierarchical_softmax_log_prob_forward.default
    torch.library.opcheck(op, (logits, *tree.descent))

    def loss(h, w):
        return hierarchical_softmax_log_prob(h, w, tree).square().mean()

    hidden.requires_grad_()
    tree = HuffmanTree(tree.offsets, tree.path)  # its table is not made yet
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(compiled(hidden, weight), hidden),
        torch.autograd.grad(loss(hidden, weight), hidden),
    )


def test_narrow_products_under_autocast():
    hidden, _, weight, tree = case(size=29)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = hierarchical_softmax_log_prob(hidden, weight, tree)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(
        narrow, hierarchical_softmax_log_prob(hidden, weight, tree), rtol=0.05, atol=0.3
    )


def test_errors():
    hidden, _, weight, tree = case()
    with pytest.raises(ValueError, match=r"node_weight has shape \(27, 41\)"):
        hierarchical_softmax_log_prob(hidden, weight[1:], tree)
    with pytest.raises(TypeError, match="hidden is a list"):
        hierarchical_softmax_log_prob([hidden], weight, tree)
    with pytest.raises(RuntimeError, match="float64 and float16 are served by reference only"):
        hierarchical_softmax_log_prob(hidden.double(), weight.double(), tree, backend="cpu")
    assert hierarchical_softmax_log_prob(hidden[:0], weight, tree).shape == (0, 29)


@pytest.mark.parametrize(
    ("offsets", "path"),
    [
        ([0, 1, 2, 3], [0, 0, 0]),  # three words at one place, and a node that none passes
        ([0, 0, 0, 0], []),
        ([0, 1, 3, 5], [2, 2, 0, 2, 1]),  # a word at an inner node
        ([0, 2, 4, 5], [2, 0, 3, 1, 2]),
        ([0, 2, 4, 6], [2, 0, 2, 1, 0, 2]),  # two roots
    ],
)
def test_paths_of_no_tree(offsets, path):
    tree = HuffmanTree(torch.tensor(offsets), torch.tensor(path, dtype=torch.int32))
    with pytest.raises(ValueError, match="no paths of one binary tree of 3 words"):
        hierarchical_softmax_log_prob(torch.ones(2, 4), torch.ones(2, 4), tree)
