"""The negative-sampling loss: kernels against the reference in float64, gradients, opcheck, errors."""

import math

import pytest
import torch
from scipy import stats

from ptmkernels.ops import AliasTable, negative_sampling_loss
from tests.tolerances import assert_close_to_reference


def case(batch=13, width=41, size=17, negatives=5, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, width, generator=generator).to(dtype)
    weight = (torch.randn(size, width, generator=generator) * 0.3).to(dtype)
    target = torch.randint(0, size, (batch,), generator=generator)
    noise = torch.randint(0, size, (batch, negatives), generator=generator)
    return hidden, target, weight, noise


def run(backend, hidden, target, weight, *args, dtype=None, **options):
    """Loss of each row and the gradients of a weighted sum of them."""
    hidden, weight = (t.to(dtype or t.dtype).detach().requires_grad_() for t in (hidden, weight))
    loss = negative_sampling_loss(
        hidden, target, weight, *args, reduction="none", backend=backend, **options
    )
    scale = torch.linspace(0.5, 2, len(loss), dtype=loss.dtype, device=loss.device)
    grads = torch.autograd.grad((loss * scale).sum(), (hidden, weight))
    return [loss, *(g.to_dense() if g.is_sparse else g for g in grads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 26, 41, 100])
@pytest.mark.parametrize("sparse", [False, True])
def test_given_negatives(dtype, width, sparse):
    inputs = case(width=width, dtype=dtype)
    actual = run("cpu", *inputs, sparse=sparse)
    low = run("reference", *inputs)
    exact = run("reference", *inputs, dtype=torch.float64)
    for name, a, b, c in zip(("loss", "hidden", "weight"), actual, low, exact, strict=True):
        assert_close_to_reference(a, b, c, name)


