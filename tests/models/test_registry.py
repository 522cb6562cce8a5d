"""What every model of the zoo must do: the registry gives the list, nothing is left out."""

import inspect
import math
import pickle
import pydoc_data.topics

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ptmkernels as ptm
from ptmkernels import registry
from tests.models.oracles import record_masks
from tests.tolerances import ORACLE

B, L, LAYERS = 4, 24, 2
SMALL = {  # by the names of BERT's configuration and of Transformer-XL's; each model takes its own
    "vocab_size": 128,
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "cutoffs": [40, 80, 110],
    "d_model": 48,
    "d_embed": 48,
    "n_head": 3,
    "d_head": 16,
    "d_inner": 64,
    "n_layer": LAYERS,
    "mem_len": 10,
}
CASES = [
    pytest.param(name, head, id=f"{name}-{head}")
    for card in registry.cards()
    for name in card.preset_names()[:1]
    for head in card.heads
]


def make(name, head):
    torch.manual_seed(0)
    known = ptm.model_card(name).architecture.config.names()
    return ptm.create_model(name, head, **{n: v for n, v in SMALL.items() if n in known})


def real_text(steps=1):
    """Characters of the text that every Python carries, (steps * B, L)."""
    text = pydoc_data.topics.topics["assert"] + pydoc_data.topics.topics["if"]
    ids = torch.tensor([ord(c) % 128 for c in text[: steps * B * L]])
    return ids.view(steps * B, L)


def make_batch(name, head, *, padded=True):
    ids = real_text()
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 15:] = 0
        mask[3, :6] = 0
    hidden = torch.arange(L) % 5 == 2
    masked = torch.where(hidden, 1, ids)
    labels = torch.where(hidden & mask.bool(), ids, -100)
    segments = (torch.arange(L) > 13).long().expand(B, L)
    batch = {"input_ids": masked, "attention_mask": mask, "token_type_ids": segments}
    classes = torch.tensor([0, 1, 1, 0])
    if head == "multiple-choice":
        batch = {n: t.view(2, 2, L) for n, t in batch.items()}
        return batch | {"labels": torch.tensor([0, 1])}
    forward = ptm.model_card(name).architecture.heads[head].model.forward
    if "token_type_ids" not in inspect.signature(forward).parameters:
        del batch["token_type_ids"]
    return (
        batch
        | {
            "backbone": {},
            "pretraining": {"labels": labels, "next_sentence_label": classes},
            "masked-lm": {"labels": labels},
            "next-sentence": {"labels": classes},
            "sequence-classification": {"labels": classes},
            "token-classification": {"labels": torch.where(mask.bool(), ids % 2, -100)},
            "causal-lm": {"input_ids": ids, "labels": torch.where(mask.bool(), ids, -100)},
            "permutation-lm": {
                "input_ids": ids,
                "perm_rank": torch.arange(L).flip(0).expand(B, L),
                "target_mapping": torch.tensor([1, 9, 12]).expand(B, 3),
                "labels": ids[:, [1, 9, 12]],
            },
            "answer-span": {
                "start_positions": classes + 7,
                "end_positions": classes + 9,
                "cls_index": classes + 20,
                "is_impossible": classes.float(),
            },
            "question-answering": {"start_positions": classes + 7, "end_positions": classes + 9},
        }[head]
    )


def loss_of(outputs, batch):
    """The loss, or for the bare encoder any scalar of what it computes for real tokens."""
    if (loss := getattr(outputs, "loss", None)) is not None:
        return loss
    states = outputs.last_hidden_state[batch["attention_mask"].bool()]
    pooled = getattr(outputs, "pooler_output", None)
    return (states.sin().mean() + (0.0 if pooled is None else pooled.sin().mean())).square()


def tensors_of(outputs):
    return [value for value in vars(outputs).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", ptm.list_models())
def test_every_preset_can_be_built(name):
    card = ptm.model_card(name)
    assert card.year > 2000
    assert card.paper
    assert name in ptm.list_models(f"{card.family}/*")
    assert card.architecture is None or card.num_parameters(name) > 0


@pytest.mark.parametrize(("name", "head"), CASES)
def test_loss_falls_on_real_text(name, head):
    model, batch = make(name, head), make_batch(name, head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = loss_of(model(**batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize(("name", "head"), CASES)
def test_all_parameters_get_gradients(name, head):
    model = make(name, head).eval()
    batch = make_batch(name, head)
    loss_of(model(**batch), batch).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias that shifts all that a softmax compares does nothing; XLNet's query stream starts from its mask
    # embedding, and runs in pre-training only
    idle = ["key.bias"] if head == "permutation-lm" else ["key.bias", "mask_embedding"]
    if head in ("multiple-choice", "answer-span"):
        idle += ["classifier.bias", "start_logits.dense.bias", "end_logits.dense_1.bias"]
    assert [n for n in silent if not n.endswith(tuple(idle))] == []


@pytest.mark.parametrize(("name", "head"), CASES)
def test_every_parameter_is_initialised(name, head):
    model = make(name, head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    model.initialise()
    assert not [n for n, p in model.named_parameters() if p.isnan().any()]


@pytest.mark.parametrize(("name", "head"), CASES)
def test_save_and_load(name, head, tmp_path):
    model = make(name, head).eval()
    model.save_pretrained(tmp_path)
    loaded = ptm.from_pretrained(tmp_path)
    assert loaded.head == model.head
    assert not loaded.training
    assert loaded.config == model.config
    for (_, a), (_, b) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(a, b)
    batch = make_batch(name, head)
    pairs = zip(tensors_of(model(**batch)), tensors_of(loaded(**batch)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("name", "head"), CASES)
def test_goes_to_another_process(name, head):
    model, batch = make(name, head).eval(), make_batch(name, head)
    sent = pickle.loads(pickle.dumps(model))
    pairs = zip(tensors_of(model(**batch)), tensors_of(sent(**batch)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("name", "head"), CASES)
def test_compiles_without_a_graph_break(name, head, padded):
    model, batch = make(name, head).eval(), make_batch(name, head, padded=padded)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    actual = compiled(**batch)
    expected = model(**batch)
    torch.testing.assert_close(loss_of(actual, batch), loss_of(expected, batch), **ORACLE)
    loss_of(actual, batch).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss_of(expected, batch).backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, expected, **ORACLE)


@pytest.mark.parametrize(("name", "head"), CASES)
def test_exports(name, head):
    model, batch = make(name, head).eval(), make_batch(name, head)
    exported = torch.export.export(model, (), batch).module()
    actual, expected = exported(**batch), model(**batch)
    torch.testing.assert_close(loss_of(actual, batch), loss_of(expected, batch), **ORACLE)


class TorchAttention(TorchDispatchMode):
    """Counts the calls of torch's own attention."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += "scaled_dot_product" in str(function) or "flex_attention" in str(function)
        return function(*args, **(kwargs or {}))


def test_torchs_attention_is_seen_where_it_is_called():
    query = torch.randn(1, 1, 3, 4)
    with TorchAttention() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.calls == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "head"), CASES)
def test_our_kernel_runs_once_a_layer_and_torchs_never(name, head, training, monkeypatch):
    masks = record_masks(monkeypatch)
    model, batch = make(name, head).train(training), make_batch(name, head)
    with torch.set_grad_enabled(training), TorchAttention() as counter:
        loss = loss_of(model(**batch), batch)
        if training:
            loss.backward()
    assert len(masks) == LAYERS
    assert counter.calls == 0
    assert all(mask is None or mask.allowed is None for mask in masks)  # nothing of size L x S
