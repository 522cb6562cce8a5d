"""What a model takes for its `attention_mask`, in which 1 = a token, and masks of another meaning."""

import pytest
import torch

import ptmkernels as ptm
from ptmkernels import AttentionMask

PRESETS = {
    "bert-tiny": {},
    "nezha-tiny": {},
    "transformer-xl-tiny": {"cutoffs": []},
    "xlnet-tiny": {},
}
REAL = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


@pytest.fixture(params=PRESETS)
def model(request):
    torch.manual_seed(0)
    return ptm.create_model(request.param, vocab_size=50, **PRESETS[request.param]).eval()


def states(model, mask):
    ids = torch.arange(12).reshape(2, 6) + 6
    return model(ids, attention_mask=mask).last_hidden_state


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.uint8, torch.float32, torch.half])
def test_one_is_a_token_in_every_dtype(model, dtype):
    torch.testing.assert_close(states(model, REAL.to(dtype)), states(model, REAL))


@pytest.mark.parametrize("hidden", [-10000.0, -torch.inf, torch.finfo(torch.float32).min, -1.0])
def test_a_mask_that_is_added_is_refused(model, hidden):
    added = torch.zeros(REAL.shape).masked_fill(REAL == 0, hidden)
    with pytest.raises(
        ValueError, match=r"attention_mask holds .*1 = a token.*attention_mask == 0"
    ):
        states(model, added)


def test_one_of_no_padding_is_refused_too(model):
    with pytest.raises(ValueError, match=r"attention_mask holds only 0.0"):
        states(model, torch.zeros(REAL.shape))


def test_integers_that_are_added_are_refused(model):
    with pytest.raises(ValueError, match=r"attention_mask holds -10000; expected 1 = a token"):
        states(model, (1 - REAL) * -10000)


def test_matrices_that_are_added_are_refused():
    model = ptm.create_model("bert-tiny", vocab_size=50, num_hidden_layers=1).eval()
    causal = torch.ones(6, 6).tril()
    wanted = states(model, causal.bool().expand(2, 6, 6))
    torch.testing.assert_close(states(model, causal.expand(2, 6, 6)), wanted)
    added = torch.zeros(6, 6).masked_fill(causal == 0, -torch.inf)
    with pytest.raises(ValueError, match=r"attention_mask holds -inf"):
        states(model, added.expand(2, 6, 6))


def test_a_floating_mask_in_a_traced_graph():
    model = ptm.create_model("bert-tiny", vocab_size=50, num_hidden_layers=1).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    real = states(compiled, REAL.float())[REAL == 1]
    torch.testing.assert_close(real, states(model, REAL)[REAL == 1])
    with pytest.raises(RuntimeError, match=r"attention_mask holds other numbers; expected 1 = a"):
        states(compiled, (1 - REAL) * -10000.0)


def test_a_floating_mask_under_a_transform_is_refused():
    model = ptm.create_model("bert-tiny", vocab_size=50, num_hidden_layers=1).eval()
    with pytest.raises(TypeError, match=r"attention_mask has dtype torch.float32"):
        torch.func.vmap(lambda mask: states(model, mask.expand(2, 6)))(REAL.float())


def test_keys_refuses_integers_that_are_added():
    with pytest.raises(ValueError, match=r"allowed holds -10000"):
        AttentionMask.keys((1 - REAL) * -10000)
