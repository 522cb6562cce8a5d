"""Hierarchical softmax over a Huffman tree: loss and log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels._library import cpu_library_error, cuda_library_error
from ptmkernels._selector import select
from ptmkernels.ops.hierarchical_softmax import autograd, reference, triton_ops
from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree
from ptmkernels.ops.word_vectors.checks import (
    check_device,
    check_ids,
    check_matrix,
    check_reduction,
    check_type,
    kernel_refusals,
    reduce,
)

__all__ = ["HuffmanTree", "hierarchical_softmax_log_prob", "hierarchical_softmax_loss"]

KERNELS = {
    "cpu": "hierarchical_softmax_forward",
    "cuda": "hierarchical_softmax_forward",
    "triton": triton_ops.FORWARD,
}

LOG_PROB_KERNELS = {
    "cpu": "hierarchical_softmax_log_prob_forward",
    "cuda": "hierarchical_softmax_log_prob_forward",
    "triton": triton_ops.LOG_PROB_FORWARD,
}

if cpu_library_error() is None:
    cuda_library_error()
    autograd.register("hierarchical_softmax_forward", "hierarchical_softmax_backward")
    autograd.register_log_prob(
        "hierarchical_softmax_log_prob_forward", "hierarchical_softmax_log_prob_backward"
    )
triton_ops.register()


def hierarchical_softmax_loss(
    hidden: Tensor,
    target: Tensor,
    node_weight: Tensor,
    tree: HuffmanTree,
    *,
    sparse: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """-log p(target | h) with p a product of decisions along the target's path in a binary tree.

    p = prod_t sigmoid((1 - 2 code_t) h.v_t) (Morin and Bengio 2005; Mikolov et al. 2013, equation 3):
    about log2(V) products instead of V, and the probabilities of all words sum to 1.

    Args:
        hidden: (B, D), float32 or bfloat16; other floating types are served by `reference`.
        target: (B,) int64 or int32, ids below V.
        node_weight: (V - 1, D), a row for each inner node.
        tree: over V words.
        sparse: the gradient of `node_weight` is a sparse tensor, a row for each step of each path.
        reduction: "none" gives (B,), else "mean" or "sum".
        backend: "cpu", "cuda", "triton" or "reference"; None = the environment variable
            PTMKERNELS_BACKEND, else the fastest that can serve.

    Returns:
        float32 (float64 for float64 inputs), (B,) or one number.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: the forced backend cannot serve this call; the message says why.
    """
    _check(hidden, node_weight, tree)
    check_ids("target", target, (hidden.shape[0],), len(tree), hidden.device)
    check_reduction(reduction)
    target = target.to(torch.int64).contiguous()
    refusals = kernel_refusals("hierarchical_softmax_loss", hidden, node_weight)
    chosen = select("hierarchical_softmax_loss", refusals, backend)
    if chosen == "reference":
        wide = torch.promote_types(hidden.dtype, torch.float32)
        loss = reference.hierarchical_softmax_loss(
            hidden.to(wide), target, node_weight.to(wide), tree
        )
        return reduce(loss, reduction)
    weight = node_weight if node_weight.stride(1) == 1 else node_weight.contiguous()
    loss = getattr(torch.ops.ptmkernels, KERNELS[chosen])(
        hidden.contiguous(), target, weight, tree.offsets, tree.path, tree.depth, sparse
    )
    return reduce(loss, reduction)


def hierarchical_softmax_log_prob(
    hidden: Tensor, node_weight: Tensor, tree: HuffmanTree, *, backend: str | None = None
) -> Tensor:
    """log p(w | h) of every word, as :func:`hierarchical_softmax_loss` defines p.

    A product with all nodes in float32 (torch's), then one pass over the tree: O(B V) time and memory,
    whatever its depth. The gradient is one pass from the leaves up.

    Args:
        hidden: (B, D), float32 or bfloat16; other floating types are served by `reference`.
        node_weight: (V - 1, D), a row for each inner node.
        tree: over V words. Its order of steps is worked out by the first call and kept with it.
        backend: "cpu", "cuda", "triton" or "reference"; None = the environment variable
            PTMKERNELS_BACKEND, else the fastest that can serve.

    Returns:
        float32 (float64 for float64 inputs), (B, V); each row's exponentials sum to 1.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: the forced backend cannot serve this call; the message says why.
    """
    _check(hidden, node_weight, tree)
    refusals = kernel_refusals("hierarchical_softmax_log_prob", hidden, node_weight)
    chosen = select("hierarchical_softmax_log_prob", refusals, backend)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logits = (hidden.to(wide) @ node_weight.to(wide).T).to(wide)  # autocast makes it narrow
    if chosen == "reference":
        return reference.hierarchical_softmax_log_prob(logits, tree)
    return getattr(torch.ops.ptmkernels, LOG_PROB_KERNELS[chosen])(
        logits.contiguous(), *tree.descent
    )


def _check(hidden: Tensor, node_weight: Tensor, tree: HuffmanTree) -> None:
    check_matrix("hidden", hidden)
    check_matrix("node_weight", node_weight)
    check_type("tree", tree, HuffmanTree)
    if node_weight.shape != (tree.num_nodes, hidden.shape[1]):
        raise ValueError(
            f"node_weight has shape {tuple(node_weight.shape)}; expected (V - 1, D) = "
            f"({tree.num_nodes}, {hidden.shape[1]}) for a tree over {len(tree)} words"
        )
    check_device("node_weight", node_weight, hidden.device)
    check_device("tree", tree.offsets, hidden.device)
