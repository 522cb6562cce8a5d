"""BERT against Transformers with the same random weights: every head, either GELU, padding on either side."""

import pytest
import torch

import ptmkernels as ptm
from tests.models.oracles import assert_same_gradients
from tests.tolerances import ORACLE, ORACLE_GRADIENT

transformers = pytest.importorskip("transformers")

B, L, V, C = 3, 17, 101, 5
SIZES = {
    "vocab_size": V,
    "hidden_size": 39,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 53,
    "max_position_embeddings": 23,
    "initializer_range": 0.2,  # large enough that an error anywhere is seen in the result
}
HEADS = {
    "backbone": "BertModel",
    "pretraining": "BertForPreTraining",
    "masked-lm": "BertForMaskedLM",
    "next-sentence": "BertForNextSentencePrediction",
    "sequence-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "question-answering": "BertForQuestionAnswering",
    "multiple-choice": "BertForMultipleChoice",
}


def make_pair(tmp_path, head, **config):
    """Transformers' model with random weights, biases and norms too, and ours read from its folder."""
    torch.manual_seed(7)
    config = transformers.BertConfig(**(SIZES | config))
    oracle = getattr(transformers, HEADS[head])(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle.save_pretrained(tmp_path / "oracle")
    return oracle, ptm.from_pretrained(tmp_path / "oracle")


def padding(side):
    """(B, L), each row with its own number of tokens; the first is full."""
    lengths = torch.tensor([L, 9, 4])[:, None]
    columns = torch.arange(L)
    return {
        "none": torch.ones(B, L, dtype=torch.long),
        "right": (columns < lengths).long(),
        "left": (columns >= L - lengths).long(),
        "holes": ((columns + torch.arange(B)[:, None]) % 4 != 1).long(),
    }[side]


def make_batch(head, side):
    torch.manual_seed(11)
    mask = padding(side)
    batch = {
        "input_ids": torch.randint(1, V, (B, L)) * mask,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(L) > 6).long() * mask,
    }
    labels = torch.where(torch.rand(B, L) < 0.4, torch.randint(0, V, (B, L)), -100)
    batch |= {
        "backbone": {},
        "pretraining": {"labels": labels, "next_sentence_label": torch.tensor([0, 1, 1])},
        "masked-lm": {"labels": labels},
        "next-sentence": {"labels": torch.tensor([0, 1, 1])},
        "sequence-classification": {"labels": torch.tensor([0, 4, 2])},
        "token-classification": {"labels": torch.where(labels < 0, labels, labels % C)},
        "question-answering": {
            "start_positions": torch.tensor([3, 0, L + 9]),
            "end_positions": torch.tensor([9, 2, 1]),
        },
        "multiple-choice": {"labels": torch.tensor([2])},
    }[head]
    if head == "multiple-choice":
        inputs = ("input_ids", "attention_mask", "token_type_ids")
        batch |= {name: batch[name][None] for name in inputs}  # one question, B choices
    return batch


def assert_same_outputs(ours, oracle, mask):
    for name in oracle:
        if name in ("hidden_states", "attentions"):
            continue
        actual, expected = getattr(ours, name), oracle[name]
        if expected.shape[:2] == mask.shape:  # what lies at padded positions means nothing
            actual, expected = actual[mask.bool()], expected[mask.bool()]
        torch.testing.assert_close(actual, expected, **ORACLE, msg=lambda m, n=name: f"{n}: {m}")


def scalar(outputs):
    """The loss, or for the bare encoder any scalar that depends on everything."""
    if (loss := getattr(outputs, "loss", None)) is not None:
        return loss
    return outputs.pooler_output.sin().sum()


@pytest.mark.parametrize("side", ["none", "right", "left", "holes"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("head", HEADS)
def test_outputs_loss_and_gradients_equal_transformers(tmp_path, head, activation, side):
    labels = {"num_labels": C} if "classification" in head else {}
    oracle, model = make_pair(tmp_path, head, hidden_act=activation, **labels)
    batch = make_batch(head, side)
    expected, actual = oracle(**batch), model(**batch)
    assert_same_outputs(actual, expected, padding(side))
    assert_same_gradients(model, scalar(actual), oracle, scalar(expected))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (torch.rand(B, C), None),
        (torch.rand(B, C), "regression"),
        (torch.rand(B, C).round(), "multi_label_classification"),
        (torch.tensor([0, -100, 2]), "single_label_classification"),
    ],
)
def test_problem_types_of_sequence_classification(tmp_path, labels, problem):
    oracle, model = make_pair(
        tmp_path, "sequence-classification", num_labels=C, problem_type=problem
    )
    batch = make_batch("sequence-classification", "right") | {"labels": labels}
    torch.testing.assert_close(model(**batch).loss, oracle(**batch).loss, **ORACLE)


