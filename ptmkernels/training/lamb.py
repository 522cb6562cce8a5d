"""LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2): Adam whose step is scaled tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Lamb"]


class Lamb(Optimizer):
    """w ← w − lr · ‖w‖ / ‖u‖ · u,  u = m̂ / (√v̂ + eps) + weight_decay · w, with Adam's m̂ and v̂.

    The ratio is 1 where a norm is 0, and for groups without weight decay (biases and norms), as in the
    released code; φ of the paper is the identity.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the root of the second.
        weight_decay: λ.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"{name} is {value}; expected a number >= 0")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas is {betas}; expected 0 <= beta < 1")
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            # A tensor, as torch's own optimizers have it, so that it is saved with the moments.
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        done = state["step"].item()
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(weight.grad, 1.0 - beta1)
        square = (
            state["exp_avg_sq"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1.0 - beta2)
        )
        root = (square / (1.0 - beta2**done)).sqrt_().add_(group["eps"])
        update = (mean / (1.0 - beta1**done)).div_(root)
        if group["weight_decay"]:
            update.add_(weight, alpha=group["weight_decay"])
            update.mul_(_trust_ratio(weight, update))
        weight.sub_(update, alpha=group["lr"])


def _trust_ratio(weight: Tensor, update: Tensor) -> Tensor:
    """‖w‖ / ‖u‖, or 1 where one is 0; a scalar on the device."""
    weight_norm, update_norm = weight.norm(), update.norm()
    usable = (weight_norm > 0) & (update_norm > 0)
    return torch.where(usable, weight_norm / update_norm, 1.0)
