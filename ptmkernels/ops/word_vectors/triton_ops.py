"""The torch op of the Triton backend: the schema of the fused training step under another name."""

from __future__ import annotations

from ptmkernels.ops import triton_library

STEP = "triton_word_vectors_step_"


def register() -> None:
    """Define the op and its kernels."""
    triton_library.define(
        f"{STEP}(Tensor(a!) input_weight, Tensor(b!) output_weight, Tensor tokens, Tensor? keep, "
        "Tensor? alias, Tensor? tree_offsets, Tensor? tree_path, Tensor? subword_offsets, "
        "Tensor? subwords, int max_subwords, bool cbow, int window, int negatives, "
        "float learning_rate, float min_learning_rate, int position, int total, Tensor seed, "
        "int workers) -> Tensor statistics",
        "ptmkernels.ops.word_vectors.triton_step",
    )
