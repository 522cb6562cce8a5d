"""What the gradients of attention need of each query, in Triton: its log-sum-exp and delta."""

from __future__ import annotations

import triton
import triton.language as tl

from ptmkernels.ops.attention.triton_tile import (
    LOG2_E,
    Rows,
    Sizes,
    head_start,
    load_rows,
    rows_in_all,
)


@triton.jit
def make_row_terms(
    output, grad_rows, lse, grad_lse, row_terms, b, h, first_query, sizes,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, NATURAL: tl.constexpr,
):  # fmt: skip
    """What the gradients need of each query of a block, also written to `row_terms`.

    Args:
        grad_rows: (BLOCK_M, BLOCK_D), do of the block.
        NATURAL: the log-sum-exp stays as it is, for calls with a bias: to the base 2 a large one overflows.

    Returns:
        (lse, to the base 2 unless NATURAL, +inf where the query saw nothing; delta), (BLOCK_M,) both.
    """
    output_rows = load_rows(
        head_start(output, b, h, first_query), output.row, sizes.query_len - first_query,
        HEAD_DIM, BLOCK_M, BLOCK_D, True,
    )  # fmt: skip
    own = first_query + tl.arange(0, BLOCK_M)
    inside = own < sizes.query_len
    place = (b * sizes.heads + h) * sizes.query_len + own
    row_lse = tl.load(lse + place, mask=inside, other=float("-inf"))
    row_lse = tl.where(row_lse == float("-inf"), float("inf"), row_lse)
    if not NATURAL:
        row_lse = row_lse * LOG2_E
    delta = tl.sum(output_rows.to(tl.float32) * grad_rows.to(tl.float32), 1)
    if grad_lse is not None:
        delta = delta - tl.load(grad_lse + place, mask=inside, other=0.0)
    tl.store(row_terms + place, row_lse, mask=inside)
    tl.store(row_terms + rows_in_all(sizes) + place, delta, mask=inside)
    return row_lse, delta


@triton.jit
def _row_terms(
    output: Rows,
    grad_output: Rows,
    lse,  # (B, H, L) float32
    grad_lse,  # (B, H, L) float32 or None
    row_terms,  # (2, B, H, L) float32, written: lse and delta of `make_row_terms`
    sizes: Sizes,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NATURAL: tl.constexpr,
):
    """The two numbers of each query that `_backward_key` needs; one program for BLOCK queries of a head."""
    tiles = tl.cdiv(sizes.query_len, BLOCK)
    program = tl.program_id(0)
    first_query = program % tiles * BLOCK
    h = (program // tiles % sizes.heads).to(tl.int64)
    b = (program // tiles // sizes.heads).to(tl.int64)
    grad_rows = load_rows(
        head_start(grad_output, b, h, first_query), grad_output.row, sizes.query_len - first_query,
        HEAD_DIM, BLOCK, BLOCK_D, True,
    )  # fmt: skip
    make_row_terms(
        output, grad_rows, lse, grad_lse, row_terms, b, h, first_query, sizes,
        HEAD_DIM, BLOCK, BLOCK_D, NATURAL,
    )  # fmt: skip
