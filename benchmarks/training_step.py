"""A training step of two models with the same weights, as functions of those weights.

A step is the loss and its gradients; what an optimizer does with them is the same for both. Dropout is off,
or no two answers would be alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ptmkernels.benchmarks.harness import BOTH, Case
from ptmkernels.benchmarks.machine import Work

SERIES = "training"


def weights_of(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of the weights as leaves: no provider may change another's."""
    return {name: p.detach().to(dtype, copy=True) for name, p in model.named_parameters()}


def step_of(
    model: nn.Module,
    batch: Mapping[str, object],
    result: Callable[[object], Tensor],
    names: Mapping[str, str] | None = None,
) -> Callable[..., Tensor]:
    """`result` of what the model makes of the batch, as a function of the weights.

    Args:
        names: those of the model's weights, by those of the function's arguments; None = the same.
    """

    def step(**weights: Tensor) -> Tensor:
        named = {(names or {}).get(name, name): weight for name, weight in weights.items()}
        return result(functional_call(model, named, (), dict(batch)))

    return step


def step_case(
    shape: dict[str, int],
    dtype: torch.dtype,
    model: nn.Module,
    reference: Callable[..., Tensor],
    setup: object,
    layers: int,
    operations: float,
) -> Case:
    """A case of one mode, forward and backward; its size is L, its depth that of the model.

    Args:
        operations: floating-point operations of the forward pass.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters()).device
    return Case(
        *(SERIES, shape["L"], shape, dtype, device),
        inputs=lambda: weights_of(model, dtype),
        reference=reference,
        work={BOTH: Work(3 * operations, 3.0 * weights * dtype.itemsize)},
        setup=setup,
        modes=(BOTH,),
        depth=layers,
    )


def matrix_weights(model: nn.Module) -> int:
    """Weights of the layers that every token is multiplied by."""
    return sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1 and "layer" in n)
