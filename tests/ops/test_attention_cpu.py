"""What is special to the CPU kernels: each instruction set, tiles that are skipped, threads, addresses."""

from __future__ import annotations

import os

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention
from ptmkernels.ops.philox import dropout_keep
from tests.backends import KERNELS, normal
from tests.ops.attention_cases import BIASES, MASKS, Case, build, formula
from tests.ops.test_masked_attention import check

pytestmark = pytest.mark.skipif("cpu" not in KERNELS, reason="the CPU kernels are not built")

ENVIRONMENT = "PTMKERNELS_CPU_ARCH"
# `wide` runs the code of AVX-512, its products of bfloat16 included, on any machine.
ARCHS = ("generic", "avx2", "avx512", "avx512_bf16", "wide")
HEAD_DIMS = (1, 26, 41, 64, 75, 128, 256)
LENGTHS = (1, 63, 64, 65, 129)


def attention(*args, **options):
    return masked_attention(*args, backend="cpu", **options)


@pytest.fixture(params=ARCHS)
def arch(request, monkeypatch):
    """Every kernel that this machine can run."""
    monkeypatch.setenv(ENVIRONMENT, request.param)
    try:
        attention(*[torch.zeros(1, 1, 1, 1)] * 3)
    except RuntimeError as error:
        if "cannot run" not in str(error):
            raise
        pytest.skip(str(error))
    return request.param


