"""The emulation itself: it runs right kernels right, and reports what each wrong one does wrong."""

import ctypes
import struct

import pytest
import torch

from tests.simt import library

THREADS = 64
NUMBERS = 256  # kNumbers of self_test.cpp


def run(name: str, blocks: int = 1) -> tuple[list[float], list[str]]:
    """Output of an example of self_test.cpp and what was reported."""
    control = library.library()
    library.take_reports()
    control.simt_example_output.restype = ctypes.POINTER(ctypes.c_float)
    assert control.simt_run_example(name.encode(), ctypes.c_int64(blocks))
    return control.simt_example_output()[: min(blocks * THREADS, NUMBERS)], library.take_reports()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reverse", [63.0 - i for i in range(THREADS)]),
        ("reverse in warp", [float(i ^ 31) for i in range(THREADS)]),
        ("reverse copied", [63.0 - i for i in range(THREADS)]),
        ("two groups", [2.0 * i for i in range(THREADS)]),
        ("older group", [float(i) for i in range(THREADS)]),
        ("copy of zeros", [float(i) if i % 2 == 0 else 0.0 for i in range(THREADS)]),
        ("sums of warps", [496.0] * 32 + [1520.0] * 32),
    ],
)
def test_right_kernels(name, expected):
    output, reports = run(name)
    assert reports == []
    assert output == expected


def test_threads_count_together():
    output, reports = run("counts together")
    assert reports == []
    assert struct.unpack("q", struct.pack("2f", *output[-2:])) == (THREADS - 1,)


def blocks_counted() -> int:
    """Of 64 blocks, those whose number nobody else changed between their read and their change."""
    output, reports = run("blocks count", 64)
    assert reports == []
    return struct.unpack("q", struct.pack("2f", *output[:2]))[0] + 1


def test_blocks_run_at_the_same_time():
    """As many as there are multiprocessors, in an order that the seed draws."""
    assert blocks_counted() == 64
    counts = {}
    for multiprocessors, seed in ((1, 1), (2, 1), (64, 1), (64, 2), (64, 3), (64, 4)):
        with library.interleaved(multiprocessors, seed):
            counts[multiprocessors, seed] = blocks_counted()
    assert counts[1, 1] == 64
    assert 64 > counts[2, 1] > counts[64, 1] > 0
    assert len({counts[64, seed] for seed in range(1, 5)}) > 1
    with library.interleaved(64, 1):
        assert blocks_counted() == counts[64, 1]
    assert blocks_counted() == 64


def test_blocks_have_memory_and_barriers_of_their_own():
    with library.interleaved(4):
        output, reports = run("blocks reverse", 4)
        assert reports == []
        assert output == [64.0 * b + 63 - i for b in range(4) for i in range(THREADS)]
        assert "which nothing wrote" in run("blocks reverse, no barrier", 4)[1][0]


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("no barrier", "which nothing wrote"),
        ("no warp barrier", "which nothing wrote"),
        ("no copy wait", "read before the copy has arrived"),
        ("no barrier after the wait", "which nothing wrote"),
        ("write after read", "writes 4 bytes at shared offset 0 that another thread reads"),
        ("both write", "writes 4 bytes at shared offset 0 that thread 0 wrote"),
        ("copy over read", "that another thread reads"),
        ("reads unwritten", "thread 0 reads 4 bytes at shared offset 0, which nothing wrote"),
        ("forgets a copy", "that it never waited for"),
        ("skips a barrier", "deadlock"),
        ("other barriers", "threads of one block meet at different barriers"),
        ("diverges", "a warp diverges: thread 9 comes to ballot, others to shuffle_xor"),
        ("ends before a shuffle", "deadlock"),
        ("beyond shared", "a write of 4 bytes at shared offset 1024 of 1024"),
        ("misaligned shared", "a write of 8 bytes at shared offset 4 is not aligned"),
        ("beyond global", "lies outside of every buffer"),
        ("misaligned global", "a global read of 16 bytes is not aligned"),
        ("writes input", "a global write to a buffer that is only read"),
        ("all write global", "two threads of a launch write the same global memory"),
        ("reads what others wrote", "a global read of what another thread of the launch wrote"),
        ("adds and stores", "an atomic operation where a thread of the launch stored"),
        ("adds and reads", "a global read of what another thread of the launch wrote"),
        ("adds to input", "an atomic operation on a buffer that is only read"),
    ],
)
def test_wrong_kernels_are_reported(name, report):
    assert any(report in line for line in run(name)[1]), run(name)[1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("reverse", "barrier"),
        ("reverse in warp", "warp barrier"),
        ("reverse copied", "copy wait"),
        ("reverse copied", "barrier"),
    ],
)
def test_what_orders_memory_can_be_taken_away(name, kind):
    library.take_sites()
    assert run(name)[1] == []
    sites = [site for site in library.take_sites() if site.kind == kind]
    assert len(sites) == 1
    with library.without(sites[0]):
        assert run(name)[1] != []
    assert run(name)[1] == []


@pytest.mark.parametrize(
    ("name", "dtype", "bound"),
    [
        ("bfloat16", torch.bfloat16, 1e-5),
        ("float16", torch.float16, 1e-5),
        ("tf32", torch.float32, 2e-2),
    ],
)
def test_matrix_fragments_multiply(name, dtype, bound):
    """Exact in the factors, float32 in the sums; TF32 ignores the last 13 bits of a factor."""
    depth = 48
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(n, depth, generator=generator).to(dtype) for n in (16, 8))
    c = torch.full((16, 8), torch.nan)
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (a, b, c))
    library.library().simt_multiply(name.encode(), depth, *pointers)
    assert library.take_reports() == []
    error = (c.double() - a.double() @ b.double().T).abs().max().item()
    assert error < bound
    if name == "tf32":
        cut = [(t.view(torch.int32) & ~0x1FFF).view(torch.float32).double() for t in (a, b)]
        assert error > 1e-4
        assert (c.double() - cut[0] @ cut[1].T).abs().max() < 1e-5
