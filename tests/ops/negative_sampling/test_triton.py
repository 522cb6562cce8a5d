"""The Triton backend of the negative-sampling loss, interpreted on the CPU, or run on a GPU."""

import pytest
import torch

from ptmkernels.ops import AliasTable, negative_sampling_loss
from tests.ops.negative_sampling.test_negative_sampling import case, run
from tests.ops.test_attention_runs import Counter
from tests.ops.word_vectors.losses import DEVICE, MARKS, check

pytestmark = MARKS
SEED = torch.tensor([-(2**40) - 7])


@pytest.mark.parametrize(
    ("sizes", "sparse"),
    [
        ({"width": 1, "negatives": 0, "batch": 3}, False),
        ({"width": 41, "batch": 5, "dtype": torch.bfloat16}, True),
        ({"width": 100, "negatives": 18, "batch": 2}, False),
        ({"width": 530, "batch": 3, "dtype": torch.bfloat16}, False),
        ({"batch": 0}, False),
    ],
    ids=str,
)
def test_against_float64(sizes, sparse):
    check(run, case(**sizes), sparse=sparse)


def test_rows_that_are_parts_of_wider_ones():
    hidden, target, weight, noise = case(batch=4, width=26)
    wide = torch.full((17, 40), 7.0)
    wide[:, :26] = weight
    check(run, (hidden, target, wide[:, :26], noise))
    check(run, (hidden, target, weight.T.contiguous().T, noise[0]))


@pytest.mark.parametrize("nce", [False, True])
def test_drawn_negatives(nce):
    sampler = AliasTable.from_weights(torch.arange(1, 18))
    options = {"sampler": sampler, "num_negatives": 5, "seed": SEED, "nce": nce}
    check(run, case(batch=4)[:3], **options)


def test_drawn_ids_are_those_of_every_backend():
    sampler = AliasTable.from_weights(torch.rand(1000) ** 3)
    hidden, target, weight, _ = case(batch=9, width=4, size=1000)
    noise = (None, sampler.table, SEED, 19, None, None, True, False)
    ids = torch.ops.ptmkernels.negative_sampling_forward(hidden, target, weight, *noise)[2]
    assert torch.equal(ids[:, 1:], sampler.sample((9, 19), SEED))
    given = [t.to(DEVICE) if isinstance(t, torch.Tensor) else t for t in noise]
    there = (t.to(DEVICE) for t in (hidden, target, weight))
    drawn = torch.ops.ptmkernels.triton_negative_sampling_forward(*there, *given)[2]
    assert torch.equal(drawn.cpu(), ids)


def test_an_id_in_several_chunks():
    """Runs of one id that are cut into parts: within one chunk, over two, over many; and the bias."""
    from ptmkernels.ops.word_vectors import triton_sums

    before, triton_sums.CHUNK = triton_sums.CHUNK, 4
    try:
        hidden, target, weight, noise = (t.to(DEVICE) for t in case(batch=8, width=9, size=4))
        noise[:6, :4] = 2
        found = {}
        for backend in ("triton", "triton again", "reference"):
            leaves = [weight.clone(), torch.linspace(-1, 1, 4, device=DEVICE)]
            w, bias = (t.requires_grad_() for t in leaves)
            options = {"bias": bias, "reduction": "sum", "backend": backend.split()[0]}
            loss = negative_sampling_loss(hidden, target, w, noise, **options)
            found[backend] = torch.autograd.grad(loss, leaves)
        for a, again, b in zip(*found.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
            assert torch.equal(a, again)
    finally:
        triton_sums.CHUNK = before


def test_offsets_beyond_32_bits():
    """Rows 2**30 elements apart, in memory that is reserved but for the most part never touched."""
    hidden, target, weight, noise = case(batch=2, width=16, size=4, dtype=torch.bfloat16)
    far = torch.empty(3 * 2**30 + 64, dtype=torch.bfloat16, device=DEVICE)
    wide = far.as_strided((4, 16), (2**30 + 8, 1)).copy_(weight)
    near = [t.to(DEVICE) for t in (hidden, target, weight, noise)]
    expected = negative_sampling_loss(*near, backend="triton")
    assert torch.equal(negative_sampling_loss(*near[:2], wide, near[3], backend="triton"), expected)


def test_the_kernels_run():
    inputs = [t.to(DEVICE) for t in case(batch=3)]
    with Counter() as counter:
        run("triton", *inputs)
    ran = {name: n for name, n in counter.counts.items() if "negative_sampling" in name}
    assert ran == {f"triton_negative_sampling_{way}": 1 for way in ("forward", "backward")}
    assert not {"mm", "bmm", "index", "index_add_", "gather"} & set(counter.counts)


def test_opcheck_and_compile():
    hidden, target, weight, noise = (t.to(DEVICE) for t in case(batch=2))
    leaves = [t.requires_grad_() for t in (hidden, weight)]
    arguments = (hidden, target, weight, noise, None, None, 5, None, None, True, False)
    torch.library.opcheck(torch.ops.ptmkernels.triton_negative_sampling_forward.default, arguments)

    def loss(h, w):
        return negative_sampling_loss(h, target, w, noise, backend="triton")

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, loss))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
