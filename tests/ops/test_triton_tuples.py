"""Constants in tuples within tuples, which Triton 3.6 forgets behind a loop, compiled ahead of time."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ptmkernels.ops.triton_runtime import compile_for, launch


class Inner(NamedTuple):
    data: Any
    stride: Any


class Outer(NamedTuple):
    inner: Inner
    count: Any


@triton.jit
def _read(inner, i):
    return tl.load(inner.data + i * inner.stride)


@triton.jit
def _twice(target, outer, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, outer.count):
        total += _read(outer.inner, i)
    for _ in range(0, outer.count):
        total += _read(outer.inner, i)
    tl.store(target + i, total)


def test_a_stride_of_one_is_known_behind_a_loop():
    data = torch.zeros(64)
    with compile_for("sm_90") as kernels:
        launch(_twice, (1,), (data, Outer(Inner(data, 1), 5)), {"BLOCK": 64}, warps=1)
    assert [kernel.name for kernel in kernels] == ["_twice"]
