"""The exact mode against a NumPy port of word2vec.c; GloVe against a float64 replica."""

import numpy as np
import pytest
import torch

from ptmkernels.ops import HuffmanTree, glove_step_
from ptmkernels.ops.word_vectors import ExactState, reference, word2vec_exact_step_


@pytest.mark.parametrize("cbow", [False, True])
@pytest.mark.parametrize("tree", [False, True])
def test_exact_mode_equals_word2vec_c(cbow, tree):
    rng = np.random.default_rng(1)
    size, width = 30, 10
    tokens = rng.choice(size, 3000, p=np.arange(size, 0, -1) / sum(range(size + 1)))
    tokens[::17] = 0
    tokens[-1] = 0
    tokens = tokens.astype(np.int32)
    counts = np.bincount(tokens, minlength=size)
    order = [0, *(1 + np.argsort(-counts[1:]))]
    counts = np.sort(counts)[::-1] + np.arange(size)[::-1]  # falling, whatever they count
    tokens = np.argsort(order)[tokens].astype(np.int32)
    a, b = rng.normal(0, 0.5, (2, size, width)).astype(np.float32)
    b = b[1:] if tree else b
    huffman = HuffmanTree.from_counts(counts) if tree else None
    options = {"cbow": cbow, "window": 4, "epochs": 2, "sample": 1e-1}
    port = reference.Word2vecExact(
        a.copy(), b.copy(), counts, negatives=5, alpha=0.05, tree=huffman,
        **options,
    )  # fmt: skip
    ours = [torch.from_numpy(x.copy()) for x in (a, b)]
    state = ExactState()
    for _ in range(2):
        port.epoch(tokens)
        word2vec_exact_step_(
            *ours, torch.from_numpy(tokens), counts=torch.from_numpy(counts), state=state,
            learning_rate=0.05, tree=huffman,
            noise_ends=None if tree else torch.from_numpy(reference.noise_ends(counts)),
            **options,
        )  # fmt: skip
        state.end_epoch()
    assert state.values[0].item() % 2**64 == port.random
    assert np.abs(port.syn0 - a).max() > 0.1
    # The port and the kernel round alike but for the compiler's freedom in the products.
    np.testing.assert_allclose(ours[0].numpy(), port.syn0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1].numpy(), port.syn1, rtol=1e-4, atol=1e-5)


def test_noise_ends_equal_the_table_of_word2vec_c(monkeypatch):
    monkeypatch.setattr(reference, "NOISE_TABLE", 1000)
    counts = np.array([500, 90, 40, 3, 1, 1])
    share = counts**0.75 / (counts**0.75).sum()
    table, i, edge = [], 0, share[0]
    for cell in range(1000):
        table.append(i)
        if cell / 1000 > edge:
            i = min(i + 1, 5)
            edge += share[i]
    ends = reference.noise_ends(counts)
    np.testing.assert_array_equal(np.searchsorted(ends[:-1], np.arange(1000)), table)


