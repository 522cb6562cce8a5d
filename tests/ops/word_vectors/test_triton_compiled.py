"""The Triton kernels of word vectors compiled ahead of time, without a GPU: registers and spills.

Tests marked long run with PTMKERNELS_TEST_LONG=1.
"""

import pytest
import torch

from ptmkernels.ops import AliasTable, HuffmanTree
from ptmkernels.ops.hierarchical_softmax import triton_kernels as hierarchical
from ptmkernels.ops.hierarchical_softmax import triton_log_prob as log_prob
from ptmkernels.ops.negative_sampling import triton_kernels as negative
from ptmkernels.ops.triton_runtime import compile_for
from ptmkernels.ops.word_vectors.triton_step import word_vectors_step_

MAX_REGISTERS = {"gfx942": 512}
SIZE = 50  # V
COUNTS = torch.tensor([1000 // (n + 1) + 1 for n in range(SIZE)])
TARGETS = [
    ("sm_90", 100, torch.float32),
    ("gfx942", 100, torch.bfloat16),
    pytest.param("sm_80", 100, torch.bfloat16, marks=pytest.mark.long),
    pytest.param("sm_90", 1024, torch.bfloat16, marks=pytest.mark.long),
    pytest.param("sm_80", 1024, torch.float32, marks=pytest.mark.long),
]


def check(kernels, names, record_property):
    assert [k.name for k in kernels] == names
    for k in kernels:
        record_property(
            f"{k.target} {k.name}", f"{k.registers} registers, {k.shared_bytes} bytes shared"
        )
        assert k.spilled_bytes == 0, f"{k.target} {k.name} {k.constants}"
        assert k.registers <= MAX_REGISTERS.get(k.target, 255)


@pytest.mark.parametrize(("target", "width", "dtype"), TARGETS)
def test_losses(target, width, dtype, record_property):
    hidden, weight = (torch.zeros(rows, width, dtype=dtype) for rows in (96, SIZE))
    words, ids = torch.zeros(96, dtype=torch.int64), torch.zeros(96, 6, dtype=torch.int64)
    table, tree = AliasTable.from_counts(COUNTS).table, HuffmanTree.from_counts(COUNTS)
    seed, grad, factor = torch.tensor([1]), torch.zeros(96), torch.zeros(96, 6)
    path = (words, weight[1:], tree.offsets, tree.path, tree.depth)
    with compile_for(target) as kernels:
        for noise in ((ids[:, 1:], None, None), (None, table, seed)):
            options = (*noise, 5, None, None, True, False)
            negative.negative_sampling_forward(hidden, words, weight, *options)
        negative.negative_sampling_backward(grad, hidden, weight, factor, ids, True)
        hierarchical.hierarchical_softmax_forward(hidden, *path, False)
        hierarchical.hierarchical_softmax_backward(grad, hidden, *path, True)
    sums = ["_sum_by_row", "_sum_runs", "_add_parts"]
    check(kernels, ["_loss", "_loss", *sums, "_walk", "_walk", *sums], record_property)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_log_prob(target, record_property):
    """The root's depth has one node: its count must not be compiled in."""
    tree, logits, grad = HuffmanTree.from_counts(COUNTS[:2]), torch.zeros(96, 1), torch.zeros(96, 2)
    with compile_for(target) as kernels:
        log_prob.hierarchical_softmax_log_prob_forward(logits, *tree.descent)
        log_prob.hierarchical_softmax_log_prob_backward(grad, logits, *tree.descent)
    check(kernels, ["_descend", "_ascend"], record_property)


@pytest.mark.parametrize(("target", "width", "dtype"), TARGETS)
def test_steps(target, width, dtype, record_property):
    a, b = (torch.zeros(SIZE, width, dtype=dtype) for _ in range(2))
    tokens, table = torch.zeros(64, dtype=torch.int32), AliasTable.from_counts(COUNTS).table
    tree = HuffmanTree.from_counts(COUNTS)
    numbers = (0.1, 0.0, 0, 64, torch.tensor([1]), 1)
    with pytest.MonkeyPatch.context() as patch, compile_for(target) as kernels:
        # Kernels that are compiled only do not tell which words stay.
        patch.setattr(torch, "empty_like", torch.ones_like)
        for cbow in (False, True):
            noise, path = (table, None, None), (None, tree.offsets, tree.path)
            word_vectors_step_(a, b, tokens, None, *noise, None, None, 1, cbow, 5, 5, *numbers)
            word_vectors_step_(a, b[1:], tokens, None, *path, None, None, 1, cbow, 5, 0, *numbers)
    check(kernels, ["_draw_reach", "_train"] * 4, record_property)


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 2])
def test_sizes_of_one(size):
    """Triton compiles sizes of 1 in as constants: a batch, a width, a vocabulary, no negative."""
    matrix, words = torch.zeros(size, 1), torch.zeros(1, dtype=torch.int64)
    counts, seed, grad = torch.ones(size, dtype=torch.int64), torch.tensor([1]), torch.zeros(1)
    table, tree = AliasTable.from_counts(counts).table, HuffmanTree.from_counts(counts)
    path = (words, matrix[1:], tree.offsets, tree.path, tree.depth)
    lists = (tree.offsets, torch.zeros(size, dtype=torch.int32))
    numbers = (0.1, 0.0, 1, 1, seed, 1)
    with pytest.MonkeyPatch.context() as patch, compile_for("sm_90") as kernels:
        for noise in ((torch.zeros(1, 0, dtype=torch.int64), None, None), (None, table, seed)):
            options = (*noise, 0, matrix[:, 0], matrix[:, 0], True, False)
            negative.negative_sampling_forward(matrix[:1], words, matrix, *options)
        hierarchical.hierarchical_softmax_forward(matrix[:1], *path, False)
        hierarchical.hierarchical_softmax_backward(grad, matrix[:1], *path, True)
        patch.setattr(torch, "empty_like", torch.ones_like)
        for cbow in (False, True):
            noise, nodes = (table, None, None, None, None), (None, tree.offsets, tree.path, *lists)
            for given, output in ((noise, matrix), (nodes, matrix[1:])):
                tokens = words.int()
                word_vectors_step_(matrix, output, tokens, None, *given, 1, cbow, 1, 0, *numbers)
    assert sum(k.name == "_train" for k in kernels) == 4
    assert all(k.spilled_bytes == 0 for k in kernels)
