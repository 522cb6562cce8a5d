"""The negative-sampling loss in plain PyTorch, as the papers write it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def negative_sampling_loss(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    log_noise: Tensor | None,
    skip_target: bool,
) -> Tensor:
    """loss_b = -log sigmoid(x_b0) - sum_n log sigmoid(-x_bn), (B,).

    x = h.w + bias - log_noise. Column 0 of `ids` (B, 1 + N) is the target, the others its negatives.
    """
    logits = (weight[ids] * hidden[:, None, :]).sum(-1)
    if bias is not None:
        logits = logits + bias[ids]
    if log_noise is not None:
        logits = logits - log_noise[ids]
    terms = -logsigmoid(-logits[:, 1:])
    if skip_target:
        terms = terms * (ids[:, 1:] != ids[:, :1])
    return terms.sum(-1) - logsigmoid(logits[:, 0])
