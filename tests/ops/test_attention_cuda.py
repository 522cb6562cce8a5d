"""The CUDA kernels of attention, executed on the CPU by the emulation of tests/simt.

Every test also fails on what the emulation reports: races, reads of memory that nothing wrote, addresses
outside of the tensors. On a GPU the backend "cuda" runs in the tests of every backend as well.
"""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias
from ptmkernels.ops.attention.options import takes_tf32
from ptmkernels.ops.philox import dropout_keep
from tests.backends import normal
from tests.ops.attention_cases import BIASES, DTYPES, MASKS, Case, build
from tests.ops.test_masked_attention import check, sampled
from tests.simt.attention import kernel, masked_attention

pytestmark = pytest.mark.usefixtures("nothing_reported")


def three(*shape, key_len=None, dtype=torch.float32):
    batch, heads, length, head_dim = shape
    lengths = (length, *(2 * [length if key_len is None else key_len]))
    return [
        normal(batch, heads, n, head_dim, dtype=dtype, seed=i).requires_grad_()
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("case", sampled(17), ids=str)
def test_against_float64(case):
    check(case, "cpu", kernel)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [32, 33, 64, 65, 128, 129, 256])
def test_every_padded_head_dimension(head_dim, dtype):
    sizes = {"dtype": dtype, "head_dim": head_dim, "batch": 1}
    check(Case("causal", "table", 0.2, 2, query_len=35, key_len=70, **sizes), "cpu", kernel)


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_over_several_tiles(mask):
    sizes = {"query_len": 150, "key_len": 150, "batch": 2, "head_dim": 16}
    check(Case(mask, dtype=torch.bfloat16, **sizes), "cpu", kernel)


@pytest.mark.parametrize("bias", BIASES)
def test_every_bias_over_several_tiles(bias):
    sizes = {"query_len": 70, "key_len": 150, "batch": 2, "head_dim": 16}
    check(Case("causal", bias, 0.1, 2, torch.bfloat16, **sizes), "cpu", kernel)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_query_splits_over_the_keys(dtype):
    sizes = {"query_len": 1, "key_len": 1000, "batch": 1, "dtype": dtype}
    check(Case("keys", "full", 0.2, 2, head_dim=64, **sizes), "cpu", kernel)
    check(Case("window", "table", key_heads=1, head_dim=128, **sizes), "cpu", kernel)
    check(Case("nothing", head_dim=41, **sizes), "cpu", kernel)


@pytest.mark.parametrize("bias", ["none", "full", "table"])
@pytest.mark.parametrize(
    ("batch", "query_len", "key_len"), [(0, 5, 5), (2, 0, 5), (2, 5, 0), (1, 0, 0)]
)
def test_empty(batch, query_len, key_len, bias):
    sizes = {"batch": batch, "query_len": query_len, "key_len": key_len}
    check(Case("keys", bias, 0.1, **sizes), "cpu", kernel)


@pytest.mark.parametrize("scale", [1.0, 0.0, -0.3])
def test_scale(scale):
    tensors = three(1, 2, 37, 9)
    query, key, value = tensors
    expected = (query @ key.mT * scale).softmax(-1) @ value
    output = masked_attention(*tensors, scale=scale)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(o.sin().sum(), tensors) for o in (output, expected)]
    for grad, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5)


def test_large_scores_do_not_overflow():
    tensors = [(t.detach() * 60).requires_grad_() for t in three(1, 2, 33, 64)]
    output, lse = masked_attention(*tensors, scale=1.0, return_lse=True)
    query, key, value = (t.detach().double() for t in tensors)
    scores = query @ key.mT
    torch.testing.assert_close(output.double(), scores.softmax(-1) @ value, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=1e-5, atol=0)
    for grad in torch.autograd.grad(output.sum(), tensors):
        assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(2, 3, 9, 37), (1, 2, 70, 131), (1, 2, 1, 255)], ids=str)
def test_dropout_keeps_what_philox_says(sizes, dtype):
    """With equal weights and one-hot values the output shows each weight, dV each weight again."""
    batch, heads, query_len, key_len = sizes
    query = torch.zeros(batch, heads, query_len, key_len, dtype=dtype)
    value = torch.eye(key_len, dtype=dtype).repeat(batch, heads, 1, 1).requires_grad_()
    seed = torch.tensor([-8872345610987654321])
    output = masked_attention(query, value.detach(), value, dropout_p=0.3, seed=seed, scale=1.0)
    keep = dropout_keep(seed, 0.3, *sizes)
    assert torch.equal(output != 0, keep)
    expected = torch.full((int(keep.sum()),), 1 / (key_len * 0.7), dtype=dtype)
    torch.testing.assert_close(output[keep].detach(), expected)
    upstream = torch.zeros_like(output)
    upstream.diagonal(dim1=-2, dim2=-1).fill_(1)
    (grad,) = torch.autograd.grad(output, value, upstream)
    assert torch.equal(grad[..., :query_len].mT != 0, keep[..., : grad.shape[-1]])


