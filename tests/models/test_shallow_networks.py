"""NNLM, CharCNN language model, Skip-thought and context2vec: their formulas and golden data; BPE's files."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ptmkernels.models.shallow.bpe import BPE
from ptmkernels.models.shallow.char_cnn import LARGE, SMALL, CharCNNLanguageModel
from ptmkernels.models.shallow.context2vec import Context2Vec
from ptmkernels.models.shallow.nnlm import NNLM
from ptmkernels.models.shallow.skip_thoughts import SkipThoughts, combine, expand_vocabulary
from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.ops import AliasTable
from tests.golden import golden
from tests.tolerances import ORACLE

GOLDEN = golden("skip_thoughts")


@pytest.mark.parametrize("direct", [True, False])
def test_nnlm_is_its_formula(direct):
    torch.manual_seed(1)
    v, n, m, h = 11, 4, 6, 5
    model = NNLM(v, n, m, h, direct).double()
    ids, labels = torch.randint(v, (3, n - 1)), torch.randint(v, (3,))
    x = model.embeddings.weight[ids].reshape(3, -1)
    y = (
        model.output.bias
        + torch.tanh(x @ model.hidden.weight.T + model.hidden.bias) @ model.output.weight.T
    )
    if direct:
        y = y + x @ model.direct.weight.T
    result = model(ids, labels)
    torch.testing.assert_close(result["logits"], y)
    expected = -(y.exp() / y.exp().sum(1, keepdim=True)).log()[torch.arange(3), labels].mean()
    torch.testing.assert_close(result["loss"], expected)
    if direct:
        assert sum(p.numel() for p in model.parameters()) == v * (1 + n * m + h) + h * (
            1 + (n - 1) * m
        )
    decayed, free = model.parameter_groups()
    assert sum(p.numel() for p in free["params"]) == v + h
    assert decayed["weight_decay"] > 0


def test_char_cnn_sizes_and_padding():
    torch.manual_seed(1)
    assert CharCNNLanguageModel(9, 20, **SMALL).width == 525
    assert CharCNNLanguageModel(9, 20, **LARGE).width == 1100
    model = CharCNNLanguageModel(9, 20, ((1, 3), (4, 5)), 2, 7).double().eval()
    ids = torch.randint(1, 20, (2, 3, 6))
    ids[0, 0, 2:] = 0
    padded = torch.cat([ids, torch.zeros(2, 3, 9, dtype=torch.int64)], -1)
    torch.testing.assert_close(model.word_vectors(ids), model.word_vectors(padded))
    assert (model.highways[0].gate.bias == -2).all()
    # A word shorter than a filter: its padding, however long, counts as nothing.
    short = torch.randint(1, 20, (1, 2))
    padded = torch.cat([short, torch.zeros(1, 5, dtype=torch.int64)], -1)
    torch.testing.assert_close(model.word_vectors(short), model.word_vectors(padded))


def test_char_cnn_is_its_formula_and_carries_its_state():
    torch.manual_seed(1)
    model = CharCNNLanguageModel(9, 20, ((1, 3), (4, 5)), 1, 7).double().eval()
    ids = torch.randint(1, 20, (2, 6, 5))
    word = model.characters.weight[ids[0, 0]]
    features = []
    for conv in model.convolutions:
        width = conv.kernel_size[0]
        maps = [
            torch.tanh((conv.weight * word[s : s + width].T).sum((1, 2)) + conv.bias)
            for s in range(len(word) - width + 1)
        ]
        features.append(torch.stack(maps).amax(0))
    x = torch.cat(features)
    highway = model.highways[0]
    gate = torch.sigmoid(highway.gate.weight @ x + highway.gate.bias)
    x = gate * torch.relu(highway.transform.weight @ x + highway.transform.bias) + (1 - gate) * x
    torch.testing.assert_close(model.word_vectors(ids)[0, 0], x)
    whole = model(ids)["logits"]
    first = model(ids[:, :2])
    second = model(ids[:, 2:], state=first["state"])
    torch.testing.assert_close(whole, torch.cat([first["logits"], second["logits"]], 1))


def load_skip_thoughts(model, weights):
    """Weights under their published names; products are x @ W, so linear layers take transposes."""

    def gru(unit, prefix):
        for layer, w, b in (("gates", "", "b"), ("candidate", "x", "bx")):
            getattr(unit, f"{layer}_input").weight.data = weights[f"{prefix}_W{w}"].T
            getattr(unit, f"{layer}_input").bias.data = weights[f"{prefix}_{b}"]
            getattr(unit, f"{layer}_state").weight.data = weights[f"{prefix}_U{w}"].T

    model.embeddings.weight.data = weights["Wemb"]
    gru(model.encoder, "encoder")
    if model.reverse_encoder is not None:
        gru(model.reverse_encoder, "encoder_r")
        return model
    gru(model.decoders["next"], "decoder_f")
    gru(model.decoders["previous"], "decoder_b")
    model.output.weight.data = weights["ff_logit_W"].T
    model.output.bias.data = weights["ff_logit_b"]
    return model


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"{GOLDEN} is not there")
def test_skip_thoughts_golden():
    config = json.loads((GOLDEN / "a.json").read_text())["config"]
    data = load_file(GOLDEN / "a.safetensors")

    def part(prefix):
        return {k[len(prefix) :]: v for k, v in data.items() if k.startswith(prefix)}

    x = part("inputs.")
    out = part("outputs.")
    words, width = config["n_words"], config["dim_word"]
    uni = load_skip_thoughts(SkipThoughts(words, width, config["dim"]), part("weights.uni."))
    bi = SkipThoughts(words, width, 2 * config["bi_dim"], bidirectional=True)
    bi = load_skip_thoughts(bi, part("weights.bi."))
    ids = {k: x[k].long() for k in "xyz"}
    vector = uni.encode(ids["x"], x["x_mask"])
    torch.testing.assert_close(vector, out["encoder_vector"], **ORACLE)
    for name, key, letter in (("next", "y", "f"), ("previous", "z", "b")):
        states, cost = uni.decode(name, vector, ids[key], x[f"{key}_mask"])
        torch.testing.assert_close(states, out[f"decoder_{letter}_states"], **ORACLE)
        torch.testing.assert_close(cost, out[f"cost_{name}"].squeeze(), **ORACLE)
    total = uni(ids["x"], x["x_mask"], ids["y"], x["y_mask"], ids["z"], x["z_mask"])["loss"]
    torch.testing.assert_close(total, out["cost"].squeeze(), **ORACLE)
    both = bi.encode(ids["x"], x["x_mask"])
    torch.testing.assert_close(both, out["bi_encoder_vector"], **ORACLE)
    torch.testing.assert_close(combine(vector, both), out["combined_normalised"], **ORACLE)


def test_skip_thoughts_masks_of_every_type():
    torch.manual_seed(1)
    model = SkipThoughts(9, 3, 4, bidirectional=True)
    ids, mask = torch.randint(9, (5, 2)), torch.arange(5)[:, None] < torch.tensor([5, 3])
    losses = [model(*[ids, mask.to(dtype)] * 3)["loss"] for dtype in (torch.float32, torch.bool)]
    assert torch.equal(*losses)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="hidden_size is 5; expected an even number"):
        SkipThoughts(9, 3, 5, bidirectional=True)
    with pytest.raises(ValueError, match="order is 1; expected at least 2"):
        NNLM(9, order=1)


def test_context2vec_sees_everything_but_the_word_itself():
    torch.manual_seed(1)
    model = Context2Vec(torch.arange(20, 0, -1), 6, 7, 8).double()
    ids = torch.randint(20, (2, 5))
    context = model.context(ids)
    changed = ids.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 20
    other = model.context(changed)
    torch.testing.assert_close(context[:, 2], other[:, 2])
    for place in (0, 1, 3, 4):
        assert (context[:, place] != other[:, place]).any()


def test_context2vec_is_its_formula():
    """Two LSTMs with embeddings of their own, the sentence's end of each as the last row, and an MLP."""
    torch.manual_seed(1)
    model = Context2Vec(torch.arange(20, 0, -1), 6, 7, 8, negatives=3).double()
    torch.nn.init.normal_(model.targets)
    ids, place = torch.randint(20, (1, 5)), 1

    def last_state(lstm, embeddings, read):
        return lstm(embeddings.weight[[20, *read]][None])[0][0, -1]

    sides = [
        last_state(model.left, model.left_embeddings, ids[0, :place].tolist()),
        last_state(model.right, model.right_embeddings, ids[0, place + 1 :].flip(0).tolist()),
    ]
    first, _, last = model.mlp
    x = torch.relu(torch.cat(sides) @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(model.context(ids)[0, place], x)
    seed = torch.tensor([5])
    noise = AliasTable.from_counts(torch.arange(20, 0, -1), 0.75).sample((5, 3), seed)
    scores = torch.einsum("nd,vd->nv", model.context(ids)[0], model.targets)
    loss = -torch.sigmoid(scores.gather(1, ids.T)).log().sum()
    other = noise != ids.T
    loss -= (torch.sigmoid(-scores.gather(1, noise)).log() * other).sum()
    torch.testing.assert_close(model(ids, seed=seed)["loss"], loss / 5)
    (grad,) = torch.autograd.grad(model.context(ids)[0, place].sum(), model.left_embeddings.weight)
    read = {20, *ids[0, :place].tolist()}
    assert set(grad.abs().sum(1).nonzero()[:, 0].tolist()) == read
    assert {"noise_table", "noise_probabilities"} == dict(model.named_buffers()).keys()


def test_skip_thoughts_learn_words_from_other_vectors():
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(30)]
    vectors = WordVectors(words[5:], rng.normal(size=(25, 4)))
    embeddings = torch.from_numpy(rng.normal(size=(20, 6)).astype(np.float32))
    expanded = expand_vocabulary(embeddings, words[:20], vectors)
    assert expanded.words == words
    np.testing.assert_array_equal(expanded.vectors[:20], embeddings.numpy())
    x, y = vectors.vectors[:15].astype(np.float64), embeddings.numpy()[5:].astype(np.float64)
    normal = np.linalg.solve(x.T @ x, x.T @ y)  # the normal equations
    np.testing.assert_allclose(expanded.vectors[20:], vectors.vectors[15:] @ normal, rtol=1e-5)
    with pytest.raises(ValueError, match="no word in common"):
        expand_vocabulary(embeddings[:5], words[:5], vectors)
    with pytest.raises(ValueError, match=r"embeddings has shape \(20, 6\); expected \(5, E\)"):
        expand_vocabulary(embeddings, words[:5], vectors)


def test_context2vec_learns():
    torch.manual_seed(1)
    model = Context2Vec(torch.tensor([9] * 6), 8, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    ids = (torch.arange(6)[:, None] + torch.arange(5)) % 6
    losses = []
    for step in range(40):
        loss = model(ids, seed=torch.tensor([step]))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_bpe_files(tmp_path):
    (tmp_path / "text").write_text("lower lowest newer wider naïve naïve\n" * 3, encoding="utf-8")
    bpe = BPE.learn(tmp_path / "text", 20)
    bpe.save(tmp_path / "codes")
    again = BPE.load(tmp_path / "codes")
    assert again.merges == bpe.merges
    apply = pytest.importorskip("subword_nmt.apply_bpe")
    with (tmp_path / "codes").open(encoding="utf-8") as codes:
        oracle = apply.BPE(codes)
    line = "newest naïve slower wide"
    assert bpe.encode(line) == oracle.segment(line)
    (tmp_path / "codes").write_text("#version: 0.1\na b\n")
    with pytest.raises(ValueError, match="first line"):
        BPE.load(tmp_path / "codes")
