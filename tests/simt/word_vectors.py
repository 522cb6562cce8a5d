"""The losses of word vectors by the CUDA kernels on the emulation, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops import HuffmanTree


def scale_of(loss: Tensor) -> Tensor:
    """The gradient that comes in: another one for each row."""
    return torch.linspace(0.5, 2, len(loss), dtype=loss.dtype)


def negative_sampling(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    negatives: Tensor | None = None,
    *,
    alias: Tensor | None = None,
    seed: Tensor | None = None,
    num_negatives: int = 5,
    bias: Tensor | None = None,
    log_noise: Tensor | None = None,
    skip_target: bool = True,
    dense: bool = True,
) -> dict[str, Tensor]:
    """Loss, ids, and the gradients of a weighted sum of the loss, by name."""
    ops = torch.ops.ptmkernels_simt
    count = num_negatives if negatives is None else negatives.shape[1]
    loss, coefficient, ids = ops.negative_sampling_forward(
        hidden, target, weight, negatives, alias, seed, count, bias, log_noise, skip_target, False
    )
    grads = ops.negative_sampling_backward(scale_of(loss), hidden, weight, coefficient, ids, dense)
    names = ("grad_hidden", "grad_weight", "grad_bias")
    return {"loss": loss, "ids": ids, **dict(zip(names, grads, strict=True))}


def hierarchical_softmax(
    hidden: Tensor, target: Tensor, weight: Tensor, tree: HuffmanTree, *, dense: bool = True
) -> dict[str, Tensor]:
    """Loss and the gradients of a weighted sum of it, by name."""
    ops = torch.ops.ptmkernels_simt
    arguments = (hidden, target, weight, tree.offsets, tree.path)
    loss = ops.hierarchical_softmax_forward(*arguments, False)
    grads = ops.hierarchical_softmax_backward(scale_of(loss), *arguments, dense)
    return {"loss": loss, "grad_hidden": grads[0], "grad_weight": grads[1]}
