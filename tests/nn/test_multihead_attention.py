"""`ptmkernels.nn.MultiheadAttention` against `torch.nn.MultiheadAttention`, number by number."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

import ptmkernels as ptm
from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias
from tests.backends import KERNELS

B, L, S, E, H = 3, 5, 7, 24, 4
CONSTRUCTORS = {
    "plain": {},
    "no bias": {"bias": False},
    "kdim and vdim": {"kdim": 10, "vdim": 14},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True},
    "everything": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 10, "vdim": 14},
}


def pair(batch_first=True, **options):
    """Ours and torch's, of the same numbers; biases that are not zero."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(E, H, batch_first=batch_first, **options)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "bias" in name:
                parameter.normal_()
    ours = ptm.nn.MultiheadAttention(E, H, batch_first=batch_first, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(module, batch_first=True, batched=True, key_len=S, same=False):
    generator = torch.Generator().manual_seed(1)
    shapes = [(B, L, E), (B, key_len, module.kdim), (B, key_len, module.vdim)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors = [tensors[0]] * 3 if same else tensors
    if not batched:
        tensors = [t[0] for t in tensors]
    elif not batch_first:
        tensors = [t.transpose(0, 1) for t in tensors]
    leaves = [t.clone().requires_grad_() for t in tensors[: 1 if same else 3]]
    return leaves * 3 if same else leaves


def run(module, tensors, **arguments):
    """Output, weights and all gradients."""
    module.zero_grad()
    output, weights = module(*tensors, **arguments)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    loss = (output * upstream).sum()
    if weights is not None:
        loss = loss + weights.pow(2).sum()
    leaves = [*{id(t): t for t in tensors}.values(), *module.parameters()]
    grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return output, weights, grads


def assert_same(ours, theirs, tensors, is_causal=False, **arguments):
    # Theirs reads the mask instead of the hint: the hint hides bias_k from it, but only without weights.
    one = run(ours, tensors, is_causal=is_causal, **arguments)
    two = run(theirs, tensors, **arguments)
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-5)
    if two[1] is None:
        assert one[1] is None
    else:
        torch.testing.assert_close(one[1], two[1], rtol=1e-5, atol=1e-6)
    for mine, wanted in zip(one[2], two[2], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=2e-5)


def masks(batched, query_len, key_len):
    """Masks in torch's forms, none of which hides a whole row."""
    generator = torch.Generator().manual_seed(3)
    rows = B if batched else 1
    hidden = torch.rand(query_len, key_len, generator=generator) < 0.3
    each = torch.rand(rows * H, query_len, key_len, generator=generator) < 0.3
    keys = torch.rand(rows, key_len, generator=generator) < 0.3
    for mask in (hidden, each, keys):
        mask[..., 0] = False
    added = torch.randn(query_len, key_len, generator=generator)
    added_each = torch.randn(rows * H, query_len, key_len, generator=generator)
    added_keys = torch.randn(rows, key_len, generator=generator)
    added_keys[:, 3] = -torch.inf
    shaped = (lambda t: t) if batched else (lambda t: t[0])
    return {
        "attn_mask": [None, hidden, each, added, added_each],
        "key_padding_mask": [None, shaped(keys), shaped(added_keys)],
    }


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("batched", [True, False])
def test_masks_of_every_form(batched, name):
    ours, theirs = pair(**CONSTRUCTORS[name])
    tensors = inputs(ours, batched=batched)
    forms = masks(batched, L, S)
    for attn_mask, key_mask in itertools.product(*forms.values()):
        assert_same(ours, theirs, tensors, attn_mask=attn_mask, key_padding_mask=key_mask)


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_layouts_and_modes(training, batch_first, name):
    ours, theirs = pair(batch_first, **CONSTRUCTORS[name])
    ours.train(training)
    theirs.train(training)
    for batched in (True, False):
        tensors = inputs(ours, batch_first, batched)
        for need_weights, average in ((True, True), (True, False), (False, True)):
            assert_same(
                ours, theirs, tensors, need_weights=need_weights, average_attn_weights=average
            )
    if "kdim" not in CONSTRUCTORS[name]:
        assert_same(ours, theirs, inputs(ours, batch_first, same=True))


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("need_weights", [True, False])
def test_causal_hint(need_weights, name):
    ours, theirs = pair(**CONSTRUCTORS[name])
    tensors = inputs(ours, key_len=L)
    causal = nn.Transformer.generate_square_subsequent_mask(L)
    for key_mask in (None, torch.tensor([[False] * 3 + [True] * 2] * B)):
        for attn_mask in (causal, causal != 0):
            assert_same(
                ours,
                theirs,
                tensors,
                attn_mask=attn_mask,
                is_causal=True,
                need_weights=need_weights,
                key_padding_mask=key_mask if attn_mask.dtype == torch.bool else None,
            )
    hinted = run(ours, tensors, is_causal=True)[0]
    torch.testing.assert_close(
        hinted, run(theirs, tensors, attn_mask=causal)[0], rtol=1e-5, atol=1e-5
    )


def test_causal_hint_with_other_lengths_reads_the_mask():
    ours, theirs = pair()
    tensors = inputs(ours)
    mask = torch.ones(L, S, dtype=torch.bool).triu(1)
    one = ours(*tensors, attn_mask=mask, is_causal=True)[0]
    torch.testing.assert_close(one, theirs(*tensors, attn_mask=mask)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="L = 5 and S = 7 can mean two masks"):
        ours(*tensors, is_causal=True)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_interval_mask_and_bias(name):
    """`mask` and `bias` are what the same dense tensors are to torch."""
    ours, theirs = pair(**CONSTRUCTORS[name])
    tensors = inputs(ours)
    mask = AttentionMask.window(L, S, 4, 0) & AttentionMask.keys(torch.arange(S)[None] != 2, L)
    hidden = ~mask.to_dense()[0]
    generator = torch.Generator().manual_seed(4)
    for shape in ((L, S), (B, H, L, S), (L, 1), (H, 1, S), (1,)):
        bias = torch.randn(shape, generator=generator)
        whole = bias.expand(B, H, L, S).masked_fill(hidden, -torch.inf).flatten(0, 1)
        one = run(ours, tensors, mask=mask, bias=bias)
        two = run(theirs, tensors, attn_mask=whole)
        torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one[1], two[1], rtol=1e-5, atol=1e-6)


