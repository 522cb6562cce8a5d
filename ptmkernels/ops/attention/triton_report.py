"""What Triton's compiler makes of the default attention kernels, for any architecture, without a GPU.

    python -m ptmkernels.ops.attention.triton_report sm_90 gfx942 --head-dim 64 128 --dtype bfloat16

prints, for each kernel, its tile, registers, spilled bytes, shared memory and matrix instructions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import triton_launch
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions, BucketedBias
from ptmkernels.ops.triton_runtime import CompiledKernel, compile_for

# Instructions that multiply matrices, by the beginning of their names: tensor cores of sm_80, sm_90 and
# sm_100, matrix cores of AMD.
MATRIX = ("HMMA", "HGMMA", "UTCHMMA", "v_mfma")
# Calls by name; each says which options its scores have.
CALLS = (
    *("plain", "causal", "dropout", "bias", "table", "dense mask", "every option"),
    *("one tile", "one query"),  # sizes of 1, which Triton compiles in as constants
)


def compiled_kernels(
    target: str,
    call: str = "causal",
    head_dim: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    backward: bool = True,
) -> list[CompiledKernel]:
    """The kernels of one forward and, unless `backward` is false, one backward call with default tiles.

    Args:
        target: as in :func:`ptmkernels.ops.triton_runtime.compile_for`.
        call: one of ``CALLS``.
        head_dim: D.
        dtype: of query, key and value.
    """
    batch, heads, key_len = (1, 1, 40) if call == "one tile" else (2, 2, 256)
    query_len = 1 if call == "one query" else key_len
    query = torch.zeros(batch, heads, query_len, head_dim, dtype=dtype)
    key = torch.zeros(batch, heads, key_len, head_dim, dtype=dtype)
    lse = torch.zeros(query.shape[:3])
    options = _options(call, heads, query_len, key_len, dtype)
    with compile_for(target) as kernels:
        triton_launch.attention_forward(query, key, key, *options)
        if backward and call != "one query":
            given = (getattr(options, name) is not None for name in DIFFERENTIABLE)
            wanted = sum(each << place for place, each in enumerate(given))
            triton_launch.attention_backward(
                *(query, None, query, key, key, query, lse), *options, wanted
            )
    return kernels


def _options(
    call: str, heads: int, query_len: int, key_len: int, dtype: torch.dtype
) -> AttentionOptions:
    everything = call == "every option"
    mask = None if call == "plain" else AttentionMask.causal(query_len, key_len)
    if call == "dense mask" or everything:
        allowed = torch.ones(1, 1, query_len, key_len, dtype=torch.bool)
        branches = torch.zeros(1, 3, key_len, dtype=torch.int32) if everything else None
        mask = AttentionMask(
            mask.key_rank, mask.query_low, mask.query_high, branches=branches, allowed=allowed
        )
    bias = None
    if call == "bias" or everything:
        bias = torch.zeros(1, heads, query_len, key_len, dtype=dtype)
    elif call in ("table", "one tile"):
        bias = BucketedBias.t5(torch.zeros(32, heads), query_len, key_len)
    dropout_p = 0.1 if call == "dropout" or everything else 0.0
    query = torch.zeros(1, heads, query_len, 1, dtype=dtype)
    seed = torch.zeros(1, dtype=torch.int64)
    return AttentionOptions.of(query, mask, bias, 0.125, dropout_p, seed)


def matrix_instructions(kernel: CompiledKernel) -> int:
    """How many matrix instructions stand in the machine code."""
    return sum(n for name, n in kernel.instructions.items() if name.startswith(MATRIX))


def rows(kernels: list[CompiledKernel]) -> Iterator[str]:
    """One line of a Markdown table for each kernel."""
    for kernel in kernels:
        blocks = [
            str(v) for k, v in kernel.constants.items() if k.startswith("BLOCK") and k != "BLOCK_D"
        ]
        yield (
            f"| {kernel.target} | {kernel.name} | {' x '.join(blocks)} | {kernel.warps} | "
            f"{kernel.registers} | {kernel.spilled_bytes} | {kernel.shared_bytes} | "
            f"{matrix_instructions(kernel)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", default=["sm_80", "sm_90", "sm_100", "gfx942"])
    parser.add_argument("--head-dim", type=int, nargs="+", default=[64])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--call", nargs="+", default=["causal"], choices=CALLS)
    arguments = parser.parse_args()
    print(
        "| target | kernel | blocks | warps | registers | spilled bytes | shared bytes | matrix |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for target in arguments.targets:
        for head_dim in arguments.head_dim:
            for call in arguments.call:
                print(f"| {target}, D = {head_dim}, {arguments.dtype}, {call} | | | | | | | |")
                dtype = getattr(torch, arguments.dtype)
                for row in rows(compiled_kernels(target, call, head_dim, dtype)):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
