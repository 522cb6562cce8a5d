"""Transformer-XL against Transformers with the same random weights, and against itself cut into segments."""

import pytest
import torch

import ptmkernels as ptm
from ptmkernels.conversion import convert
from tests.models.oracles import assert_same_gradients
from tests.tolerances import ORACLE

transformers = pytest.importorskip("transformers")
from transformers.models.deprecated.transfo_xl import (  # noqa: E402
    TransfoXLConfig,
    TransfoXLForSequenceClassification,
    TransfoXLLMHeadModel,
    TransfoXLModel,
)

B, L, M, V = 3, 7, 5, 61
SIZES = {
    "vocab_size": V,
    "cutoffs": [11, 23, 40],
    "d_model": 38,
    "d_embed": 38,
    "n_head": 3,
    "d_head": 13,
    "d_inner": 29,
    "div_val": 2,
    "n_layer": 3,
    "mem_len": M,
    "clamp_len": 8,
    "same_length": True,
}
VARIANTS = {
    "plain": {},
    "no clamp, all seen": {"clamp_len": -1, "same_length": False},
    "one table": {"div_val": 1},
    "one projected table": {"div_val": 1, "d_embed": 30},
    "narrow": {"d_embed": 18},
    "no clusters": {"cutoffs": [], "div_val": 1},
    "pre-norm": {"pre_lnorm": True},
    "no memory": {"mem_len": 0, "same_length": False},
    "shared biases": {"untie_r": False},
    "own output": {"tie_word_embeddings": False, "proj_share_all_but_first": False},
}


@pytest.fixture(autouse=True)
def type_as_with_a_dtype(monkeypatch):
    """The oracle calls `type_as(dtype=...)`, which torch does not know."""
    plain = torch.Tensor.type_as
    monkeypatch.setattr(
        torch.Tensor,
        "type_as",
        lambda self, other=None, dtype=None: (
            plain(self, other) if dtype is None else self.to(dtype)
        ),
    )


def make_pair(tmp_path, oracle_class, **config):
    torch.manual_seed(7)
    oracle = oracle_class(TransfoXLConfig(**(SIZES | config))).eval()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            scale = 0.1 if parameter.dim() == 1 else 0.2
            parameter.copy_(torch.randn_like(parameter) * scale + ("norm.weight" in name))
    folder = tmp_path / "oracle"
    oracle.save_pretrained(folder, safe_serialization=oracle.config.untie_r)
    if not oracle.config.untie_r:  # Transformers cannot write shared biases as safetensors
        convert(folder)
    return oracle, ptm.from_pretrained(folder)


def ids(length=L):
    return torch.randint(0, V, (B, length), generator=torch.Generator().manual_seed(3))


def turned(mems):
    """Memories of Transformers, length first, as ours, batch first."""
    return None if mems is None else [m.transpose(0, 1) for m in mems]


def assert_all_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, **ORACLE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_memories_and_weights_equal_transformers(tmp_path, variant):
    oracle, model = make_pair(tmp_path, TransfoXLModel, **VARIANTS[variant])
    text = ids(3 * L)
    theirs = ours = None
    for segment in (text[:, :L], text[:, L : 2 * L + 3], text[:, 2 * L + 3 :]):
        wanted = {"output_hidden_states": True, "output_attentions": True}
        expected = oracle(segment, mems=theirs, **wanted)
        actual = model(segment, mems=ours, **wanted)
        torch.testing.assert_close(actual.last_hidden_state, expected.last_hidden_state, **ORACLE)
        assert_all_close(actual.hidden_states, expected.hidden_states)
        assert_all_close(actual.attentions, expected.attentions)
        theirs, ours = expected.mems, actual.mems
        if theirs is None:  # Transformers returns none where mem_len is 0
            assert all(m.shape[1] == 0 for m in ours)
        else:
            assert_all_close(ours, turned(theirs))
            assert not ours[1].requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_equal_transformers(tmp_path, variant):
    oracle, model = make_pair(tmp_path, TransfoXLLMHeadModel, **VARIANTS[variant])
    oracle.crit.keep_order = True  # else the losses are sorted by cluster
    text = ids()
    labels = torch.where(text % 5 == 1, -100, text)
    mems = [torch.randn(4, B, 38) for _ in range(3)]
    if model.config.mem_len == 0:
        mems = None
    expected = oracle(text, mems=mems, labels=labels)
    actual = model(text, mems=turned(mems), labels=labels)
    torch.testing.assert_close(actual.losses, expected.losses, **ORACLE)
    torch.testing.assert_close(actual.loss, expected.loss, **ORACLE)
    assert_same_gradients(model, actual.loss, oracle, expected.loss)


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_probabilities_equal_transformers_and_sum_to_one(tmp_path, variant):
    oracle, model = make_pair(tmp_path, TransfoXLLMHeadModel, **VARIANTS[variant])
    logits = model(ids()).logits
    torch.testing.assert_close(logits, oracle(ids()).prediction_scores, **ORACLE)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(B, L), **ORACLE)
    labels = model(ids(), labels=ids(), shift_labels=False)
    picked = logits.gather(-1, ids()[..., None]).squeeze(-1)
    torch.testing.assert_close(labels.losses, -picked, **ORACLE)


