"""XLNet against Transformers with the same random weights: every head, both streams, memory."""

import pytest
import torch

import ptmkernels as ptm
from tests.models.oracles import assert_same_gradients, record_masks, turned
from tests.tolerances import ORACLE

transformers = pytest.importorskip("transformers")

B, L, M, P, V, E = 4, 9, 5, 3, 61, 42
SIZES = {
    "vocab_size": V,
    "d_model": E,
    "n_head": 3,
    "d_inner": 29,
    "n_layer": 3,
    "mem_len": 6,
    "reuse_len": 4,
    "start_n_top": 3,
    "end_n_top": 2,
}
HEADS = {
    "backbone": "XLNetModel",
    "permutation-lm": "XLNetLMHeadModel",
    "sequence-classification": "XLNetForSequenceClassification",
    "token-classification": "XLNetForTokenClassification",
    "multiple-choice": "XLNetForMultipleChoice",
    "question-answering": "XLNetForQuestionAnsweringSimple",
    "answer-span": "XLNetForQuestionAnswering",
}
VARIANTS = {
    "plain": {},
    "backwards half": {"bi_data": True},
    "clamped": {"clamp_len": 3},
    "one way": {"attn_type": "uni"},
    "one way, same length": {"attn_type": "uni", "same_length": True, "clamp_len": 4},
    "all remembered": {"mem_len": None, "reuse_len": None},
    "tanh gelu": {"ff_activation": "gelu_new"},
}


def make_pair(tmp_path, head, **config):
    torch.manual_seed(7)
    oracle = getattr(transformers, HEADS[head])(transformers.XLNetConfig(**(SIZES | config))).eval()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            scale = 0.1 if parameter.dim() == 1 else 0.15
            norm = "norm.weight" in name.lower()
            parameter.copy_(torch.randn_like(parameter) * scale + norm)
    oracle.save_pretrained(tmp_path / "oracle")
    return oracle, ptm.from_pretrained(tmp_path / "oracle")


def padding(length=L):
    """Padded on the left, as XLNet's tokeniser does."""
    return (torch.arange(length) >= torch.tensor([0, 2, 5, 1])[:, None]).float()


def text(seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(0, V, (B, L), generator=generator),
        "attention_mask": padding(),
        "token_type_ids": (torch.arange(L) > 5).long().expand(B, L),
    }


def memories(layers=3, seed=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(M, B, E, generator=generator) for _ in range(layers)]


def permuted(one_hot=True):
    """An order with ties, and the predicted tokens, as the matrices of Transformers and as vectors."""
    generator = torch.Generator().manual_seed(5)
    rank = torch.stack([torch.randperm(L, generator=generator) for _ in range(B)])
    rank = torch.where(rank < 4, -1, rank)
    rank[:, 0] = -1  # so that each sees something, one way too
    places = torch.stack(
        [(rank[b] >= 4).nonzero().squeeze(1)[-P:] for b in range(B)]
    )  # real tokens on the right
    targets = torch.zeros(B, L, dtype=torch.bool).scatter(1, places, True)
    highest = rank - targets.long()
    perm_mask = (rank[:, None, :] > highest[:, :, None]).float()
    mapping = torch.nn.functional.one_hot(places, L).float()
    dense = {"perm_mask": perm_mask, "target_mapping": mapping}
    return dense, {"perm_rank": rank, "target_mapping": places}


def labels_of(head):
    classes = torch.tensor([0, 1, 1, 0])
    return {
        "backbone": {},
        "permutation-lm": {"labels": torch.where(padding() > 0, text()["input_ids"], -100)},
        "sequence-classification": {"labels": classes},
        "token-classification": {
            "labels": torch.where(padding() > 0, text()["input_ids"] % 2, -100)
        },
        "multiple-choice": {"labels": torch.tensor([1, 0])},
        "question-answering": {"start_positions": classes + 5, "end_positions": classes + 7},
        "answer-span": {
            "start_positions": classes + 5,
            "end_positions": classes + 7,
            "cls_index": classes + 6,
            "is_impossible": classes.float(),
            "p_mask": 1.0 - padding(),
        },
    }[head]