def test_bucketed_bias_and_masks_together():
    ours, theirs = pair()
    tensors = inputs(ours)
    table = torch.randn(8, H, requires_grad=True)
    bias = BucketedBias.t5(table, L, S)
    distance = torch.arange(S) - torch.arange(L)[:, None] + L - 1
    whole = table[bias.buckets.long()[distance]].permute(2, 0, 1).repeat(B, 1, 1)
    keys = torch.tensor([[False] * 5 + [True] * 2] * B)
    one = ours(*tensors, key_padding_mask=keys, bias=bias)
    hidden = whole.masked_fill(keys[0], -torch.inf)
    two = theirs(*tensors, attn_mask=hidden)
    for mine, wanted in zip(one, two, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(output.sum(), table)[0] for output, _ in (one, two)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_a_floating_mask_has_a_gradient():
    ours, theirs = pair()
    tensors = inputs(ours)
    mask = torch.randn(L, S, requires_grad=True)
    grads = [
        torch.autograd.grad(module(*tensors, attn_mask=mask)[0].sum(), mask)[0]
        for module in (ours, theirs)
    ]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_rows_that_see_nothing_give_the_bias_of_the_projection():
    ours, theirs = pair()
    ours.eval()
    tensors = inputs(ours)
    keys = torch.zeros(B, S, dtype=torch.bool)
    keys[1] = True
    output, weights, grads = run(ours, tensors, key_padding_mask=keys)
    assert theirs(*tensors, key_padding_mask=keys)[0][1].isnan().all()
    torch.testing.assert_close(output[1], ours.out_proj.bias.expand(L, E), rtol=1e-6, atol=1e-6)
    assert not weights[1].any()
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_initialisation_and_state_dict_both_ways(name):
    modules = []
    for cls in (ptm.nn.MultiheadAttention, nn.MultiheadAttention):
        torch.manual_seed(5)
        modules.append(cls(E, H, **CONSTRUCTORS[name]))
    ours, theirs = modules
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
    theirs.load_state_dict(pair(**CONSTRUCTORS[name])[0].state_dict())
    assert isinstance(ours, nn.MultiheadAttention)
    tensors = inputs(ours, batch_first=False)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(*tensors)[0], ours(*tensors)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_device_of_the_constructor(dtype):
    module = ptm.nn.MultiheadAttention(E, H, batch_first=True, dtype=dtype)
    output, weights = module(*(t.detach().to(dtype) for t in inputs(module)))
    assert (output.dtype, weights.dtype) == (dtype, dtype)
    assert ptm.nn.MultiheadAttention(E, H, device="meta").in_proj_weight.is_meta


def test_dropout():
    """In training the weights that come back are those that made the output; none in evaluation."""
    ours, _ = pair(dropout=0.5)
    tensors = inputs(ours)
    torch.manual_seed(6)
    output, weights = ours(*tensors, average_attn_weights=False)
    assert 0.3 < (weights == 0).float().mean() < 0.7
    heads = ours._heads(ours._project(*tensors)[2])
    again = ours.out_proj((weights @ heads).transpose(1, 2).flatten(2))
    torch.testing.assert_close(output, again, rtol=1e-5, atol=1e-5)
    torch.manual_seed(6)
    assert torch.equal(ours(*tensors, need_weights=False)[0], output)
    assert not torch.equal(ours(*tensors)[0], output)
    ours.eval()
    assert torch.equal(ours(*tensors)[0], ours(*tensors)[0])


@pytest.mark.parametrize("backend", KERNELS)
def test_the_kernel_is_used(backend):
    ours, _ = pair()
    tensors = inputs(ours)
    one = ours(*tensors, need_weights=False, backend=backend)[0]
    two = ours(*tensors, need_weights=False, backend="reference")[0]
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="float64"):
        ours.double()(*(t.double() for t in tensors), backend=backend)