def test_shared_biases_stay_shared(tmp_path):
    model = ptm.create_model("transformer-xl-base", **SIZES, untie_r=False)
    for layer in model.backbone.layers:
        assert layer.attention.r_w_bias is model.backbone.r_w_bias
        assert layer.attention.r_r_bias is model.backbone.r_r_bias
    assert model.backbone.r_w_bias is not model.backbone.r_r_bias
    own = ptm.create_model("transformer-xl-base", **SIZES)
    assert own.num_parameters() - model.num_parameters() == 2 * 2 * 3 * 13


@pytest.mark.parametrize("padded", [True, False])
def test_classification_equals_transformers(tmp_path, padded):
    config = {"num_labels": 4, "pad_token_id": 2 if padded else None}
    oracle, model = make_pair(tmp_path, TransfoXLForSequenceClassification, **config)
    assert model.head == "sequence-classification"
    text = torch.where(ids() == 2, 3, ids())
    if padded:
        text[0, 4:], text[2, 1:] = 2, 2
    else:
        text = text[:1]  # Transformers takes a single text then
    labels = torch.tensor([3, 0, 1])[: len(text)]
    expected, actual = oracle(text, labels=labels), model(text, labels=labels)
    torch.testing.assert_close(actual.logits, expected.logits, **ORACLE)
    torch.testing.assert_close(actual.loss, expected.loss, **ORACLE)
    model.save_pretrained(tmp_path / "ours")
    again = TransfoXLForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(text).logits, expected.logits, **ORACLE)


def test_softmax_equals_torchs():
    torch.manual_seed(0)
    model = ptm.create_model("transformer-xl-base", "causal-lm", **(SIZES | {"div_val": 1})).eval()
    torchs = torch.nn.AdaptiveLogSoftmaxWithLoss(38, V, SIZES["cutoffs"], div_value=1.0)
    head, table = model.lm_head, model.backbone.embeddings.tables[0].weight
    torch.nn.init.normal_(head.layers[0].bias, std=0.0)  # torch has no bias in the tails
    with torch.no_grad():
        torchs.head.weight.copy_(torch.cat([table[:11], head.cluster_weight]))
        for tail, (low, high) in zip(torchs.tail, head.clusters[1:], strict=True):
            tail[0].weight.copy_(torch.eye(38))
            tail[1].weight.copy_(table[low:high])
    hidden = torch.randn(9, 38)
    expected = torchs.log_prob(hidden)
    torch.testing.assert_close(head.log_prob(hidden, model.backbone.embeddings), expected, **ORACLE)


@pytest.mark.parametrize("oracle_class", [TransfoXLModel, TransfoXLLMHeadModel])
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_reads_what_we_save(tmp_path, oracle_class, variant):
    _, model = make_pair(tmp_path, oracle_class, **VARIANTS[variant])
    model.save_pretrained(tmp_path / "ours")
    oracle, report = oracle_class.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    # what it ties to the input itself
    assert all(key.startswith("crit.out_") for key in report["missing_keys"])
    expected, actual = oracle.eval()(ids()), model(ids())
    states = next(iter(expected.values()))
    ours = actual.logits if oracle_class is TransfoXLLMHeadModel else actual.last_hidden_state
    torch.testing.assert_close(ours, states, **ORACLE)
    again = ptm.from_pretrained(tmp_path / "ours")
    assert again.config == model.config


def run_in_segments(model, text, lengths, mems):
    states = []
    for segment in text.split(lengths, 1):
        output = model(segment, mems=mems)
        states.append(output.last_hidden_state)
        mems = output.mems
    return torch.cat(states, 1), mems