def differing(dtype, count):
    """`count` cases that differ in everything, with every head dimension and length above."""
    masks, biases = list(MASKS), list(BIASES)
    for index in range(count):
        length = LENGTHS[index % len(LENGTHS)]
        yield Case(
            masks[index % len(masks)],
            biases[index * 4 % len(biases)],
            (0.0, 0.3)[index % 2],
            (4, 2, 1)[index % 3],
            dtype,
            HEAD_DIMS[index % len(HEAD_DIMS)],
            length,
            length if index % 3 else 150,
            strided=index % 4 == 0,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set_against_float64(arch, dtype):
    for case in differing(dtype, 35):
        check(case, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_size(arch, head_dim, dtype):
    for length in LENGTHS:
        check(
            Case("causal", dtype=dtype, head_dim=head_dim, query_len=length, key_len=length), "cpu"
        )


def test_bits_of_dropout(arch):
    """Read through values that are the unit vectors; the generator is that of ptmkernels.ops.philox."""
    for query_len, key_len in ((1, 255), (70, 130)):
        query = torch.zeros(1, 2, query_len, key_len)
        key = torch.zeros(1, 2, key_len, key_len)
        value = torch.eye(key_len).expand(1, 2, -1, -1)
        seed = torch.tensor([-3])
        mask = AttentionMask.window(query_len, key_len, 40, 3)
        weights = attention(query, key, value, mask, dropout_p=0.4, seed=seed)
        keep = dropout_keep(seed, 0.4, 1, 2, query_len, key_len)
        assert torch.equal(weights != 0, keep & mask.to_dense())


def test_an_unknown_or_impossible_instruction_set_is_named(monkeypatch):
    query = torch.zeros(1, 1, 1, 8)
    monkeypatch.setenv(ENVIRONMENT, "sse9")
    with pytest.raises(RuntimeError, match="PTMKERNELS_CPU_ARCH is 'sse9', expected one of: gener"):
        attention(query, query, query)
    with open("/proc/cpuinfo") as cpuinfo:
        if "avx512_bf16" in cpuinfo.read():
            return
    monkeypatch.setenv(ENVIRONMENT, "avx512_bf16")
    with pytest.raises(RuntimeError, match="'avx512_bf16', which this processor cannot run; it ca"):
        attention(query, query, query)


def random_intervals(batch, query_len, key_len, seed):
    """Ranks in any order, intervals of any length, empty ones among them."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high, length):
        return torch.randint(low, high, (batch, length), generator=generator, dtype=torch.int32)

    rank = integers(-20, key_len, key_len)
    if seed % 2:
        rank = rank.sort(1).values  # tiles of sorted ranks can be skipped
    low = integers(-20, key_len, query_len)
    return AttentionMask(rank, low, low + integers(-9, key_len // 2, query_len))


def results(query, key, value, mask, **options):
    """Output, log-sum-exp and the gradients of the first three."""
    leaves = [t.detach().requires_grad_() for t in (query, key, value)]
    output, lse = attention(*leaves, mask, return_lse=True, **options)
    grads = torch.autograd.grad(output.square().sum() + lse[lse.isfinite()].sum(), leaves)
    return output, lse, *grads


@pytest.mark.parametrize("seed", range(4))
def test_skipping_by_intervals_is_the_dense_mask(arch, seed):
    query_len, key_len = ((200, 500), (333, 333), (5, 700), (130, 129))[seed]
    query, key, value = (
        normal(2, 2, length, 32, seed=seed) for length in (query_len, key_len, key_len)
    )
    mask = random_intervals(2, query_len, key_len, seed)
    dense = AttentionMask.dense(mask.to_dense())
    skipping, tested = results(query, key, value, mask), results(query, key, value, dense)
    for one, other in zip(skipping, tested, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_tiles_that_nobody_sees_are_not_read(arch):
    """A document of NaN harms nobody else: its tiles are skipped, not multiplied by 0."""
    ids = torch.arange(4).repeat_interleave(128)[None]
    query, key, value = (normal(1, 2, 512, 64, seed=i) for i in range(3))
    poisoned = [t.clone() for t in (query, key, value)]
    for tensor in poisoned:
        tensor[:, :, 256:384] = torch.nan
    whole = torch.arange(512) // 128 != 2
    mask = AttentionMask.documents(ids)
    leaves = [t.requires_grad_() for t in poisoned]
    output = attention(*leaves, mask)
    grads = torch.autograd.grad(output, leaves, normal(1, 2, 512, 64, seed=3))
    for tensor in (output, *grads):
        assert tensor[:, :, whole].isfinite().all()
        assert tensor[:, :, ~whole].isnan().all()


def test_scores_that_grow_from_tile_to_tile(arch):
    """The running maximum moves at every tile, and at the last the first weights are all but gone."""
    for case in (
        Case("none", query_len=40, key_len=700),
        Case("none", query_len=1, key_len=700),
    ):
        inputs = build(case)
        with torch.no_grad():
            inputs.query[:] = inputs.query.abs()
            inputs.key[:] = inputs.key.abs() * torch.linspace(0.01, 60, 700)[:, None]
        output, lse = attention(inputs.query, inputs.key, inputs.value, return_lse=True)
        exact, _ = formula(inputs, torch.float64)
        torch.testing.assert_close(output.double(), exact["output"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(lse.double(), exact["lse"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [-1e9, torch.finfo(torch.float32).min])
def test_rows_of_huge_negative_bias_keep_finite_gradients(arch, value):
    """The masks of other libraries: all keys of the first rows hidden by a huge negative number."""
    query, key, value_ = (normal(1, 2, 33, 16, seed=i).requires_grad_() for i in range(3))
    bias = torch.zeros(33, 33)
    bias[:3] = value
    output = attention(query, key, value_, bias=bias)
    grads = torch.autograd.grad(output.sum(), (query, key, value_))
    expected = attention(query, key, value_)
    torch.testing.assert_close(output[:, :, 3:], expected[:, :, 3:])
    assert all(tensor.isfinite().all() for tensor in (output, *grads))


def of_threads(count, run):
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return run()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
@pytest.mark.parametrize("case", ["few_heads", "many_heads", "one_query", "few_queries", "biases"])
def test_results_do_not_depend_on_the_threads(case):
    """Bit for bit, gradients of shared keys and of every kind of bias included."""
    sizes = {
        "few_heads": (1, 2, 1, 600, 600),
        "many_heads": (3, 8, 8, 300, 300),
        "one_query": (1, 2, 1, 1, 5000),
        "few_queries": (1, 1, 1, 20, 5000),
        "biases": (2, 4, 2, 150, 400),
    }
    batch, heads, key_heads, query_len, key_len = sizes[case]
    query = normal(batch, heads, query_len, 40).requires_grad_()
    key, value = (normal(batch, key_heads, key_len, 40, seed=i).requires_grad_() for i in (1, 2))
    biases = [None]
    if case == "biases":
        shapes = ((1, 4, 150, 400), (2, 1, 150, 1), (1, 1, 1, 400), (1, 1, 1, 1))
        biases = [normal(*shape, seed=3).requires_grad_() for shape in shapes]
        biases.append(BucketedBias.t5(normal(32, 4, seed=4).requires_grad_(), 150, 400))

    def run(bias):
        leaf = bias.table if isinstance(bias, BucketedBias) else bias
        leaves = [t for t in (query, key, value, leaf) if t is not None]
        seed = torch.tensor([5])
        output = attention(query, key, value, bias=bias, dropout_p=0.1, seed=seed)
        return output, *torch.autograd.grad(output.square().sum(), leaves)

    for bias in biases:
        alone, both = (of_threads(count, lambda bias=bias: run(bias)) for count in (1, 2))
        for one, other in zip(alone, both, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("query_len", [1, 17])
def test_addresses_beyond_two_to_the_31_elements(query_len):
    """Rows 2^30 elements apart, in memory that is reserved but, apart from those rows, never touched."""
    rows, head_dim, step = 4, 8, 2**30
    try:
        memory = torch.empty(rows * step, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("the memory cannot be reserved")
    far = memory.as_strided((1, 1, rows, head_dim), (0, 0, step, 1))
    near = normal(1, 1, rows, head_dim, seed=1).bfloat16()
    far.copy_(near)
    query = normal(1, 1, query_len, head_dim).bfloat16()
    mask = AttentionMask.window(query_len, rows, 30, 30)
    for one, other in zip(
        results(query, far, far, mask), results(query, near, near, mask), strict=True
    ):
        assert torch.equal(one, other)
    for one, other in zip(
        results(far, query, query, None), results(near, query, query, None), strict=True
    ):
        assert torch.equal(one, other)


def test_a_dense_bias_far_larger_than_a_tile_in_any_stride(arch):
    query, key, value = (normal(1, 2, 150, 24, seed=i) for i in range(3))
    bias = normal(1, 2, 150, 150, seed=3)
    for laid in (
        bias,
        bias.transpose(2, 3).contiguous().transpose(2, 3),
        normal(1, 2, 300, 450)[:, :, ::2, ::3].copy_(bias),
    ):
        grads = []
        for view in (bias, laid):
            leaf = view.detach().requires_grad_()
            output = attention(query, key, value, bias=leaf)
            grads.append((output, *torch.autograd.grad(output.square().sum(), leaf)))
        for one, other in zip(*grads, strict=True):
            assert torch.equal(one, other)
