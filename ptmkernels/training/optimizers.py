"""Optimizers by name, with weight decay where the papers have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ptmkernels.training.lamb import Lamb

__all__ = ["OPTIMIZERS", "create_optimizer", "parameter_groups"]

OPTIMIZERS = ("adamw", "lamb", "adafactor")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases and norms, which have one dimension, without (BERT)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


def create_optimizer(
    name: str,
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-6,
) -> Optimizer:
    """An optimizer of the model's parameters.

    Args:
        name: "adamw" (Loshchilov & Hutter 2019), "lamb" (You et al. 2020) or "adafactor" (Shazeer & Stern
            2018; takes no betas and no epsilon).
        model: whose parameters are trained.
        learning_rate: the peak rate.
        weight_decay: of the matrices.
        betas, epsilon: of Adam and LAMB; BERT's epsilon is 1e-6.

    Raises:
        ValueError: the name is unknown, or a number is out of range.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=True)
    if name == "lamb":
        return Lamb(groups, lr=learning_rate, betas=betas, eps=epsilon)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=learning_rate)
    raise ValueError(f"optimizer is {name!r}; expected one of {', '.join(OPTIMIZERS)}")
