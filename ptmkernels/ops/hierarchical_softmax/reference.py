"""The hierarchical softmax in plain PyTorch, as the papers write it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree


def hierarchical_softmax_loss(
    hidden: Tensor, target: Tensor, node_weight: Tensor, tree: HuffmanTree
) -> Tensor:
    """loss_b = - sum_t log sigmoid(sign_t h_b.v_t) along the path of target b, (B,)."""
    row, node, sign = tree.entries(target)
    steps = logsigmoid(sign * (hidden[row] * node_weight[node]).sum(-1))
    return torch.zeros_like(hidden[:, 0]).index_add(0, row, -steps)


def hierarchical_softmax_log_prob(hidden: Tensor, node_weight: Tensor, tree: HuffmanTree) -> Tensor:
    """log p(w | h) of every leaf, (B, V): sums along the paths, node by node from the root."""
    batch, size = hidden.shape[0], len(tree)
    if size == 1:
        return hidden.new_zeros(batch, 1)
    logits = hidden @ node_weight.T
    both = torch.stack([logsigmoid(logits), logsigmoid(-logits)])  # of bit 0 and bit 1
    up, sign = tree.above
    # log p of reaching each inner node, depth by depth.
    reach = hidden.new_zeros(batch, size - 1)
    depth = _depths(up)
    for level in range(1, int(depth.max()) + 1):
        nodes = torch.nonzero(depth == level)[:, 0]
        step = both[(sign[nodes] < 0).long(), :, up[nodes]].T
        reach = reach.index_copy(1, nodes, reach[:, up[nodes]] + step)
    last = tree.path[tree.offsets[1:] - 1]
    node, bit = (last >> 1).long(), (last & 1).long()
    return reach[:, node] + both[bit, :, node].T


def _depths(up: Tensor) -> Tensor:
    """Steps from the root to each inner node."""
    depth = torch.zeros_like(up)
    at = up.clone()
    while bool((at >= 0).any()):
        inside = at >= 0
        depth += inside
        at = torch.where(inside, up[at.clamp(min=0)], at)
    return depth