@pytest.mark.parametrize("backward", [False, True])
def test_tiles_that_a_mask_hides_are_not_read(backward):
    """Keys and values there are NaN: one product with them would show."""
    query, key, value = (t.detach() for t in three(1, 1, 256, 32, dtype=torch.bfloat16))
    documents = AttentionMask.documents(torch.arange(256) // 128)
    first = [t[:, :, :128].contiguous() for t in (query, key, value)]
    key[:, :, 128:], value[:, :, 128:] = torch.nan, torch.nan
    if backward:  # the second document's queries and gradients meet no key of the first
        query[:, :, 128:] = torch.nan
    leaves = [query, key, value]
    outputs = []
    for tensors, mask in ((leaves, documents), (first, None)):
        tensors = [t.requires_grad_(backward) for t in tensors]
        output = masked_attention(*tensors, mask)[:, :, :128]
        outputs.append([output.detach()])
        if backward:
            grads = torch.autograd.grad(output.sum(), tensors)
            outputs[-1] += [g[:, :, :128] for g in grads]
    for one, two in zip(*outputs, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, two)


def test_float32_exactly_or_in_tf32():
    """TF32 keeps 11 bits of each factor; three products of it all that float32 has."""
    tensors = three(1, 2, 65, 64)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    wanted = (exact[0] @ exact[1].mT / 8).softmax(-1) @ exact[2]
    wanted = [wanted, *torch.autograd.grad(wanted.sin().sum(), exact)]
    errors = []
    for tf32 in (False, True):
        output = masked_attention(*tensors, tf32=tf32)
        found = [output, *torch.autograd.grad(output.sin().sum(), tensors)]
        errors.append([(f - w).abs().max().item() for f, w in zip(found, wanted, strict=True)])
    for full, narrow in zip(*errors, strict=True):
        assert full < 4e-6
        assert 1e-5 < narrow < 5e-3


def test_offsets_beyond_32_bits():
    """Rows 2**31 elements apart, in memory that is reserved but for the most part never touched."""
    store = torch.empty(2**31 + 4096, dtype=torch.bfloat16)
    for shape, strides in (
        ((2, 2, 9, 26), (2**31 + 8, 26, 52, 1)),
        ((1, 1, 3, 26), (26, 26, 2**30 + 8, 1)),
    ):
        near = [normal(*shape, dtype=torch.bfloat16, seed=i).requires_grad_() for i in range(3)]
        far = [store.as_strided(shape, strides, 1000 * i) for i in range(3)]
        for view, small in zip(far, near, strict=True):
            view.copy_(small.detach())
        far = [view.detach().requires_grad_() for view in far]
        outputs = [masked_attention(*t, AttentionMask.causal(shape[2])) for t in (far, near)]
        assert torch.equal(*outputs)
        grads = [torch.autograd.grad(o.sum(), t) for o, t in zip(outputs, (far, near), strict=True)]
        for one, two in zip(*grads, strict=True):
            assert torch.equal(one, two)


def test_the_same_bits_again():
    inputs = build(Case("causal", "table", 0.1, query_len=150, key_len=150, head_dim=16))
    first, second = kernel(inputs), kernel(inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_compiled_function_follows_torchs_precision():
    compiled = torch.compile(
        lambda t: t + 1 if takes_tf32(t) else t, fullgraph=True, backend="eager"
    )
    before = torch.backends.cuda.matmul.fp32_precision
    found = []
    try:
        for precision in ("ieee", "tf32", "ieee"):
            torch.backends.cuda.matmul.fp32_precision = precision
            found += [compiled(torch.zeros(1)).item(), compiled(torch.zeros(1).half()).item()]
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert found == [0, 0, 1, 0, 0, 0]


def test_torch_compile():
    mask = AttentionMask.causal(20)

    def call(query, key, value, table):
        return (
            masked_attention(query, key, value, mask, bias=BucketedBias.t5(table, 20)).sin().sum()
        )

    leaves = [*three(2, 2, 20, 16), normal(8, 2, seed=4).requires_grad_()]
    masked_attention(*leaves[:3])
    expected = torch.autograd.grad(call(*leaves), leaves)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(*leaves), leaves)
    for one, two in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, two)
