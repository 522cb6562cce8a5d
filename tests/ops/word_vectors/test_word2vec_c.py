"""The exact mode against numbers that word2vec.c wrote (commit 20c129a, gcc -O2, one thread, one epoch)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ptmkernels.ops import HuffmanTree
from ptmkernels.ops.word_vectors import ExactState, reference, word2vec_exact_step_

GOLDEN = json.loads(Path(__file__).with_name("word2vec_c.json").read_text())
WIDTH, WINDOW, RATE, SAMPLE = 12, 4, 0.05, 1e-2


def corpus():
    """1500 short lines of a skewed vocabulary of 60 words, from a generator that will never change."""
    state, lines = 1, []

    def draw():
        nonlocal state
        state = (state * 25214903917 + 11) % 2**64
        return (state >> 16) % 2**32 / 2**32

    for _ in range(1500):
        lines.append([f"w{int(60 * draw() ** 3)}" for _ in range(1 + int(3 * draw()))])
    return lines


def encode(lines):
    """Ids with </s> as 0 and the others by falling count, then by first appearance, and their counts."""
    counts: dict[str, int] = {}
    for line in lines:
        for word in line:
            counts[word] = counts.get(word, 0) + 1
    words = ["</s>", *sorted(counts, key=lambda w: -counts[w])]
    index = {word: i for i, word in enumerate(words)}
    ids = [i for line in lines for i in (*(index[w] for w in line), 0)]
    return words, np.array(ids, np.int32), np.array([len(lines), *(counts[w] for w in words[1:])])


def starting_rows(rows):
    state, values = 1, []
    for _ in range(rows * WIDTH):
        state = (state * 25214903917 + 11) % 2**64
        values.append((np.float32((state & 0xFFFF) / 65536) - np.float32(0.5)) / WIDTH)
    return torch.tensor(np.array(values, np.float32).reshape(rows, WIDTH))


@pytest.mark.parametrize("name", ["skip-gram-ns", "skip-gram-hs", "cbow-ns", "cbow-hs"])
def test_vectors_equal_those_of_the_c_tool(name):
    words, tokens, counts = encode(corpus())
    tree = HuffmanTree.from_counts(counts) if name.endswith("hs") else None
    vectors = starting_rows(len(words))
    output = torch.zeros(len(words) - (tree is not None), WIDTH)
    word2vec_exact_step_(
        vectors, output, torch.from_numpy(tokens), counts=torch.from_numpy(counts),
        state=ExactState(), cbow=name.startswith("cbow"), window=WINDOW, learning_rate=RATE,
        epochs=1, sample=SAMPLE, tree=tree,
        noise_ends=None if tree else torch.from_numpy(reference.noise_ends(counts)),
    )  # fmt: skip
    for word, expected in GOLDEN[name].items():
        actual = vectors[words.index(word)].numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=word)