def test_under_autocast():
    ours, theirs = pair()
    tensors = inputs(ours)
    with torch.autocast("cpu", torch.bfloat16):
        one, two = ours(*tensors), theirs(*tensors)
    assert one[0].dtype == two[0].dtype == torch.bfloat16
    torch.testing.assert_close(one[0].float(), two[0].float(), rtol=3e-2, atol=3e-2)


def test_compile_and_export():
    ours, _ = pair()
    tensors = [t.detach() for t in inputs(ours, key_len=L)]
    keys = torch.tensor([[False] * 4 + [True]] * B)
    expected = ours(*tensors, key_padding_mask=keys, is_causal=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    arguments = {"key_padding_mask": keys, "is_causal": True}
    exported = torch.export.export(ours.eval(), tuple(tensors), arguments).module()
    for function in (compiled, exported):
        for mine, wanted in zip(function(*tensors, **arguments), expected, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


def test_as_part_of_an_encoder_layer():
    torch.manual_seed(7)
    layer = nn.TransformerEncoderLayer(E, H, 32, dropout=0.0, batch_first=True)
    mine = copy.deepcopy(layer)
    mine.self_attn = ptm.nn.MultiheadAttention(E, H, batch_first=True)
    mine.self_attn.load_state_dict(layer.self_attn.state_dict())
    tensor = torch.randn(B, L, E)
    keys = torch.tensor([[False] * 4 + [True]] * B)
    causal = nn.Transformer.generate_square_subsequent_mask(L) != 0
    for arguments in ({}, {"src_key_padding_mask": keys}, {"src_mask": causal, "is_causal": True}):
        for training in (True, False):
            one, two = (m.train(training)(tensor, **arguments) for m in (mine, layer))
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"query": [1.0]}, TypeError, "query is a list"),
        ({"query": torch.randn(E)}, ValueError, "query has shape"),
        ({"key": torch.randn(S, E)}, ValueError, r"key has shape \(7, 24\); expected 3 dimensions"),
        ({"value": torch.randn(B, S, 3)}, ValueError, r"value has shape .* last dimension of 24"),
        ({"attn_mask": torch.ones(L, S).int()}, TypeError, r"attn_mask has dtype torch\.int32"),
        ({"attn_mask": torch.ones(S, L)}, ValueError, r"expected \(5, 7\) or \(12, 5, 7\)"),
        ({"attn_mask": AttentionMask.full(L, S)}, TypeError, "goes to `mask`"),
        ({"key_padding_mask": torch.ones(B, L)}, ValueError, r"expected \(7,\) or \(3, 7\)"),
        ({"key_padding_mask": [[True]]}, TypeError, "key_padding_mask is a list"),
        ({"mask": AttentionMask.full(L, L)}, ValueError, "mask has 5 queries and 5 keys"),
        ({"bias": torch.ones(2, L, S)}, ValueError, "bias has shape"),
        (
            {
                "bias": BucketedBias.t5(torch.ones(8, H), L, S),
                "attn_mask": torch.zeros(L, S),
            },
            ValueError,
            "cannot be added to a BucketedBias",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    ours, _ = pair()
    named = dict(zip(("query", "key", "value"), inputs(ours), strict=True))
    with pytest.raises(error, match=match):
        ours(**{**named, **arguments})


def test_nested_tensors_are_refused():
    ours, _ = pair()
    nested = torch.nested.nested_tensor([torch.randn(3, E), torch.randn(2, E)], layout=torch.jagged)
    with pytest.raises(TypeError, match="query is a nested tensor"):
        ours(nested, nested, nested)
    extra, _ = pair(add_zero_attn=True)
    with pytest.raises(ValueError, match="no distance for the keys"):
        extra(*inputs(extra), bias=BucketedBias.t5(torch.ones(8, H), L, S))
