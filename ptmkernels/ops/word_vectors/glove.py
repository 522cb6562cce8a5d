"""The fused AdaGrad step of GloVe: `glove_step_`."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels.ops.word_vectors.checks import (
    check_device,
    check_ids,
    check_matrix,
    check_number,
    check_tensor,
    check_type,
    check_whole,
)

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
    ordered = _glove_parameters(parameters)
    check_number("learning_rate", learning_rate, 0.0)
    check_number("x_max", x_max, 0.0, above=True)
    check_number("power", power, 0.0)
    check_whole("threads", threads, 1)
    check_type("values", values, Tensor)
    count, size = (values.numel(),), len(ordered[0])
    check_tensor("values", values, torch.float64, count)
    for name, ids in (("rows", rows), ("columns", columns)):
        check_ids(name, ids, count, size, ordered[0].device)
    check_device("values", values, ordered[0].device)
    if len(values) and not float(values.min()) > 0:
        raise ValueError("values must be numbers above 0")
    loss = torch.ops.ptmkernels.glove_step_(
        *ordered,
        rows.to(torch.int32).contiguous(),
        columns.to(torch.int32).contiguous(),
        values.contiguous(),
        learning_rate,
        x_max,
        power,
        threads,
    )
    return float(loss)


def _glove_parameters(parameters: dict[str, Tensor]) -> list[Tensor]:
    """The checked tensors in the order of the op."""
    names = ("word", "context", "word_bias", "context_bias")
    names = (*names, *(f"{name}_sums" for name in names))
    if missing := [name for name in names if name not in parameters]:
        raise ValueError(f"parameters has no {', '.join(missing)}")
    word = parameters["word"]
    check_matrix("word", word, (torch.float32, torch.float64))
    check_device("word", word, torch.device("cpu"))
    for name in names:
        tensor, shape = parameters[name], word.shape[:1] if "bias" in name else word.shape
        check_type(name, tensor, Tensor)
        if tensor.dtype != word.dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected {word.dtype} as word")
        if tensor.shape != shape or not tensor.is_contiguous():
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected {tuple(shape)}, contiguous"
            )
        check_device(name, tensor, word.device)
    return [parameters[name] for name in names]