def test_regression_of_one_number(tmp_path):
    oracle, model = make_pair(tmp_path, "sequence-classification", num_labels=1)
    batch = make_batch("sequence-classification", "left") | {"labels": torch.rand(B)}
    torch.testing.assert_close(model(**batch).loss, oracle(**batch).loss, **ORACLE)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 9000])
@pytest.mark.parametrize("head", HEADS)
def test_transformers_reads_what_we_save(tmp_path, head, max_shard_bytes):
    torch.manual_seed(7)
    labels = {"num_labels": C} if "classification" in head else {}
    model = ptm.create_model("bert-tiny", head, **SIZES, **labels).eval()
    model.save_pretrained(tmp_path, max_shard_bytes=max_shard_bytes)
    oracle_class = getattr(transformers, HEADS[head])
    oracle, report = oracle_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert oracle.config.architectures == [HEADS[head]]
    batch = make_batch(head, "right")
    assert_same_outputs(model(**batch), oracle(**batch), padding("right"))


def test_shards_that_transformers_wrote(tmp_path):
    oracle, model = make_pair(tmp_path, "pretraining")
    oracle.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    loaded = ptm.from_pretrained(tmp_path / "shards")
    for a, b in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("side", ["none", "right", "left"])
def test_hidden_states_and_attentions_equal_transformers(tmp_path, side):
    oracle, model = make_pair(tmp_path, "backbone", attn_implementation="eager")
    batch = make_batch("backbone", side)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    expected, actual = oracle(**batch, **wanted), model(**batch, **wanted)
    real = batch["attention_mask"].bool()
    assert len(actual.hidden_states) == 4
    assert len(actual.attentions) == 3
    for a, e in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(a[real], e[real], **ORACLE)
    for a, e in zip(actual.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(a.transpose(1, 2)[real], e.transpose(1, 2)[real], **ORACLE)
    packed = model(**batch, output_hidden_states=True)
    for a, e in zip(packed.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(a[real], e[real], **ORACLE)


def test_embeddings_and_positions_given_by_the_caller(tmp_path):
    oracle, model = make_pair(tmp_path, "masked-lm")
    mask = padding("right")
    inputs = {
        "inputs_embeds": torch.randn(B, L, SIZES["hidden_size"]),
        "position_ids": torch.randperm(L).expand(B, L),
        "attention_mask": mask,
    }
    expected = oracle(**inputs).logits[mask.bool()]
    torch.testing.assert_close(model(**inputs).logits[mask.bool()], expected, **ORACLE)


def test_a_three_dimensional_mask(tmp_path):
    oracle, model = make_pair(tmp_path, "masked-lm")
    batch = make_batch("masked-lm", "none")
    mask = torch.rand(B, L, L) < 0.5
    mask |= torch.eye(L, dtype=torch.bool)
    four_dim = int(transformers.__version__.split(".")[0]) >= 5
    expected = oracle(**batch | {"attention_mask": mask[:, None] if four_dim else mask}).logits
    actual = model(**batch | {"attention_mask": mask}).logits
    torch.testing.assert_close(actual, expected, **ORACLE)


def test_interval_masks_equal_their_dense_form(tmp_path):
    _, model = make_pair(tmp_path, "masked-lm")
    ids = torch.randint(1, V, (B, L))
    mask = ptm.AttentionMask.prefix([3, 9, L], L)
    dense = model(ids, mask.to_dense()).logits
    torch.testing.assert_close(model(ids, mask).logits, dense, **ORACLE)
    real = padding("right")
    both = mask & ptm.AttentionMask.keys(real)
    dense = model(ids, both.to_dense()).logits[real.bool()]
    torch.testing.assert_close(model(ids, both).logits[real.bool()], dense, **ORACLE)


def test_packed_documents_equal_one_text_at_a_time(tmp_path):
    oracle, model = make_pair(tmp_path, "masked-lm")
    lengths = [7, 1, 5]
    texts = [torch.randint(1, V, (1, n)) for n in lengths]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    packed = torch.cat(texts, 1)
    expected = torch.cat([oracle(text).logits for text in texts], 1)
    actual = model(packed, document_ids=documents[None]).logits
    torch.testing.assert_close(actual, expected, **ORACLE)
    padded = torch.cat([packed, packed[:, :4]], 1)
    ids = torch.cat([documents, torch.full((4,), 3)])[None]
    actual = model(padded, (ids < 3).long(), document_ids=ids).logits[:, : len(documents)]
    torch.testing.assert_close(actual, expected, **ORACLE)


def test_gradients_of_each_example_at_once():
    """torch.func's vmap, under which no value can be looked at, of ids, masks and intervals."""
    torch.manual_seed(3)
    model = ptm.create_model("bert-tiny", "masked-lm", **SIZES).eval()
    parameters = dict(model.named_parameters())

    def loss(parameters, ids, mask):
        arguments = {"input_ids": ids[None], "attention_mask": mask[None], "labels": ids[None]}
        return torch.func.functional_call(model, parameters, (), arguments).loss

    ids, mask = torch.randint(0, V, (B, L)), padding("left")
    actual = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, ids, mask)
    for row in range(B):
        gradients = torch.autograd.grad(
            loss(parameters, ids[row], mask[row]), list(parameters.values()), materialize_grads=True
        )
        for name, expected in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(actual[name][row], expected, **ORACLE_GRADIENT)


@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("head", ["masked-lm", "pretraining"])
def test_projecting_labelled_positions_only_changes_nothing(tmp_path, head, side):
    _, model = make_pair(tmp_path, head)
    batch = make_batch(head, side)
    full, few = model(**batch), model(**batch, labelled_only=True)
    name = "logits" if head == "masked-lm" else "prediction_logits"
    torch.testing.assert_close(few.loss, full.loss, **ORACLE)
    chosen = getattr(full, name)[batch["labels"] != -100]
    torch.testing.assert_close(getattr(few, name), chosen, **ORACLE)


def test_padding_is_left_out_and_gives_zeros(tmp_path):
    _, model = make_pair(tmp_path, "backbone")
    batch = make_batch("backbone", "right")
    rows = []
    model.backbone.stack.layers[0].register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    result = model(**batch).last_hidden_state
    assert rows[0].shape[:2] == (1, batch["attention_mask"].sum())
    assert not result[batch["attention_mask"] == 0].any()


def test_checkpointing_gives_the_same_gradients(tmp_path):
    _, model = make_pair(tmp_path, "pretraining")
    batch = make_batch("pretraining", "right")
    model.train()
    gradients = []
    for enabled in (False, True):
        model.gradient_checkpointing_enable(enabled)
        model.zero_grad()
        torch.manual_seed(3)
        model(**batch).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"input_ids": torch.zeros(1, 24, dtype=torch.long)},
            ValueError,
            "24 tokens.* 23 positions",
        ),
        (
            {"input_ids": torch.tensor([[3, V]])},
            ValueError,
            f"input_ids holds 3..{V}; expected 0..100",
        ),
        ({"input_ids": torch.tensor([[3, -1]])}, ValueError, "input_ids holds -1..3"),
        ({"input_ids": torch.zeros(1, 4)}, TypeError, "input_ids has dtype torch.float32"),
        ({"input_ids": torch.tensor([3, 4])}, ValueError, r"input_ids has shape \(2,\)"),
        ({}, ValueError, "one of input_ids and inputs_embeds"),
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 4)},
            ValueError,
            r"attention_mask has shape \(2, 4\)",
        ),
        (
            {
                "input_ids": torch.ones(1, 2, dtype=torch.long),
                "token_type_ids": torch.tensor([[0, 2]]),
            },
            ValueError,
            "token_type_ids holds 0..2; expected 0..1",
        ),
    ],
)
def test_input_that_does_not_fit(arguments, error, message):
    model = ptm.create_model("bert-tiny", **SIZES)
    with pytest.raises(error, match=message):
        model(**arguments)


def test_question_answering_has_two_labels():
    with pytest.raises(ValueError, match=r"num_labels is 3; .* 2"):
        ptm.create_model("bert-tiny", "question-answering", num_labels=3)