@pytest.mark.parametrize("nce", [False, True])
@pytest.mark.parametrize("negatives", [0, 1, 5, 8])
def test_drawn_negatives_are_the_same_in_both_backends(nce, negatives):
    hidden, target, weight, _ = case()
    options = {
        "sampler": AliasTable.from_weights(torch.arange(1, 18)),
        "num_negatives": negatives, "seed": torch.tensor([2**40 + 7]), "nce": nce,
    }  # fmt: skip
    actual = run("cpu", hidden, target, weight, **options)
    exact = run("reference", hidden, target, weight, dtype=torch.float64, **options)
    for a, b in zip(actual, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_formula_by_hand():
    hidden, target, weight, noise = case(batch=2, negatives=2)
    noise[0, 1] = target[0]  # left out
    loss = negative_sampling_loss(hidden, target, weight, noise, reduction="none")
    for b in range(2):
        x = (hidden[b] @ weight.T).double()
        expected = -math.log(torch.sigmoid(x[target[b]]))
        for n in noise[b]:
            expected -= math.log(torch.sigmoid(-x[n])) if n != target[b] else 0
        assert loss[b].item() == pytest.approx(expected, rel=1e-5)
    kept = negative_sampling_loss(
        hidden, target, weight, noise, reduction="none", skip_target=False
    )
    assert kept[0] > loss[0]


def test_nce_learns_the_distribution_of_the_data():
    """With one context the optimum of NCE has logits log p: normalised without a normaliser."""
    torch.manual_seed(1)
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    sampler = AliasTable.from_weights(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    weight = torch.zeros(4, 1, requires_grad=True)
    bias = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.02)
    for step in range(300):
        target = torch.multinomial(p, 4000, replacement=True)
        loss = negative_sampling_loss(
            torch.zeros(4000, 1), target, weight, sampler=sampler, num_negatives=10, nce=True,
            bias=bias, seed=torch.tensor([step]),
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(bias.exp().detach(), p, rtol=0.1, atol=0.01)


def test_draws_pass_chi_square():
    weights = torch.arange(1.0, 21.0, dtype=torch.float64)
    sampler = AliasTable.from_weights(weights)
    ids = sampler.sample((20_000, 3), torch.tensor([5]))
    expected = weights / weights.sum() * ids.numel()
    assert (
        stats.chisquare(ids.flatten().bincount(minlength=20).numpy(), expected.numpy()).pvalue
        > 1e-4
    )


def test_bias_has_a_gradient():
    hidden, target, weight, noise = case()
    grads = []
    for backend in ("cpu", "reference"):
        bias = torch.linspace(-1, 1, 17).requires_grad_()
        loss = negative_sampling_loss(hidden, target, weight, noise, bias=bias, backend=backend)
        grads.append(torch.autograd.grad(loss, bias)[0])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_float64_bias_is_read_as_what_it_is(backend):
    hidden, target, weight, noise = case()
    bias = torch.linspace(-1, 1, 17)
    options = {"backend": backend}
    expected = negative_sampling_loss(hidden, target, weight, noise, bias=bias, **options)
    loss = negative_sampling_loss(hidden, target, weight, noise, bias=bias.double(), **options)
    torch.testing.assert_close(loss.float(), expected)


def test_opcheck_and_compile():
    hidden, target, weight, noise = case()
    hidden.requires_grad_()
    weight.requires_grad_()
    arguments = (hidden, target, weight, noise, None, None, 5, None, None, True, False)
    torch.library.opcheck(torch.ops.ptmkernels.negative_sampling_forward.default, arguments)
    compiled = torch.compile(negative_sampling_loss, fullgraph=True, backend="aot_eager")
    loss = compiled(hidden, target, weight, noise)
    torch.testing.assert_close(loss, negative_sampling_loss(hidden, target, weight, noise))
    torch.testing.assert_close(
        torch.autograd.grad(loss, weight)[0],
        torch.autograd.grad(negative_sampling_loss(hidden, target, weight, noise), weight)[0],
    )


def test_second_derivatives():
    hidden, target, weight, noise = (
        t.double() if t.is_floating_point() else t for t in case(batch=2, width=3)
    )
    hidden.requires_grad_()

    def loss(h):
        return negative_sampling_loss(h, target, weight, noise, backend="reference")

    assert torch.autograd.gradgradcheck(loss, hidden)
    hidden = hidden.detach().float().requires_grad_()
    first = torch.autograd.grad(
        negative_sampling_loss(hidden, target, weight.float(), noise), hidden, create_graph=True
    )[0]
    with pytest.raises(RuntimeError, match="second derivative"):
        first.sum().backward()


def test_empty_batch_and_errors():
    hidden, target, weight, noise = case()
    assert negative_sampling_loss(hidden[:0], target[:0], weight, noise[:0], reduction="sum") == 0
    sampler = AliasTable.from_weights(torch.ones(17))
    for backend in ("cpu", "reference"):
        empty = negative_sampling_loss(
            hidden[:0], target[:0], weight, sampler=sampler, reduction="none", backend=backend
        )
        assert empty.shape == (0,)

    def refuse(match, *args, error=ValueError, **options):
        with pytest.raises(error, match=match):
            negative_sampling_loss(*args, **options)

    refuse(
        r"target holds 0..17; expected 0..16", hidden, torch.tensor([17] + [0] * 12), weight, noise
    )
    refuse("negatives holds", hidden, target, weight, noise - 20)
    refuse("exactly one of", hidden, target, weight)
    refuse("exactly one of", hidden, target, weight, noise, sampler=sampler)
    refuse(
        "sampler is over 17 ids; expected 16",
        hidden,
        target.clamp(max=15),
        weight[:16],
        sampler=sampler,
    )
    refuse("the vocabulary is empty", hidden, target, weight[:0], noise)
    refuse("expected 41 as hidden", hidden, target, weight[:, :7], noise)
    refuse("target has shape", hidden, target[:3], weight, noise)
    refuse("target has dtype", hidden, target.float(), weight, noise, error=TypeError)
    refuse(r"negatives has shape \(\)", hidden, target, weight, noise[0, 0])
    refuse("layout", hidden, target, weight.to_sparse(), noise, error=TypeError)
    for count, error in ((True, TypeError), (2.0, TypeError), (-1, ValueError)):
        refuse(
            "num_negatives",
            *(hidden, target, weight),
            sampler=sampler,
            num_negatives=count,
            error=error,
        )
    refuse("nce needs a sampler", hidden, target, weight, noise, nce=True)
    bias = torch.zeros(17, device="meta")
    refuse("bias is on meta; expected cpu", hidden, target, weight, noise, bias=bias)
    refuse("reduction is 'max'", hidden, target, weight, noise, reduction="max")
    refuse(
        "seed must",
        hidden,
        target,
        weight,
        sampler=sampler,
        seed=torch.tensor([1.0]),
        error=TypeError,
    )
    refuse(
        "no backend can serve",
        hidden.double(),
        target,
        weight.double(),
        noise,
        backend="cpu",
        error=RuntimeError,
    )


def every_other(tensor):
    """The same values, not one after the other in memory."""
    return torch.stack([tensor, tensor + 1], 1)[:, 0]


def test_tables_with_gaps_between_their_values():
    hidden, target, weight, _ = case()
    sampler = AliasTable.from_weights(torch.arange(1.0, 18))
    spread = AliasTable(every_other(sampler.table), every_other(sampler.probabilities))
    bias, options = torch.linspace(-1, 1, 17), {"seed": torch.tensor([3]), "nce": True}
    torch.testing.assert_close(
        negative_sampling_loss(
            hidden, target, weight, sampler=spread, bias=every_other(bias), **options
        ),
        negative_sampling_loss(hidden, target, weight, sampler=sampler, bias=bias, **options),
    )


def test_nce_compiles_whole():
    hidden, target, weight, _ = case()
    options = {"sampler": AliasTable.from_weights(torch.arange(1.0, 18)), "nce": True}
    options["seed"] = torch.tensor([3])
    compiled = torch.compile(negative_sampling_loss, fullgraph=True, backend="aot_eager")
    loss = compiled(hidden, target, weight, **options)
    torch.testing.assert_close(loss, negative_sampling_loss(hidden, target, weight, **options))


def test_ids_of_a_vmapped_batch():
    hidden, target, weight, noise = case()
    hiddens, targets = torch.stack([hidden, -hidden]), torch.stack([target, target.flip(0)])
    losses = torch.func.vmap(lambda h, t: negative_sampling_loss(h, t, weight, noise))(
        hiddens, targets
    )
    for loss, h, t in zip(losses, hiddens, targets, strict=True):
        torch.testing.assert_close(loss, negative_sampling_loss(h, t, weight, noise))


def test_float64_is_exact_where_terms_are_small():
    one = torch.ones(1, 1, dtype=torch.float64)
    loss = negative_sampling_loss(30 * one, torch.tensor([0]), one, torch.empty(1, 0).long())
    assert float(loss) == pytest.approx(math.log1p(math.exp(-30)), rel=1e-12)


def test_tables_that_are_none():
    table, share = torch.zeros(3, dtype=torch.int64), torch.full((3,), 1 / 3)
    for tables, match, error in (
        ((table + 3, share), r"table holds 3..3; expected 0..2", ValueError),
        ((table.double(), share), r"table is torch.float64 \(3,\); expected int64", TypeError),
        ((table, share[:2]), "probabilities has 2 values; expected 3", ValueError),
    ):
        with pytest.raises(error, match=match):
            AliasTable(*tables)
    assert (
        len(AliasTable.from_weights(torch.ones(3, dtype=torch.bfloat16, requires_grad=True))) == 3
    )
