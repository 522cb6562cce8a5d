"""Texts without a token, batches without a text, and models that drop everything or run in any dtype."""

import dataclasses

import pytest
import torch

import ptmkernels as ptm
from ptmkernels.registry import model_card

PRESETS = {
    "bert-tiny": {},
    "nezha-tiny": {},
    "transformer-xl-tiny": {"cutoffs": [10, 20]},
    "xlnet-tiny": {},
}
HEADS = [(preset, head) for preset in PRESETS for head in model_card(preset).architecture.heads]


def create(preset, head="backbone", **overrides):
    torch.manual_seed(0)
    return ptm.create_model(preset, head, vocab_size=50, **PRESETS[preset], **overrides).eval()


def tensors(output):
    found = (getattr(output, f.name) for f in dataclasses.fields(output))
    return [value for value in found if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize(("preset", "head"), HEADS)
@pytest.mark.parametrize("shape", [(2, 0), (0, 5), (0, 0)])
def test_no_tokens(preset, head, shape):
    model = create(preset, head)
    if head == "multiple-choice":
        shape = (shape[0], 3, shape[1])
    ids = torch.zeros(shape, dtype=torch.long)
    for mask in (None, torch.ones_like(ids)):
        for value in tensors(model(ids, attention_mask=mask)):
            assert value.isfinite().all()
            assert value.dim() == 0 or value.shape[0] == shape[0]


@pytest.mark.parametrize(("preset", "head"), HEADS)
def test_a_text_without_a_token_beside_others(preset, head):
    ids = torch.full((2, 5), 7)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    if head == "multiple-choice":
        ids, mask = ids[None], mask[None]
    for value in tensors(create(preset, head)(ids, attention_mask=mask)):
        assert value.isfinite().all()


def test_a_text_shorter_than_the_answers_that_are_asked_for():
    output = create("xlnet-tiny", "answer-span", start_n_top=5, end_n_top=4)(torch.full((2, 3), 7))
    assert output.start_top_index.shape == (2, 3)
    assert output.end_top_index.shape == (2, 9)


@pytest.mark.parametrize("preset", PRESETS)
def test_everything_is_dropped(preset):
    names = model_card(preset).architecture.config.names()
    dropouts = {n: 1.0 for n in names if n in ("dropout", "dropatt") or n.endswith("dropout_prob")}
    assert dropouts
    model = create(preset, **dropouts).train()
    output = model(torch.full((2, 5), 7)).last_hidden_state
    assert output.isfinite().all()
    output.sum().backward()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_stays_what_it_is(preset, dtype):
    model, ids = create(preset), torch.full((2, 5), 7)
    wanted = model(ids).last_hidden_state
    output = model.to(dtype)(ids).last_hidden_state
    assert output.dtype == dtype
    narrow = dtype != torch.float64
    torch.testing.assert_close(output.float(), wanted, rtol=0, atol=0.1 if narrow else 1e-5)


def test_an_adaptive_softmax_in_float64_is_one_throughout():
    model, ids = create("transformer-xl-tiny", "causal-lm").double(), torch.full((2, 5), 7)
    logits = model(ids).logits
    assert logits.dtype == torch.float64
    sums = logits.exp().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-13)
    assert model(ids, labels=ids).loss.dtype == torch.float64


@pytest.mark.parametrize("preset", PRESETS)
def test_under_autocast(preset):
    model = create(preset).train()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.full((2, 5), 7)).last_hidden_state.float().sum().backward()


@pytest.mark.parametrize("backend", [None, "reference"])
def test_heads_wider_than_the_kernels(backend):
    theirs, ours = torch.nn.MultiheadAttention(300, 1), ptm.nn.MultiheadAttention(300, 1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 2, 300)
    torch.testing.assert_close(ours(x, x, x, backend=backend)[0], theirs(x, x, x)[0])
    with pytest.raises(RuntimeError, match="heads wider than 256"):
        ours(x, x, x, backend="cpu")


def test_models_with_wide_heads():
    sizes = {"hidden_size": 300, "num_attention_heads": 1, "num_hidden_layers": 1}
    assert create("bert-tiny", **sizes)(torch.full((2, 5), 7)).last_hidden_state.isfinite().all()
