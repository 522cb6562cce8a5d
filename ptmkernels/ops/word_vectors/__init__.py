"""Fused training steps of word vectors: `skipgram_step_`, `cbow_step_`, `glove_step_`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ptmkernels._library import cpu_library_error, cuda_library_error
from ptmkernels._selector import select
from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree
from ptmkernels.ops.negative_sampling.sampler import AliasTable
from ptmkernels.ops.word_vectors import reference, triton_ops
from ptmkernels.ops.word_vectors.checks import (
    KERNEL_DTYPES,
    MAX_NEGATIVES,
    MAX_WINDOW,
    check_device,
    check_ids,
    check_matrix,
    check_number,
    check_tensor,
    check_type,
    check_whole,
    kernel_refusals,
)
from ptmkernels.ops.word_vectors.exact import ExactState, word2vec_exact_step_
from ptmkernels.ops.word_vectors.glove import glove_step_
from ptmkernels.ops.word_vectors.in_flight import max_in_flight as default_in_flight
from ptmkernels.ops.word_vectors.step_statistics import StepStatistics

__all__ = [
    "ExactState",
    "StepStatistics",
    "cbow_step_",
    "glove_step_",
    "keep_thresholds",
    "skipgram_step_",
    "word2vec_exact_step_",
]

MAX_POSITION = 1 << 62  # with a stream of any length after it still an int64
KERNELS = {
    "cpu": "word_vectors_step_",
    "cuda": "word_vectors_step_",
    "triton": triton_ops.STEP,
}

triton_ops.register()
_STEPS = {triton_ops.STEP: 4}  # name: size of the statistics
if cpu_library_error() is None:
    cuda_library_error()
    _STEPS |= {"word_vectors_step_": 4, "word2vec_exact_step_": 4, "glove_step_": 1}
for _name, _size in _STEPS.items():
    torch.library.register_fake(
        f"ptmkernels::{_name}",
        lambda first, *rest, _size=_size: first.new_empty((_size,), dtype=torch.float64),
    )


def keep_thresholds(probability: Tensor | np.ndarray) -> Tensor:
    """int32 (V,), the bits of min(probability, 1) * 2**32: what the steps take as `keep`.

    Args:
        probability: (V,), with which a token stays; above 1 counts as 1.
    """
    scaled = np.asarray(probability, dtype=np.float64) * 2.0**32
    if not (scaled >= 0).all():
        raise ValueError("probability holds a negative number or NaN; expected numbers >= 0")
    bits = np.minimum(scaled, 2.0**32 - 1).astype(np.uint32)
    return torch.from_numpy(bits.view(np.int32))


def skipgram_step_(
    input_weight: Tensor, output_weight: Tensor, tokens: Tensor, **options
) -> StepStatistics:
    """Train skip-gram vectors in place on a stream of words: each context word predicts the centre.

    For every kept token with a window shrunk at random, and every context word c of it: one step of
    gradient descent on the negative-sampling loss (`sampler`) or the hierarchical softmax (`tree`) of
    the centre word given input row c (Mikolov et al. 2013, equations 3 and 4). All contexts of a window
    share its negatives; tiles of 4 contexts take their products before their updates. The random
    choices depend on `seed` and the place of a token in the stream alone, the result of one thread on
    nothing else.

    Args:
        input_weight: (V, D), float32 or bfloat16, updated; with `subwords` any number of rows. bfloat16
            rows are rounded at random, so that small steps are not lost.
        output_weight: (V, D), with a tree (V - 1, D), updated; dtype of `input_weight`.
        tokens: int32 (n,): ids below V, negative ids end a sentence, and 1000 tokens do.
        window: most words to either side; the reach of each token is uniform in 1..window.
        learning_rate: at position 0 of the stream; it falls linearly to 0 at its end.
        min_learning_rate: floor of the learning rate.
        position: place of tokens[0] in the training stream (all epochs).
        total: tokens in the whole training stream.
        sampler: the noise, over V words; or
        tree: over V words.
        num_negatives: negatives for each window; those that equal the centre word are left out.
        keep: int32 (V,) from :func:`keep_thresholds`; None = no sub-sampling.
        subwords: (offsets int64 (V + 1,), rows int32): word w is the mean of the input rows
            rows[offsets[w] : offsets[w + 1]] (fastText); None = its own row.
        seed: int64 (1,).
        threads: CPU threads; with more than one the result depends on their timing, as it does on a GPU.
        max_in_flight: on a GPU at most so many stretches of text (CUDA: 64 words and a warp, Triton: 16
            words and a program) train at the same time: more are faster, and worse where they change the
            same rows. None = what keeps the quality (:mod:`ptmkernels.ops.word_vectors.in_flight`). Other
            backends, which train `threads` stretches, refuse it.
        backend: "cpu", "cuda", "triton" or "reference"; None = the environment variable
            PTMKERNELS_BACKEND, else the fastest that can serve.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: the forced backend cannot serve this call; the message says why.
    """
    return _step_(False, input_weight, output_weight, tokens, **options)


def cbow_step_(
    input_weight: Tensor, output_weight: Tensor, tokens: Tensor, **options
) -> StepStatistics:
    """Train CBOW vectors in place on a stream of words: the mean of the context predicts the centre.

    The gradient of the mean goes to every context row in full, as in word2vec.c. Arguments and errors as
    :func:`skipgram_step_`.
    """
    return _step_(True, input_weight, output_weight, tokens, **options)


def _step_(
    cbow: bool,
    input_weight: Tensor,
    output_weight: Tensor,
    tokens: Tensor,
    *,
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
    seed: Tensor,
    threads: int = 1,
    max_in_flight: int | None = None,
    backend: str | None = None,
) -> StepStatistics:
    size = _check_tables(input_weight, output_weight, sampler, tree, keep, subwords)
    _check_tokens(tokens, size, input_weight.device)
    total = max(position + len(tokens), 1) if total is None else total
    _check_numbers(
        window, learning_rate, min_learning_rate, position, total, num_negatives, threads
    )
    _check_seed(seed, input_weight.device)
    op = "cbow_step_" if cbow else "skipgram_step_"
    chosen = select(op, kernel_refusals(op, input_weight, output_weight), backend)
    _check_in_flight(max_in_flight, chosen)
    # Whoever kept a weight for a backward pass is told that it has changed.
    torch.autograd.graph.increment_version((input_weight, output_weight))
    if chosen == "reference":
        values = reference.train_step_(
            input_weight,
            output_weight,
            tokens,
            cbow=cbow,
            window=window,
            learning_rate=learning_rate,
            min_learning_rate=min_learning_rate,
            position=position,
            total=total,
            seed=seed,
            keep=keep,
            sampler=sampler,
            negatives=0 if tree else num_negatives,
            tree=tree,
            subwords=subwords,
        )
        return StepStatistics.of(values)
    workers = threads
    if chosen != "cpu":
        workers = max_in_flight or default_in_flight(
            sampler=sampler, tree=tree, window=window, num_negatives=num_negatives,
            learning_rate=learning_rate,
        )  # fmt: skip
    offsets, rows = (t.contiguous() for t in subwords) if subwords else (None, None)
    values = getattr(torch.ops.ptmkernels, KERNELS[chosen])(
        input_weight,
        output_weight,
        tokens.contiguous(),
        None if keep is None else keep.contiguous(),
        sampler.table if sampler else None,
        tree.offsets if tree else None,
        tree.path if tree else None,
        offsets,
        rows,
        int((offsets[1:] - offsets[:-1]).max()) if subwords else 1,
        cbow,
        window,
        0 if tree else num_negatives,
        learning_rate,
        min_learning_rate,
        position,
        total,
        seed,
        workers,
    )
    return StepStatistics.of(values)


def _check_tables(input_weight, output_weight, sampler, tree, keep, subwords) -> int:
    """Checks everything whose size depends on the vocabulary; returns V."""
    for name, matrix in (("input_weight", input_weight), ("output_weight", output_weight)):
        check_matrix(name, matrix, (*KERNEL_DTYPES, torch.float64))
        if any(n > 1 and s == 0 for n, s in zip(matrix.shape, matrix.stride(), strict=True)):
            raise ValueError(f"{name} is an expanded view; expected memory for each of its numbers")
    device = input_weight.device
    if output_weight.dtype != input_weight.dtype or output_weight.shape[1] != input_weight.shape[1]:
        raise ValueError(
            f"output_weight is {output_weight.dtype} with {output_weight.shape[1]} columns; "
            f"expected {input_weight.dtype} with {input_weight.shape[1]} as input_weight"
        )
    if (sampler is None) == (tree is None):
        raise ValueError("exactly one of sampler and tree is needed")
    if tree is None:
        check_type("sampler", sampler, AliasTable)
    else:
        check_type("tree", tree, HuffmanTree)
    size = len(sampler) if tree is None else len(tree)
    if size < 1:
        raise ValueError("the vocabulary is empty")
    rows = size if tree is None else tree.num_nodes
    if output_weight.shape[0] != rows:
        raise ValueError(f"output_weight has {output_weight.shape[0]} rows; expected {rows}")
    check_device("output_weight", output_weight, device)
    if sampler is not None:
        check_device("sampler", sampler.table, device)
    else:
        check_device("tree", tree.offsets, device)
    if keep is not None:
        check_tensor("keep", keep, torch.int32, (size,))
        check_device("keep", keep, device)
    if subwords is None:
        if input_weight.shape[0] != size:
            raise ValueError(f"input_weight has {input_weight.shape[0]} rows; expected {size}")
        return size
    _check_subwords(subwords, size, input_weight.shape[0], device)
    return size


def _check_subwords(subwords, size: int, rows: int, device: torch.device) -> None:
    if not isinstance(subwords, tuple) or len(subwords) != 2:
        raise TypeError(f"subwords is a {type(subwords).__name__}; expected (offsets, rows)")
    offsets, ids = subwords
    check_type("subwords[1]", ids, Tensor)
    check_tensor("subwords[0]", offsets, torch.int64, (size + 1,))
    check_device("subwords", offsets, device)
    if (int(offsets[0]), int(offsets[-1])) != (0, len(ids)):
        raise ValueError(f"subwords has offsets that do not fit {size} words and {len(ids)} rows")
    if bool((offsets[1:] <= offsets[:-1]).any()):
        raise ValueError("subwords has a word without a row; expected at least its own")
    if ids.dtype != torch.int32:
        raise TypeError(f"subwords has rows of {ids.dtype}; expected torch.int32")
    check_ids("subwords", ids, (len(ids),), rows, device)


def _check_tokens(tokens: Tensor, size: int, device: torch.device) -> None:
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int32 or tokens.dim() != 1:
        raise TypeError("tokens must be an int32 tensor of one dimension")
    check_device("tokens", tokens, device)
    if len(tokens) and tokens.device.type == "cpu" and int(tokens.max()) >= size:
        raise ValueError(f"tokens holds {int(tokens.max())}; expected ids below {size}")


def _check_numbers(window, learning_rate, floor, position, total, num_negatives, threads) -> None:
    check_number("learning_rate", learning_rate, 0.0)
    check_number("min_learning_rate", floor, 0.0)
    check_whole("window", window, 1, MAX_WINDOW)
    check_whole("num_negatives", num_negatives, 0, MAX_NEGATIVES)
    check_whole("threads", threads, 1)
    check_whole("position", position, 0, MAX_POSITION)
    check_whole("total", total, 1, MAX_POSITION)


def _check_in_flight(max_in_flight, backend: str) -> None:
    if max_in_flight is None:
        return
    if backend not in ("cuda", "triton"):
        raise ValueError(
            f"max_in_flight is {max_in_flight!r}; expected None with the backend {backend}, which trains "
            "as many stretches of text at the same time as `threads` says"
        )
    check_whole("max_in_flight", max_in_flight, 1)


def _check_seed(seed: Tensor, device: torch.device) -> None:
    if not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.numel() != 1:
        raise TypeError("seed must be an int64 tensor of one element")
    check_device("seed", seed, device)