def assert_same(actual, expected):
    """Every tensor of the outputs, at padded positions too."""
    assert set(expected) <= set(vars(actual))
    for name, wanted in expected.items():
        got = getattr(actual, name)
        if name == "mems":
            wanted = turned(wanted)
        elif isinstance(wanted, torch.Tensor):
            got, wanted = [got], [wanted]
        for a, e in zip(got, wanted, strict=True):
            if isinstance(a, tuple):
                torch.testing.assert_close(a, e, **ORACLE)
                continue
            torch.testing.assert_close(a, e, **ORACLE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("head", HEADS)
def test_heads_and_gradients_equal_transformers(tmp_path, head):
    oracle, model = make_pair(tmp_path, head)
    batch = text() | labels_of(head)
    if head == "multiple-choice":
        for name in text():
            batch[name] = batch[name].view(2, 2, L)
    expected, actual = oracle(**batch), model(**batch)
    assert_same(actual, expected)
    if head == "backbone":
        losses = [o.last_hidden_state.sin().sum() for o in (actual, expected)]
    else:
        losses = [actual.loss, expected.loss]
    assert_same_gradients(model, losses[0], oracle, losses[1])


def test_the_search_for_an_answer(tmp_path):
    oracle, model = make_pair(tmp_path, "answer-span")
    ids = text()["input_ids"]
    barred = {"attention_mask": padding(), "p_mask": 1.0 - padding()}
    for extra in ({}, barred | {"cls_index": torch.tensor([8, 8, 7, 8])}):
        expected, actual = oracle(ids, **extra), model(ids, **extra)
        assert_same(actual, expected)


@pytest.mark.parametrize(
    ("kind", "activation", "project"),
    [
        ("first", None, True),
        ("mean", "relu", True),
        ("last", "tanh", False),
        ("cls_index", "gelu", True),
    ],
)
def test_summaries(tmp_path, kind, activation, project):
    config = {
        "summary_type": kind,
        "summary_activation": activation,
        "summary_use_proj": project,
        "untie_r": False,  # which Transformers does not read
        "num_labels": 3,
    }
    oracle, model = make_pair(tmp_path, "sequence-classification", **config)
    ids = text()["input_ids"]
    torch.testing.assert_close(model(ids).logits, oracle(ids).logits, **ORACLE)
    model.save_pretrained(tmp_path / "ours")
    again = type(oracle).from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(ids).logits, oracle(ids).logits, **ORACLE)


