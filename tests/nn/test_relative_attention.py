"""The relative attention modules in the place of Transformers' own, with the same weights."""

import copy

import pytest
import torch

import ptmkernels as ptm
from ptmkernels.nn.transformers_forms import segments_of
from tests.tolerances import ORACLE, ORACLE_GRADIENT

pytest.importorskip("transformers")
from transformers import XLNetConfig
from transformers.models.deprecated.transfo_xl.modeling_transfo_xl import (
    RelPartialLearnableMultiHeadAttn,
)
from transformers.models.xlnet.modeling_xlnet import (
    XLNetModel,
    XLNetRelativeAttention,
)

B, L, H, D, E = 3, 7, 3, 13, 42  # XLNet has heads of E / H


def randomised(module):
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def assert_same(ours, theirs, call_ours, call_theirs, *inputs):
    """Outputs, and gradients of inputs and weights, of two modules."""
    copies = (
        [x.clone().requires_grad_() for x in inputs],
        [x.clone().requires_grad_() for x in inputs],
    )
    actual, expected = call_ours(*copies[0]), call_theirs(*copies[1])
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, **ORACLE)
    for outputs in (actual, expected):
        sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in outputs).backward()
    for a, e in zip(*copies, strict=True):
        torch.testing.assert_close(a.grad, e.grad, **ORACLE_GRADIENT)
    grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = grads[name].grad
        if expected is None:
            assert parameter.grad is None or not parameter.grad.any()
            continue
        torch.testing.assert_close(
            parameter.grad, expected, **ORACLE_GRADIENT, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("memory", [None, 0, 5])
@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_transformer_xl(memory, pre_lnorm):
    theirs = randomised(RelPartialLearnableMultiHeadAttn(H, E, D, 0.1, pre_lnorm=pre_lnorm))
    ours = ptm.nn.RelativeMultiheadAttention(H, E, D, 0.1, pre_lnorm=pre_lnorm).eval()
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) != []
    copy.deepcopy(theirs).load_state_dict(ours.state_dict())
    m = memory or 0
    w, r = torch.randn(L, B, E), torch.randn(L + m, 1, E)
    mems = [] if memory is None else [torch.randn(m, B, E)]
    hidden = torch.ones(L, L + m, dtype=torch.bool).triu(1 + m)[:, :, None]
    interval = ptm.AttentionMask.recurrence(L, m)
    options = {
        "head_mask": torch.tensor([1.0, 0.0, 0.5]).view(1, 1, 1, H),
        "output_attentions": True,
    }
    for mask in (hidden, interval):
        assert_same(
            ours,
            theirs,
            lambda w, r, *mems, mask=mask: ours(w, r, mask, *mems, **options),
            lambda w, r, *mems: theirs(w, r, hidden, *mems, **options),
            w,
            r,
            *mems,
        )
        ours.zero_grad()
        theirs.zero_grad()


def test_batch_first_and_shared_biases():
    shared = [torch.nn.Parameter(torch.randn(H, D)) for _ in range(2)]
    ours = ptm.nn.RelativeMultiheadAttention(H, E, D, r_r_bias=shared[0], r_w_bias=shared[1])
    assert ours.r_r_bias is shared[0]
    turned = copy.deepcopy(ours)
    turned.batch_first = True
    w, r, mems = torch.randn(L, B, E), torch.randn(L + 2, 1, E), torch.randn(2, B, E)
    output, weights = ours(w, r, None, mems, output_attentions=True)
    first, first_weights = turned(
        *(x.transpose(0, 1) for x in (w, r)), None, mems.transpose(0, 1), output_attentions=True
    )
    torch.testing.assert_close(first.transpose(0, 1), output, **ORACLE)
    torch.testing.assert_close(first_weights.permute(2, 3, 0, 1), weights, **ORACLE)
    torch.testing.assert_close(weights.sum(1), torch.ones(L, B, H), **ORACLE)


def xlnet_pair():
    theirs = randomised(XLNetRelativeAttention(XLNetConfig(d_model=E, n_head=H, vocab_size=5)))
    ours = ptm.nn.TwoStreamAttention(E, H, dropout=0.1).eval()
    ours.load_state_dict(theirs.state_dict())
    copy.deepcopy(theirs).load_state_dict(ours.state_dict())
    return ours, theirs


