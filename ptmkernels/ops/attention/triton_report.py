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
    # XLNet's terms; the same with given positions, of any kind or those of two streams; with relative values
    # and dropout
    *("relative", "positions", "two streams", "relative values"),
)


def compiled_kernels(
    target: str,
    call: str = "causal",
    head_dim: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    backward: bool = True,
    length: int = 256,
    deterministic: bool = False,
) -> list[CompiledKernel]:
    """The kernels of one forward and, unless `backward` is false, one backward call with default tiles.

    Args:
        target: as in :func:`ptmkernels.ops.triton_runtime.compile_for`.
        call: one of ``CALLS``.
        head_dim: D.
        dtype: of query, key and value.
        length: S, and L unless the call has one query.
        deterministic: the pair of backward kernels instead of the fused one.
    """
    batch, heads, key_len = (1, 1, 40) if call == "one tile" else (2, 2, length)
    query_len = 1 if call == "one query" else key_len
    query = torch.zeros(batch, heads, query_len, head_dim, dtype=dtype)
    key = torch.zeros(batch, heads, key_len, head_dim, dtype=dtype)
    lse = torch.zeros(query.shape[:3])
    options = _options(call, query, key_len)
    with compile_for(target) as kernels:
        triton_launch.attention_forward(query, key, key, *options)
        if backward and call != "one query":
            given = (getattr(options, name) is not None for name in DIFFERENTIABLE)
            wanted = sum(each << place for place, each in enumerate(given))
            before = torch.are_deterministic_algorithms_enabled()
            torch.use_deterministic_algorithms(deterministic)
            try:
                triton_launch.attention_backward(
                    *(query, None, query, key, key, query, lse), *options, wanted
                )
            finally:
                torch.use_deterministic_algorithms(before)
    return kernels


def _options(call: str, query: torch.Tensor, key_len: int) -> AttentionOptions:
    _, heads, query_len, _ = query.shape
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
        bias = query.new_zeros(1, heads, query_len, key_len)
    elif call in ("table", "one tile"):
        bias = BucketedBias.t5(torch.zeros(32, heads), query_len, key_len)
    dropout_p = 0.1 if call in ("dropout", "relative values") or everything else 0.0
    relative = call in ("relative", "positions", "two streams", "relative values")
    terms = _relative_terms(call, query, key_len) if relative else {}
    seed = torch.zeros(1, dtype=torch.int64)
    return AttentionOptions.of(query, mask, bias, None, dropout_p, seed, **terms)


def _relative_terms(call: str, query: torch.Tensor, key_len: int) -> dict:
    _, heads, query_len, head_dim = query.shape
    table = query.new_zeros(1, heads, query_len + key_len, head_dim)
    vector = query.new_zeros(heads, head_dim)
    terms = {"relative_key": table, "relative_offset": query_len}
    terms |= dict.fromkeys(("content_bias", "position_bias", "segment_bias"), vector)
    terms["segment_key"] = query.new_zeros(2, heads, head_dim)
    for name, length in (("query_segment", query_len), ("key_segment", key_len)):
        terms[name] = torch.zeros(1, length, dtype=torch.int32)
    if call == "relative values":
        terms["relative_value"] = table
    if call in ("positions", "two streams"):
        terms["query_position"] = torch.zeros(1, query_len, dtype=torch.int32)
    if call == "two streams":
        terms["gapless_positions"] = key_len
    return terms


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
    parser.add_argument("--deterministic", action="store_true", help="the pair of backward kernels")
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
                pair = arguments.deterministic
                kernels = compiled_kernels(target, call, head_dim, dtype, deterministic=pair)
                for row in rows(kernels):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
