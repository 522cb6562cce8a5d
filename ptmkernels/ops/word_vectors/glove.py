"""GloVe's training steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.word_vectors.checks import check_ids, check_number

__all__ = ["glove_step_"]


def glove_step_(
    parameters: dict[str, Tensor],
    rows: Tensor,
    columns: Tensor,
    values: Tensor,
    *,
    learning_rate: float = 0.05,
    x_max: float = 100.0,
    power: float = 0.75,
    threads: int = 1,
) -> float:
    """One AdaGrad step of GloVe for each pair, in order, in place; returns the summed loss f d^2 / 2.

    Pennington et al. 2014, equation 8, with the published details: vector gradients are clipped to
    +-100, sums of squares start at 1, and the steps of the biases are not multiplied by the learning rate.

    Args:
        parameters: word, context (V, D), word_bias, context_bias (V,), and word_sums, context_sums,
            word_bias_sums, context_bias_sums of the same shapes; all float32 or all float64, contiguous.
        rows, columns: int32 (n,), ids below V.
        values: float64 (n,), counts above 0.
        learning_rate, x_max, power: eta, and those of the weighting (X / x_max) ** power.
        threads: with more than one the result depends on their timing.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    names = ("word", "context", "word_bias", "context_bias")
    ordered = [parameters[n] for n in (*names, *(f"{n}_sums" for n in names))]
    shape = ordered[0].shape
    for name, tensor in zip((*names, *(f"{n}_sums" for n in names)), ordered, strict=True):
        expected = shape[:1] if "bias" in name else shape
        if tensor.dtype != ordered[0].dtype or tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{name} has dtype {tensor.dtype}; expected one of float32 and float64 for all"
            )
        if tensor.shape != expected or not tensor.is_contiguous():
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected {tuple(expected)}, contiguous"
            )
    check_number("learning_rate", learning_rate, 0.0)
    check_number("x_max", x_max, 0.0, above=True)
    count = (len(values),)
    check_ids("rows", rows, count, shape[0], ordered[0].device)
    check_ids("columns", columns, count, shape[0], ordered[0].device)
    if values.dtype != torch.float64 or (len(values) and not float(values.min()) > 0):
        raise ValueError("values must be float64 numbers above 0")
    loss = torch.ops.ptmkernels.glove_step_(
        *ordered,
        rows.to(torch.int32).contiguous(),
        columns.to(torch.int32).contiguous(),
        values.contiguous(),
        learning_rate,
        x_max,
        power,
        max(threads, 1),
    )
    return float(loss)