def xlnet_inputs(memory, targets):
    """h, r, g, mems; and the arguments that are no tensors with a gradient."""
    torch.manual_seed(5)
    segments = torch.tensor([0, 0, 1, 1, 1, 2, 2])[:, None].expand(L, B)
    keys = torch.cat([torch.zeros(memory, B, dtype=torch.long), segments])
    differ = (segments[:, None] != keys).long()
    seg_mat = torch.nn.functional.one_hot(differ, 2).float()
    order = torch.stack([torch.randperm(L) for _ in range(B)])
    hidden_g = (order[:, None, :] >= order[:, :, None]).permute(1, 2, 0)
    hidden_g = torch.nn.functional.pad(hidden_g, (0, 0, memory, 0)).float()
    # memory (or token 0, whose place is never read) lets every row see something
    hidden_g[:, 0] = 0
    hidden_h = hidden_g * (1 - torch.eye(L, L + memory).roll(memory, 1))[:, :, None]
    mapping = None
    if targets:
        places = torch.stack([torch.randperm(L)[:targets].sort().values for _ in range(B)])
        mapping = torch.nn.functional.one_hot(places, L).permute(1, 2, 0).float()
    tensors = [
        torch.randn(L, B, E),
        torch.randn(2 * L + memory, B, E),
        torch.randn(targets or L, B, E),
        torch.randn(memory, B, E),
    ]
    return tensors, (hidden_h[..., None], hidden_g[..., None]), seg_mat, mapping


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize("targets", [None, 3])
def test_xlnet_two_streams(memory, targets, segments):
    ours, theirs = xlnet_pair()
    tensors, masks, seg_mat, mapping = xlnet_inputs(memory, targets)

    def call(module, h, r, g, mems):
        return module(h, g, *masks, r, seg_mat if segments else None, mems, mapping)

    assert_same(ours, theirs, lambda *x: call(ours, *x), lambda *x: call(theirs, *x), *tensors)


@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_xlnet_one_stream(memory, masked):
    ours, theirs = xlnet_pair()
    (h, r, _, mems), masks, seg_mat, _ = xlnet_inputs(memory, None)
    mask = masks[0] if masked else None

    def call(module, h, r, mems):
        results = module(h, None, mask, None, r, seg_mat, mems, output_attentions=True)
        assert results[1] is None
        return results[0], results[2]

    assert_same(ours, theirs, lambda *x: call(ours, *x), lambda *x: call(theirs, *x), h, r, mems)


@pytest.mark.parametrize("targets", [None, 3])
def test_weights_of_two_streams(targets):
    ours, theirs = xlnet_pair()
    (h, r, g, mems), masks, seg_mat, mapping = xlnet_inputs(4, targets)
    arguments = (h, g, *masks, r, seg_mat, mems, mapping)
    actual, expected = (m(*arguments, output_attentions=True)[2] for m in (ours, theirs))
    torch.testing.assert_close(actual[0], expected[0], **ORACLE)
    rows = expected[1]  # Transformers computes all L rows
    if mapping is not None:
        rows = torch.einsum("lsbn,mlb->msbn", rows, mapping)
    torch.testing.assert_close(actual[1], rows, **ORACLE)


def test_a_row_of_zeros_in_the_mapping_sees_nothing():
    ours, theirs = xlnet_pair()
    tensors, masks, seg_mat, mapping = xlnet_inputs(4, 3)
    mapping[1, :, 0] = 0
    h, r, g, mems = tensors
    arguments = (h, g, *masks, r, seg_mat, mems, mapping)
    for a, e in zip(ours(*arguments)[:2], theirs(*arguments)[:2], strict=True):
        torch.testing.assert_close(a, e, **ORACLE)
    weights = ours(*arguments, output_attentions=True)[2][1]  # (P, S, B, H)
    assert not weights[1, :, 0].any()
    assert weights[1, :, 1].any()


def test_in_the_place_of_the_modules_of_a_model():
    torch.manual_seed(1)
    config = XLNetConfig(d_model=E, n_head=H, n_layer=2, d_inner=17, vocab_size=19, mem_len=6)
    model = randomised(XLNetModel(config))
    ids = torch.randint(0, 19, (B, L))
    inputs = {
        "input_ids": ids,
        "attention_mask": (torch.arange(L) >= torch.tensor([0, 2, 3])[:, None]).float(),
        "token_type_ids": (ids > 9).long(),
        "mems": [torch.randn(4, B, E) for _ in range(2)],
    }
    expected = model(**inputs).last_hidden_state
    for layer in model.layer:
        ours = ptm.nn.TwoStreamAttention(E, H).eval()
        ours.load_state_dict(layer.rel_attn.state_dict())
        layer.rel_attn = ours
    torch.testing.assert_close(model(**inputs).last_hidden_state, expected, **ORACLE)


def test_segments_are_found_again():
    queries = torch.tensor([[0, 1, 1, 2], [5, 5, 5, 5]])
    keys = torch.cat([torch.tensor([[3, 0], [9, 8]]), queries], 1)
    differ = queries[:, :, None] != keys[:, None]
    one_hot = torch.nn.functional.one_hot(differ.long(), 2).permute(1, 2, 0, 3)
    found = segments_of(one_hot)
    assert torch.equal(found[0][:, :, None] != found[1][:, None], differ)


