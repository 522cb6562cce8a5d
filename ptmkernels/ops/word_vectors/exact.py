"""word2vec.c's training, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree
from ptmkernels.ops.word_vectors.checks import (
    MAX_NEGATIVES,
    MAX_WINDOW,
    check_device,
    check_ids,
    check_matrix,
    check_number,
    check_tensor,
    check_type,
    check_whole,
)
from ptmkernels.ops.word_vectors.step_statistics import StepStatistics

__all__ = ["ExactState", "word2vec_exact_step_"]


@dataclass
class ExactState:
    """What word2vec.c keeps between sentences: its generator and its counts of words.

    Attributes:
        values: int64 (4,): generator, words since the learning rate changed, words before, and those at
            its last change.
    """

    values: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.int64))

    def end_epoch(self) -> None:
        self.values[2] += self.values[1]
        self.values[1] = 0


def word2vec_exact_step_(
    input_weight: Tensor,
    output_weight: Tensor,
    tokens: Tensor,
    *,
    counts: Tensor,
    state: ExactState,
    cbow: bool,
    window: int,
    learning_rate: float,
    epochs: int,
    num_negatives: int = 5,
    sample: float = 1e-3,
    noise_ends: Tensor | None = None,
    tree: HuffmanTree | None = None,
) -> StepStatistics:
    """word2vec.c on one thread, operation by operation: to compare with, not to be fast.

    Args:
        input_weight, output_weight: (V, D) and (V, D) or (V - 1, D), float32 with columns together.
        tokens: int32 (n,); id 0 is the end of a sentence. What follows the last 0 is counted, not trained.
        counts: int64 (V,), of the training text, ends of sentences included.
        state: carried from call to call.
        cbow, window, learning_rate, epochs, num_negatives, sample: as the tool's options.
        noise_ends: int64 (V,), from ``reference.noise_ends(counts)``; or
        tree: over V words.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    size = _check_exact_tables(input_weight, output_weight, counts, noise_ends, tree)
    check_whole("window", window, 1, MAX_WINDOW)
    check_whole("epochs", epochs, 1)
    check_whole("num_negatives", num_negatives, 0, MAX_NEGATIVES)
    for name, value in (("learning_rate", learning_rate), ("sample", sample)):
        check_number(name, value, 0.0)
    check_type("tokens", tokens, Tensor)
    check_ids("tokens", tokens, (len(tokens),), size, input_weight.device)
    values = torch.ops.ptmkernels.word2vec_exact_step_(
        input_weight,
        output_weight,
        tokens.to(torch.int32).contiguous(),
        counts.to(torch.int64).contiguous(),
        state.values,
        None if noise_ends is None else noise_ends.contiguous(),
        tree.offsets if tree else None,
        tree.path if tree else None,
        cbow,
        window,
        num_negatives,
        sample,
        learning_rate,
        int(counts.sum()),
        epochs,
    )
    return StepStatistics.of(values)


def _check_exact_tables(input_weight, output_weight, counts, noise_ends, tree) -> int:
    """Checks what depends on the vocabulary; returns V."""
    check_type("counts", counts, Tensor)
    size = len(counts)
    check_tensor("counts", counts, torch.int64, (size,))
    if size < 2:
        raise ValueError(f"counts has {size} words; expected at least 2 (word 0 ends a sentence)")
    if not bool((counts >= 0).all()) or not bool(counts.any()):
        raise ValueError("counts must be numbers >= 0, not all 0")
    if (noise_ends is None) == (tree is None):
        raise ValueError("exactly one of noise_ends and tree is needed")
    if tree is None:
        check_tensor("noise_ends", noise_ends, torch.int64, (size,))
    else:
        check_type("tree", tree, HuffmanTree)
        if len(tree) != size:
            raise ValueError(f"tree is over {len(tree)} words; expected {size} as counts")
    check_matrix("input_weight", input_weight, (torch.float32,))
    expected = {"input_weight": size, "output_weight": size if tree is None else tree.num_nodes}
    for name, matrix in (("input_weight", input_weight), ("output_weight", output_weight)):
        check_matrix(name, matrix, (torch.float32,))
        check_device(name, matrix, counts.device)
        shape = (expected[name], input_weight.shape[1])
        if matrix.shape != shape or matrix.stride(1) != 1:
            raise ValueError(
                f"{name} has shape {tuple(matrix.shape)}; expected {shape} with columns together"
            )
    return size