def nothing():
    return [torch.zeros(B, 0, 38) for _ in range(3)]


@pytest.mark.parametrize("lengths", [[7, 1, 9, 4], [1] * 21])
@pytest.mark.parametrize(
    ("config", "mems"),
    [
        ({}, None),  # the published start, zeros; what falls out of the memory is out of sight
        ({"mem_len": 30}, None),
        ({"mem_len": 30, "same_length": False, "clamp_len": -1}, nothing()),
    ],
)
def test_segments_and_single_tokens_equal_one_pass(lengths, config, mems):
    torch.manual_seed(1)
    model = ptm.create_model(
        "transformer-xl-base", **(SIZES | config), initializer_range=0.2
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    text = ids(sum(lengths))
    with torch.no_grad():
        whole = model(text, mems=mems)
        parts, memories = run_in_segments(model, text, lengths, mems)
    torch.testing.assert_close(parts, whole.last_hidden_state, **ORACLE)
    assert_all_close(memories, whole.mems)


def test_no_gradient_goes_into_the_segment_before():
    model = ptm.create_model("transformer-xl-base", **SIZES)
    embeds = torch.randn(B, L, 38, requires_grad=True)
    mems = model(inputs_embeds=embeds).mems
    model(ids(), mems=mems).last_hidden_state.sum().backward()
    assert embeds.grad is None


def test_padding_is_not_seen():
    model = ptm.create_model("transformer-xl-base", **SIZES).eval()
    text, mask = ids(), torch.ones(B, L, dtype=torch.long)
    mask[:, 2] = 0
    other = torch.where(mask == 0, (text + 1) % V, text)
    first, second = (model(t, mask).last_hidden_state[:, 3:] for t in (text, other))
    torch.testing.assert_close(first, second, **ORACLE)


@pytest.mark.parametrize(
    ("name", "sizes", "memory"),
    [
        ("transformer-xl-base", (16, 410, 10, 41, 2100), (150, -1)),
        ("transformer-xl-large", (18, 1024, 16, 64, 4096), (384, -1)),
        ("transformer-xl-wt103", (18, 1024, 16, 64, 4096), (1600, 1000)),
    ],
)
def test_published_sizes(name, sizes, memory):
    config = ptm.model_card(name).config(name)
    assert (config.vocab_size, config.cutoffs) == (267735, [20000, 40000, 200000])
    assert sizes == (
        config.n_layer,
        config.d_model,
        config.n_head,
        config.d_head,
        config.d_inner,
    )
    assert memory == (config.mem_len, config.clamp_len)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cutoffs": [11, 5, 40]}, "cutoffs is"),
        ({"cutoffs": [11, 20, V]}, "cutoffs is"),
        ({"d_model": 39}, "d_model is 39; expected an even"),
        ({"d_embed": 7}, "d_embed is 7"),
        ({"mem_len": 0}, "mem_len is 0"),
        ({"tie_projs": [True]}, "tie_projs has 1 entries"),
    ],
)
def test_configurations_that_cannot_be(config, message):
    with pytest.raises(ValueError, match=message):
        ptm.create_model("transformer-xl-base", **(SIZES | config))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of input_ids and inputs_embeds"),
        ({"input_ids": torch.zeros(3, dtype=torch.long)}, r"input_ids has shape \(3,\)"),
        ({"input_ids": torch.full((1, 2), V)}, f"input_ids holds {V}..{V}"),
        (
            {"input_ids": ids(), "mems": nothing()[:2]},
            "mems has 2 tensors; expected one a layer, 3",
        ),
        ({"input_ids": ids()[:1], "mems": nothing()}, r"mems holds tensors of shape \(3, 0, 38\)"),
        ({"input_ids": ids(), "attention_mask": torch.ones(B, 2)}, "attention_mask has shape"),
    ],
)
def test_input_that_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        ptm.create_model("transformer-xl-base", **SIZES)(**arguments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(B, L + 1, dtype=torch.long), r"labels has shape \(3, 8\); expected \(B, L\)"),
        (torch.full((B, L), V), f"labels holds {V}..{V}; expected 0..{V - 1}"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    model = ptm.create_model("transformer-xl-base", "causal-lm", **SIZES)
    with pytest.raises(ValueError, match=message):
        model(ids(), labels=labels)