def glove_parameters(size, width, dtype, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "word": (size, width),
        "context": (size, width),
        "word_bias": (size,),
        "context_bias": (size,),
    }
    values = {
        n: (torch.rand(s, generator=generator, dtype=torch.float64) - 0.5).to(dtype)
        for n, s in shapes.items()
    }
    return values | {f"{n}_sums": torch.ones(s, dtype=dtype) for n, s in shapes.items()}


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_glove_epoch_equals_a_replica(dtype, tolerance):
    size, width = 12, 7
    rng = np.random.default_rng(2)
    rows, columns = rng.integers(0, size, (2, 300)).astype(np.int32)
    values = rng.exponential(60, 300) + 0.1
    parameters = glove_parameters(size, width, dtype)
    p = {n: t.double().numpy().copy() for n, t in parameters.items()}
    loss = 0
    for i, j, x in zip(rows, columns, values, strict=True):
        d = p["word"][i] @ p["context"][j] + p["word_bias"][i] + p["context_bias"][j] - np.log(x)
        g = d if x > 100 else (x / 100) ** 0.75 * d
        loss += 0.5 * g * d
        steps = [
            0.05 * np.clip(g * p["context"][j], -100, 100),
            0.05 * np.clip(g * p["word"][i], -100, 100),
        ]
        for name, row, step in (("word", i, steps[0]), ("context", j, steps[1])):
            p[name][row] -= step / np.sqrt(p[f"{name}_sums"][row])
            p[f"{name}_sums"][row] += step**2
        for name, row in (("word_bias", i), ("context_bias", j)):
            p[name][row] -= g / np.sqrt(p[f"{name}_sums"][row])
            p[f"{name}_sums"][row] += g**2
    actual = glove_step_(parameters, *(torch.from_numpy(x) for x in (rows, columns, values)))
    assert actual == pytest.approx(loss, rel=max(tolerance, 1e-12))
    for name, value in parameters.items():
        np.testing.assert_allclose(
            value.double().numpy(), p[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_glove_refuses_bad_input():
    parameters = glove_parameters(4, 3, torch.float32)
    rows = torch.tensor([1], dtype=torch.int32)
    good = torch.tensor([2.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="rows holds 4"):
        glove_step_(parameters, rows + 3, rows, good)
    with pytest.raises(ValueError, match="values must be"):
        glove_step_(parameters, rows, rows, good * 0)
    with pytest.raises(ValueError, match="learning_rate is nan"):
        glove_step_(parameters, rows, rows, good, learning_rate=float("nan"))
    with pytest.raises(ValueError, match="word_bias has shape"):
        glove_step_(parameters | {"word_bias": torch.zeros(3)}, rows, rows, good)
    sums = parameters["context_sums"].to("meta")
    with pytest.raises(ValueError, match="context_sums is on meta; expected cpu"):
        glove_step_(parameters | {"context_sums": sums}, rows, rows, good)
    with pytest.raises(ValueError, match="parameters has no word_bias, context"):
        glove_step_({n: parameters[n] for n in ("word", "context")}, rows, rows, good)
    for name, value in (("power", float("nan")), ("x_max", 0), ("threads", 0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            glove_step_(parameters, rows, rows, good, **{name: value})


def test_exact_mode_refuses_bad_input():
    counts = torch.arange(6, 0, -1)
    good = {
        "input_weight": torch.zeros(6, 4), "output_weight": torch.zeros(6, 4),
        "tokens": torch.tensor([1, 2, 3, 0], dtype=torch.int32), "counts": counts,
        "noise_ends": torch.from_numpy(reference.noise_ends(counts.numpy())),
        "state": ExactState(), "cbow": False, "window": 2, "learning_rate": 0.05, "epochs": 1,
    }  # fmt: skip
    word2vec_exact_step_(**good)
    for name, value, match in (
        ("window", 0, "window is 0"),
        ("window", -3, "window is -3"),
        ("epochs", 0, "epochs is 0"),
        ("num_negatives", -1, "num_negatives is -1"),
        ("sample", float("nan"), "sample is nan"),
        ("counts", counts * 0, "counts must be"),
        ("counts", counts.float(), "counts is torch.float32"),
        ("noise_ends", good["noise_ends"][:3], "noise_ends is"),
        ("output_weight", torch.zeros(6, 3), r"output_weight has shape \(6, 3\)"),
        ("output_weight", torch.zeros(4, 6).T, "output_weight has shape .* columns together"),
        ("tokens", good["tokens"] + 6, "tokens holds"),
    ):
        with pytest.raises(ValueError, match=match):
            word2vec_exact_step_(**(good | {name: value}))
    few = {"tree": HuffmanTree.from_counts([2, 1]), "output_weight": torch.zeros(1, 4)}
    with pytest.raises(ValueError, match="tree is over 2 words; expected 6"):
        word2vec_exact_step_(**(good | few | {"noise_ends": None}))
