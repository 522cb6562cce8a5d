"""The ops of word vectors by the CUDA kernels on the emulation."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops import AliasTable, HuffmanTree
from ptmkernels.ops.word_vectors import StepStatistics


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
    arguments = (hidden, target, weight, tree.offsets, tree.path, tree.depth)
    loss = ops.hierarchical_softmax_forward(*arguments, False)
    grads = ops.hierarchical_softmax_backward(scale_of(loss), *arguments, dense)
    return {"loss": loss, "grad_hidden": grads[0], "grad_weight": grads[1]}


def hierarchical_softmax_log_prob(
    hidden: Tensor, weight: Tensor, tree: HuffmanTree, grad: Tensor
) -> dict[str, Tensor]:
    """Log-probabilities of all words and, by `grad` of their shape, the gradient of the logits."""
    ops = torch.ops.ptmkernels_simt
    logits = hidden.float() @ weight.float().T
    log_prob = ops.hierarchical_softmax_log_prob_forward(logits, *tree.descent)
    grads = ops.hierarchical_softmax_log_prob_backward(grad, logits, *tree.descent)
    return {"log_prob": log_prob, "grad_logits": grads}


def step(
    cbow: bool,
    input_weight: Tensor,
    output_weight: Tensor,
    tokens: Tensor,
    *,
    seed: Tensor,
    window: int,
    learning_rate: float,
    min_learning_rate: float = 0.0,
    position: int = 0,
    total: int | None = None,
    sampler: AliasTable | None = None,
    tree: HuffmanTree | None = None,
    num_negatives: int = 5,
    keep: Tensor | None = None,
    subwords: tuple[Tensor, Tensor] | None = None,
    max_in_flight: int = 1 << 20,
) -> StepStatistics:
    """As :func:`ptmkernels.ops.cbow_step_` or, without `cbow`, ``skipgram_step_``."""
    values = torch.ops.ptmkernels_simt.word_vectors_step_(
        *(input_weight, output_weight, tokens, keep),
        *(sampler.table if sampler else None, None if sampler else tree.offsets),
        *(None if sampler else tree.path, *(subwords or (None, None)), 1, cbow, window),
        *(num_negatives if sampler else 0, learning_rate, min_learning_rate, position),
        *(position + len(tokens) if total is None else total, seed, max_in_flight),
    )
    return StepStatistics.of(values)
