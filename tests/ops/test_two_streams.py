"""`two_stream_attention`: the order of its rows, one call or two, odd sizes and positions, every backend."""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import StreamOrder, attention_weights, two_stream_attention
from ptmkernels.ops.attention import two_stream
from tests.backends import KERNELS, device_of

B, H, L, M, D = 2, 2, 37, 5, 16
TARGETS = {
    "different rows": [[3, 9, 30], [36, 0, 20]],
    "one row for all": [[1, 2, 3, 35]],
    "several at one position": [[7, 7, 0, 7], [36, 36, 36, 36]],
    "nowhere": [[-1, 4, -1], [-1, -1, -1]],
    "none": [[], []],
    "more than tokens": [[i % L for i in range(L + 9)], [i * 5 % L for i in range(L + 9)]],
}


def normal(*shape, seed, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def problem(targets, device="cpu", key_len=L + M):
    """The leaves and the other arguments, with XLNet's masks."""
    where = torch.tensor(targets, dtype=torch.int64, device=device).reshape(len(targets), -1)
    predicted = where.shape[1]
    generator = torch.Generator().manual_seed(1)
    rank = torch.stack([torch.randperm(L, generator=generator) for _ in range(B)]).to(device)
    given = where.clamp(min=0)
    is_target = torch.zeros(B, L, dtype=torch.bool, device=device)
    is_target.scatter_(1, given.expand(B, -1), True)
    masks = {
        "mask": AttentionMask.permutation(rank, is_target, "content", M),
        "stream_mask": AttentionMask.permutation(rank, is_target, "query", M, given),
    }
    shapes = [(B, H, n, D) for n in (L, predicted, key_len, key_len)] + [(1, H, L + key_len, D)]
    shapes += [(H, D)] * 2
    leaves = [normal(*s, seed=n, device=device).requires_grad_() for n, s in enumerate(shapes)]
    return leaves, masks | {"target_mapping": where, "relative_offset": L}


def run(leaves, options, backend="reference"):
    """Both streams, their log-sum-exps, and every gradient."""
    found = two_stream_attention(*leaves, **options, backend=backend, return_lse=True)
    outputs = [t.masked_fill(t == -torch.inf, 0) for t in found]
    loss = sum((t * normal(*t.shape, seed=9, device=t.device)).sum() for t in outputs)
    return [*outputs, *torch.autograd.grad(loss, leaves)]


def assert_same(actual, expected):
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def one_by_one(leaves, options):
    """Content and predicted rows as the formula has them, from the weights of each stream alone."""
    content, stream, key, value, rows, u, v = leaves
    where = options["target_mapping"].expand(B, -1)
    terms = {"relative_key": rows, "content_bias": u, "position_bias": v, "relative_offset": L}
    h = attention_weights(content, key, mask=options["mask"], **terms) @ value
    g = attention_weights(
        *(stream, key), mask=options["stream_mask"], query_position=where.clamp(min=0), **terms
    )
    return h, (g @ value).masked_fill((where < 0)[:, None, :, None], 0)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("name", TARGETS)
def test_every_kind_of_targets(name, backend):
    leaves, options = problem(TARGETS[name], device_of(backend))
    found = run(leaves, options, backend)
    assert_same(found, run(leaves, options))
    assert_same(found[:2], one_by_one(leaves, options))


@pytest.mark.parametrize("backend", KERNELS)
def test_the_same_weights_are_dropped_in_every_backend(backend):
    leaves, options = problem(TARGETS["different rows"], device_of(backend))
    seed = torch.tensor([77], device=device_of(backend))
    assert_same(
        *(
            run(leaves, options | {"dropout_p": 0.4, "seed": seed}, b)
            for b in (backend, "reference")
        )
    )


@pytest.mark.parametrize("name", TARGETS)
def test_positions_rise_by_at_most_one(name):
    _, options = problem(TARGETS[name])
    where = options["target_mapping"]
    sizes = (B, L, where.shape[1])
    order = StreamOrder.of(None, None, where, sizes=sizes, key_len=L)
    steps = order.position.diff(dim=1)
    assert order.position[:, 0].eq(0).all()
    assert ((steps == 0) | (steps == 1)).all()
    rows = torch.arange(L + where.shape[1]).expand_as(order.order)
    assert torch.equal(order.order.gather(1, order.place), rows)
    stacked = torch.cat([torch.arange(L).expand(len(where), -1), where.clamp(min=0)], 1)
    assert torch.equal(stacked.gather(1, order.order), order.position.long())
    # A predicted row lies behind the content row of its position.
    assert (order.place[:, L:] > order.place.gather(1, where.clamp(min=0))).all()


@pytest.fixture
def calls(monkeypatch):
    """The masks of the kernels' calls."""
    found, attend = [], two_stream.attend

    def recorded(*arguments, mask, **options):
        found.append(mask)
        return attend(*arguments, mask=mask, **options)

    monkeypatch.setattr(two_stream, "attend", recorded)
    return found


def again(mask):
    """The same mask with a rank that nobody knows to be that of another."""
    return AttentionMask(mask.key_rank.clone(), mask.query_low, mask.query_high)


def test_masks_of_one_rank_take_one_call(calls):
    leaves, options = problem(TARGETS["different rows"])
    two_stream_attention(*leaves, **options)
    padding = torch.ones(B, L + M, dtype=torch.bool)
    padding[1, :9] = False
    for name in ("mask", "stream_mask"):
        options[name] &= AttentionMask.keys(padding, options[name].query_len)
    found = two_stream_attention(*leaves, **options)
    assert len(calls) == 2
    assert all(mask.allowed is None for mask in calls)
    assert_same(found, one_by_one(leaves, options))


@pytest.mark.parametrize("kind", ["other object", "one dense", "trees"])
def test_masks_that_may_differ_take_two_calls(kind, calls):
    leaves, options = problem(TARGETS["several at one position"])
    if kind == "other object":
        options["stream_mask"] = again(options["stream_mask"])
    elif kind == "one dense":
        options["stream_mask"] = AttentionMask.dense(options["stream_mask"].to_dense())
    else:
        trunk = torch.arange(L + M) % 3 > 0
        for name in ("mask", "stream_mask"):
            options[name] = AttentionMask(
                *(getattr(options[name], part) for part in ("key_rank", "query_low", "query_high")),
                branches=torch.stack([trunk, ~trunk, ~trunk])[None].int(),
            )
    actual = run(leaves, options, "cpu")
    assert len(calls) == 2
    assert_same(actual, run(leaves, options))
    assert_same(actual[:2], one_by_one(leaves, options))


def test_two_dense_masks_take_one_call(calls):
    leaves, options = problem(TARGETS["different rows"])
    expected = one_by_one(leaves, options)
    allowed = options["mask"].to_dense()[:, None].expand(-1, H, -1, -1)
    options["mask"] = AttentionMask.dense(allowed)
    options["stream_mask"] = AttentionMask.dense(options["stream_mask"].to_dense())
    assert_same(two_stream_attention(*leaves, **options), expected)
    assert len(calls) == 1


def test_dropout_of_two_calls_differs_between_the_streams():
    """Rows of the same content at the same positions lose other weights in either stream."""
    leaves, options = problem([list(range(L))] * B)
    leaves[1] = leaves[0]
    options["stream_mask"] = again(options["mask"])
    options |= {"dropout_p": 0.5, "seed": torch.tensor([3])}
    content, stream = two_stream_attention(*leaves, **options)
    assert not torch.allclose(content, stream)
    assert_same(two_stream_attention(*leaves, **options, backend="reference"), (content, stream))


def test_an_order_serves_many_calls():
    leaves, options = problem(TARGETS["nowhere"])
    expected = run(leaves, options)
    parts = [options.pop(name) for name in ("mask", "stream_mask", "target_mapping")]
    order = StreamOrder.of(*parts, sizes=(B, L, 3), key_len=L + M)
    for _ in range(2):
        assert_same(run(leaves, options | {"order": order}), expected)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"target_mapping": torch.zeros(1, 3).long()},
            ValueError,
            "target_mapping is given beside",
        ),
        ({"mask": AttentionMask.full(L)}, ValueError, "mask is given beside order"),
        ({"order": "sorted"}, TypeError, "order is a str; expected a StreamOrder"),
        ({"order": (1, L, 4)}, ValueError, r"order has \(L, P\) = \(37, 4\)"),
        ({"order": (3, L, 3)}, ValueError, "order has batch size 3; expected 1 or 2"),
    ],
)
def test_an_order_that_does_not_fit(change, error, match):
    leaves, _ = problem(TARGETS["nowhere"], key_len=L)

    def order_of(batch, length, predicted):
        where = torch.zeros(batch, predicted, dtype=torch.int64)
        sizes = (batch, length, predicted)
        return StreamOrder.of(None, None, where, sizes=sizes, key_len=L)

    change = {n: order_of(*v) if isinstance(v, tuple) else v for n, v in change.items()}
    with pytest.raises(error, match=match):
        two_stream_attention(*leaves, relative_offset=L, **({"order": order_of(1, L, 3)} | change))


