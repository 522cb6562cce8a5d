"""Negative sampling and noise-contrastive estimation: `negative_sampling_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from ptmkernels._library import cpu_library_error, cuda_library_error
from ptmkernels._selector import select
from ptmkernels.ops.negative_sampling import autograd, reference, triton_ops
from ptmkernels.ops.negative_sampling.sampler import AliasTable
from ptmkernels.ops.word_vectors.checks import (
    check_device,
    check_ids,
    check_matrix,
    check_reduction,
    check_type,
    check_whole,
    kernel_refusals,
    reduce,
    values_are_read,
)

__all__ = ["AliasTable", "negative_sampling_loss"]

KERNELS = {
    "cpu": "negative_sampling_forward",
    "cuda": "negative_sampling_forward",
    "triton": triton_ops.FORWARD,
}

if cpu_library_error() is None:
    cuda_library_error()
    autograd.register("negative_sampling_forward", "negative_sampling_backward")
triton_ops.register()


def negative_sampling_loss(
    hidden: Tensor,
    target: Tensor,
    output_weight: Tensor,
    negatives: Tensor | None = None,
    *,
    sampler: AliasTable | None = None,
    num_negatives: int = 5,
    seed: Tensor | None = None,
    bias: Tensor | None = None,
    nce: bool = False,
    skip_target: bool | None = None,
    sparse: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """-log sigmoid(h.w_t) - sum_n log sigmoid(-h.w_n): a softmax replaced by N + 1 decisions.

    Mikolov et al. 2013 ("Distributed representations of words and phrases"), equation 4. With `nce` the
    logits are h.w + b - log(N P(w)), so that the model learns normalised probabilities (Mnih and Teh
    2012, equation 8).

    Args:
        hidden: (B, D), float32 or bfloat16; other floating types are served by `reference`.
        target: (B,) int64 or int32, ids below V.
        output_weight: (V, D).
        negatives: ids (B, N), or (N,) for all rows; or None and a sampler.
        sampler: the noise; N = `num_negatives` ids for each row are drawn in the kernel.
        num_negatives: N where a sampler draws.
        seed: int64 (1,) on the device of `hidden`, the key of the draws, the same in every backend;
            None = drawn from torch's generator.
        bias: (V,) float32, added to the logits.
        nce: noise-contrastive estimation; needs a sampler (with given negatives: the distribution that
            they were drawn from).
        skip_target: leave out negatives that equal the target, as word2vec.c does; None = not with nce.
        sparse: the gradient of `output_weight` is a sparse tensor of B (1 + N) rows.
        reduction: "none" gives (B,), else "mean" or "sum".
        backend: "cpu", "cuda", "triton" or "reference"; None = the environment variable
            PTMKERNELS_BACKEND, else the fastest that can serve.

    Returns:
        float32 (float64 for float64 inputs), (B,) or one number.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: the forced backend cannot serve this call; the message says why.
    """
    _check(hidden, target, output_weight, negatives, sampler, num_negatives, seed, bias, nce)
    check_reduction(reduction)
    batch, device = hidden.shape[0], hidden.device
    if negatives is not None:
        negatives = negatives.to(torch.int64).expand(batch, -1).contiguous()
        num_negatives = negatives.shape[1]
    elif seed is None:
        seed = torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)
    skip_target = not nce if skip_target is None else skip_target
    log_noise = None
    if nce:
        log_noise = (sampler.probabilities.double() * max(num_negatives, 1)).log().float()
    target = target.to(torch.int64).contiguous()
    refusals = kernel_refusals("negative_sampling_loss", hidden, output_weight)
    chosen = select("negative_sampling_loss", refusals, backend)
    if chosen == "reference":
        if negatives is None:
            negatives = sampler.sample((batch, num_negatives), seed)
        ids = torch.cat([target[:, None], negatives], 1)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        loss = reference.negative_sampling_loss(
            hidden.to(wide), output_weight.to(wide), ids, bias, log_noise, skip_target
        )
        return reduce(loss, reduction)
    loss, _, _ = getattr(torch.ops.ptmkernels, KERNELS[chosen])(
        hidden.contiguous(),
        target,
        output_weight if output_weight.stride(1) == 1 else output_weight.contiguous(),
        negatives,
        sampler.table if negatives is None else None,
        seed if negatives is None else None,
        num_negatives,
        None if bias is None else bias.float().contiguous(),
        log_noise,
        skip_target,
        sparse,
    )
    return reduce(loss, reduction)


def _check(hidden, target, weight, negatives, sampler, num_negatives, seed, bias, nce) -> None:
    check_matrix("hidden", hidden)
    check_matrix("output_weight", weight)
    (batch, width), size, device = hidden.shape, weight.shape[0], hidden.device
    if weight.shape[1] != width:
        raise ValueError(f"output_weight has {weight.shape[1]} columns; expected {width} as hidden")
    if size == 0:
        raise ValueError("output_weight has no rows: the vocabulary is empty")
    check_device("output_weight", weight, device)
    check_ids("target", target, (batch,), size, device)
    if (negatives is None) == (sampler is None) and not nce:
        raise ValueError("exactly one of negatives and sampler is needed")
    if nce and sampler is None:
        raise ValueError("nce needs a sampler: the noise probabilities are in the logits")
    for name, value, kind in (
        ("negatives", negatives, Tensor),
        ("sampler", sampler, AliasTable),
        ("seed", seed, Tensor),
        ("bias", bias, Tensor),
    ):
        if value is not None:
            check_type(name, value, kind)
    if sampler is not None:
        if len(sampler) != size:
            raise ValueError(
                f"sampler is over {len(sampler)} ids; expected {size} as output_weight"
            )
        check_device("sampler", sampler.table, device)
    if negatives is None:
        check_whole("num_negatives", num_negatives, 0)
    else:
        count = tuple(negatives.shape[-1:])
        shape = count if negatives.dim() == 1 else (batch, *count)
        check_ids("negatives", negatives, shape, size, device)
    if seed is not None and (seed.dtype != torch.int64 or seed.numel() != 1):
        raise TypeError("seed must be an int64 tensor of one element")
    if bias is not None and (
        bias.dtype not in (torch.float32, torch.float64) or bias.shape != (size,)
    ):
        raise ValueError(f"bias is {bias.dtype} {tuple(bias.shape)}; expected float32 ({size},)")
    for name, value in (("seed", seed), ("bias", bias)):
        if value is not None:
            check_device(name, value, device)
    if nce and values_are_read(device) and not bool((sampler.probabilities > 0).all()):
        raise ValueError("nce needs a sampler that gives every word a probability above 0")