@pytest.mark.parametrize("with_memory", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_stream(tmp_path, variant, with_memory):
    oracle, model = make_pair(tmp_path, "backbone", **VARIANTS[variant])
    mems = memories() if with_memory else None
    batch = text() | {"output_hidden_states": True, "output_attentions": True}
    if "one way" in variant:  # with padding Transformers takes a single text
        del batch["attention_mask"]
    expected = oracle(**batch, mems=mems)
    assert_same(model(**batch, mems=turned(mems)), expected)


@pytest.mark.parametrize("with_memory", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_streams(tmp_path, variant, with_memory):
    oracle, model = make_pair(tmp_path, "permutation-lm", **VARIANTS[variant])
    # with one-way layers Transformers takes a single text
    rows = 1 if "one way" in variant else B
    matrices, vectors = ({n: t[:rows] for n, t in form.items()} for form in permuted())
    if "same length" in variant:
        with_memory = True  # else a target may see nothing, where Transformers gives a mean of all
    mems = [m[:, :rows] for m in memories()] if with_memory else None
    batch = {n: t[:rows] for n, t in text().items()}
    batch["labels"] = text(6)["input_ids"][:rows, :P].contiguous()
    expected = oracle(**batch, **matrices, mems=mems, output_hidden_states=True)
    forms = [matrices] if "one way" in variant else [matrices, vectors]
    for form in forms:
        actual = model(**batch, **form, mems=turned(mems), output_hidden_states=True)
        assert_same(actual, expected)
    assert_same_gradients(model, actual.loss, oracle, expected.loss)


def test_weights_of_two_streams(tmp_path):
    oracle, model = make_pair(tmp_path, "permutation-lm")
    matrices, vectors = permuted()
    batch = text() | {"mems": memories(), "output_attentions": True}
    expected = oracle(**batch, **matrices).attentions
    batch["mems"] = turned(memories())
    for form in (matrices, vectors):
        for ours, theirs in zip(model(**batch, **form).attentions, expected, strict=True):
            torch.testing.assert_close(ours[0], theirs[0], **ORACLE)
            rows = torch.einsum("bpl,bhls->bhps", matrices["target_mapping"], theirs[1])
            torch.testing.assert_close(ours[1], rows, **ORACLE)


def test_targets_without_an_order_see_themselves(tmp_path):
    oracle, model = make_pair(tmp_path, "permutation-lm")
    matrices, vectors = permuted()
    for extra in ({}, {"attention_mask": padding()}):
        ids = text()["input_ids"]
        mapping = matrices["target_mapping"]
        expected = oracle(ids, target_mapping=mapping, **extra).logits
        actual = model(ids, target_mapping=vectors["target_mapping"], **extra).logits
        torch.testing.assert_close(actual, expected, **ORACLE)


def test_a_row_of_zeros_only_fills_up(tmp_path):
    """The released code pads the targets of a text with such rows."""
    oracle, model = make_pair(tmp_path, "permutation-lm")
    matrices, vectors = permuted()
    matrices["target_mapping"][1, -1] = 0
    vectors["target_mapping"][1, -1] = -1
    expected = oracle(**text(), **matrices).logits
    for form in (matrices, vectors):
        torch.testing.assert_close(model(**text(), **form).logits, expected, **ORACLE)


def test_an_order_builds_nothing_of_size_l_by_l(tmp_path, monkeypatch):
    masks = record_masks(monkeypatch)
    _, model = make_pair(tmp_path, "permutation-lm")
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    for run in (model, torch.compile(model, fullgraph=True, backend=backend)):
        run(**text(), **permuted()[1], mems=turned(memories()))
    assert len(masks) >= 3  # one call serves both streams
    assert all(mask.allowed is None for mask in masks)
    (graph,) = graphs
    calls = [node for node in graph.graph.nodes if "attention_forward" in str(node.target)]
    assert len(calls) == SIZES["n_layer"]


def test_what_transformers_reads_of_ours(tmp_path):
    for head, name in HEADS.items():
        torch.manual_seed(2)
        model = ptm.create_model("xlnet-base", head, **SIZES).eval()
        model.save_pretrained(tmp_path / head)
        oracle, report = getattr(transformers, name).from_pretrained(
            tmp_path / head, output_loading_info=True
        )
        assert not any(report.values()), report
        shape = (2, 2, L) if head == "multiple-choice" else (B, L)
        ids = text()["input_ids"].view(shape)
        assert_same(model(ids), oracle.eval()(ids))


def test_memory_carries_on(tmp_path):
    oracle, model = make_pair(tmp_path, "backbone", mem_len=11, reuse_len=4)
    theirs = ours = None
    for seed in range(4):
        ids = text(seed)["input_ids"]
        expected = oracle(ids, mems=theirs)
        actual = model(ids, mems=ours)
        assert_same(actual, expected)
        theirs, ours = expected.mems, actual.mems
    assert ours[0].shape[1] == 11
    model.train()
    assert model(ids).mems is None
    assert model(ids, use_mems=True).mems is not None


@pytest.mark.parametrize("lengths", [[4, 1, 4], [1] * L])
def test_one_way_segments_and_single_tokens_equal_one_pass(tmp_path, lengths):
    _, model = make_pair(tmp_path, "backbone", attn_type="uni", mem_len=None, reuse_len=None)
    ids, mems, states = text()["input_ids"], None, []
    for segment in ids.split(lengths, 1):
        output = model(segment, mems=mems)
        states.append(output.last_hidden_state)
        mems = output.mems
    torch.testing.assert_close(torch.cat(states, 1), model(ids).last_hidden_state, **ORACLE)


def test_checkpointing_gives_the_same_gradients(tmp_path):
    _, model = make_pair(tmp_path, "permutation-lm")
    batch = text() | permuted()[1] | {"labels": text()["input_ids"][:, :P]}
    gradients = []
    for enabled in (False, True):
        model.train().gradient_checkpointing_enable(enabled)
        model.zero_grad()
        torch.manual_seed(3)
        model(**batch).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


@pytest.mark.parametrize("size", [("base", 12, 768, 12, 3072), ("large", 24, 1024, 16, 4096)])
def test_published_sizes(size):
    name = f"xlnet-{size[0]}-cased"
    config = ptm.model_card(name).config(name)
    assert (config.n_layer, config.d_model, config.n_head, config.d_inner) == size[1:]
    assert config.vocab_size == 32000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"perm_rank": torch.ones(B, L), "perm_mask": torch.ones(B, L, L)}, "no perm_mask"),
        ({"target_mapping": torch.zeros(B, P, L + 1)}, "target_mapping has shape"),
        ({"input_ids": torch.full((B, L), V)}, "input_ids holds"),
    ],
)
def test_input_that_does_not_fit(arguments, message):
    model = ptm.create_model("xlnet-base", "permutation-lm", **SIZES)
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": text()["input_ids"]} | arguments)


def test_an_odd_batch_has_no_backwards_half():
    model = ptm.create_model("xlnet-base", **SIZES, bi_data=True)
    with pytest.raises(ValueError, match="3 rows; expected an even number"):
        model(text()["input_ids"][:3])