def test_positions_out_of_range_are_clamped_where_nobody_looks(monkeypatch):
    monkeypatch.setattr("ptmkernels.ops.attention.stream_order.readable", lambda *tensors: False)
    far, near = torch.tensor([[2**40, -7, 3]]), torch.tensor([[L - 1, -1, 3]])
    leaves, options = problem([[0, 0, 0]])
    found = [two_stream_attention(*leaves, **options | {"target_mapping": t}) for t in (far, near)]
    assert_same(*found)


def test_gradients_of_any_order():
    leaves, options = problem([[3, 3, 0]], key_len=L + M)
    leaves = [leaf.detach()[..., :4].double().requires_grad_() for leaf in leaves]

    def function(*leaves):
        return two_stream_attention(*leaves, **options)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_forward_mode_and_vmap():
    leaves, options = problem(TARGETS["different rows"])
    tangents = [torch.ones_like(leaf) for leaf in leaves]

    def function(*leaves):
        return two_stream_attention(*leaves, **options, backend="reference")

    _, (tangent, _) = torch.func.jvp(function, tuple(leaves), tuple(tangents))
    step = 1e-3
    shifted = [leaf + step * t for leaf, t in zip(leaves, tangents, strict=True)]
    expected = (function(*shifted)[0] - function(*leaves)[0]) / step
    torch.testing.assert_close(tangent, expected, rtol=0.05, atol=0.05)
    many = torch.func.vmap(function)(*(torch.stack([leaf, 2 * leaf]) for leaf in leaves))
    assert_same([t[0] for t in many], function(*leaves))