def test_inputs_that_do_not_fit():
    module = ptm.nn.RelativeMultiheadAttention(H, E, D)
    xlnet = ptm.nn.TwoStreamAttention(E, H, batch_first=True)
    w, r = torch.randn(L, B, E), torch.randn(L, 1, E)
    for call, message in (
        (lambda: module(w[0], r), r"w has shape \(3, 42\); expected \(length, B, E\) with E = 42"),
        (lambda: module(w[..., 1:], r), r"w has shape \(7, 3, 41\)"),
        (lambda: module(w, r[:, 0]), r"r has shape \(7, 42\)"),
        (lambda: module(w, r, None, w[:, :2]), "mems has batch size 2; expected 3"),
        (lambda: xlnet(w, w[:2], None, None, r, None), "g has batch size 2; expected 7"),
        (lambda: xlnet(w[0], None, None, None, r, None), r"h has .* expected \(B, length, E\)"),
        (
            lambda: ptm.nn.TwoStreamAttention(E, 4),
            "d_model is 42; expected a multiple of n_head = 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_mask_of_another_shape():
    module = ptm.nn.RelativeMultiheadAttention(H, E, D)
    with pytest.raises(ValueError, match=r"attention mask has shape \(7,\)"):
        module(torch.randn(L, B, E), torch.randn(L, 1, E), torch.zeros(7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_xlnet_in_another_dtype(dtype):
    """Transformers makes the encoding of the distances in float32, whatever the model was cast to."""
    torch.manual_seed(0)
    theirs = XLNetModel(XLNetConfig(vocab_size=50, d_model=32, n_layer=2, n_head=4, d_inner=64))
    ours = copy.deepcopy(theirs.eval())
    for layer in ours.layer:
        module = ptm.nn.TwoStreamAttention(32, 4)
        module.load_state_dict(layer.rel_attn.state_dict())
        layer.rel_attn = module.eval()
    ids = torch.randint(6, 50, (2, 7))
    head_mask = torch.tensor([1.0, 0.0, 1.0, 0.5])
    wanted, found = (
        model.to(dtype)(ids, head_mask=head_mask, output_attentions=True)
        for model in (theirs, ours)
    )
    assert found.last_hidden_state.dtype == dtype
    bound = {"rtol": 1e-2, "atol": 2e-2} if dtype != torch.float64 else ORACLE
    torch.testing.assert_close(found.last_hidden_state, wanted.last_hidden_state, **bound)
    torch.testing.assert_close(found.attentions[0], wanted.attentions[0], **bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_transformer_xl_in_another_dtype(dtype):
    module = randomised(ptm.nn.RelativeMultiheadAttention(H, E, D))
    w, r, mems = torch.randn(L, B, E), torch.randn(L + 4, 1, E), torch.randn(4, B, E)
    wanted = module(w, r, mems=mems)[0]
    module = module.to(dtype)
    output = module(w.to(dtype), r, mems=mems, head_mask=torch.ones(H), output_attentions=True)
    assert {t.dtype for t in output} == {dtype}
    # Scores of this module's large weights reach 100, where 16 bits keep two digits.
    bound = 0.5 if dtype == torch.bfloat16 else 0.1
    torch.testing.assert_close(output[0].float(), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_under_autocast(autocast):
    torch.manual_seed(0)
    for module, inputs in (
        (ptm.nn.RelativeMultiheadAttention(H, E, D), (torch.randn(L, B, E), torch.randn(L, 1, E))),
        (
            ptm.nn.TwoStreamAttention(E, H),
            (torch.randn(L, B, E), None, None, None, torch.randn(2 * L, 1, E), None),
        ),
    ):
        wanted = module(*inputs)[0]
        with torch.autocast("cpu", autocast):
            output = module(*inputs)[0]
        torch.testing.assert_close(output.float(), wanted, rtol=0, atol=5e-2)
        output.float().sum().backward()


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_no_tokens_and_all_dropped(dropout):
    relative = ptm.nn.RelativeMultiheadAttention(H, E, D, dropatt=dropout)
    streams = ptm.nn.TwoStreamAttention(E, H, dropout=dropout)
    for length in (0, L):
        w = torch.randn(length, B, E)
        output = relative(w, torch.randn(length, 1, E))[0]
        assert output.shape == w.shape
        assert output.isfinite().all()
        r = torch.randn(2 * length, 1, E)
        for g in (None, torch.randn(length, B, E)):
            outputs = streams(w, g, None, None, r, None)
            assert outputs[0].shape == w.shape
            assert outputs[0].isfinite().all()
    if dropout == 1.0:  # nothing of the attention is left
        torch.testing.assert_close(output, relative.layer_norm(w))
