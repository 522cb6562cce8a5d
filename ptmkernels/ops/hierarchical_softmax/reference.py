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


def hierarchical_softmax_log_prob(logits: Tensor, tree: HuffmanTree) -> Tensor:
    """log p(w | h) of every leaf, (B, V), from logits h.v of the nodes (B, V - 1): depth by depth."""
    steps, levels = tree.descent
    log_prob = logits.new_zeros(logits.shape[0], len(tree))
    for level in steps.long().split(levels.diff().tolist()):
        node, zero, one = level.unbind(1)
        x, reach = logits[:, node], log_prob[:, zero]
        log_prob = log_prob.index_copy(1, zero, reach + logsigmoid(x))
        log_prob = log_prob.index_copy(1, one, reach + logsigmoid(-x))
    return log_prob
