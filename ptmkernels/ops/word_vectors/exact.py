"""word2vec.c's training, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree
from ptmkernels.ops.word_vectors.checks import check_ids, check_matrix, check_number
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
        noise_ends: from ``reference.noise_ends(counts)``; or
        tree: over V words.
    """
    check_matrix("input_weight", input_weight, (torch.float32,))
    check_matrix("output_weight", output_weight, (torch.float32,))
    size = len(counts)
    if (noise_ends is None) == (tree is None):
        raise ValueError("exactly one of noise_ends and tree is needed")
    if size < 2:
        raise ValueError(f"counts has {size} words; expected at least 2 (word 0 ends a sentence)")
    rows = size if tree is None else tree.num_nodes
    if input_weight.shape[0] != size or output_weight.shape[0] != rows:
        raise ValueError(
            f"input_weight and output_weight have {input_weight.shape[0]} and "
            f"{output_weight.shape[0]} rows; expected {size} and {rows}"
        )
    check_number("learning_rate", learning_rate, 0.0)
    check_ids("tokens", tokens, (len(tokens),), size, input_weight.device)
    values = torch.ops.ptmkernels.word2vec_exact_step_(
        input_weight,
        output_weight,
        tokens.to(torch.int32).contiguous(),
        counts.to(torch.int64).contiguous(),
        state.values,
        noise_ends,
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
