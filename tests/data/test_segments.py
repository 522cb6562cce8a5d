"""Segments of long text: every row goes on, and every batch depends on its place only."""

import numpy as np
import pytest
import torch

from ptmkernels.data import CausalSegments, Cursor, Permutation, PermutedSegments
from ptmkernels.data.dataset import load_batches
from tests.data.corpora import random_corpus, tokenizer

TOKENIZER = tokenizer()
CORPUS = random_corpus(12, 0)
L, B = 16, 4


def causal(**options):
    options = {"batch_size": B, "length": L, "stride": L, "seed": 1} | options
    return CausalSegments(CORPUS, TOKENIZER, **options)


def permuted(**options):
    permutation = Permutation(predictions=5, reuse_len=L // 2, block=4)
    options = {"batch_size": B, "length": L, "stride": L // 2, "seed": 1} | options
    return PermutedSegments(CORPUS, TOKENIZER, permutation=permutation, **options)


def batches(data, count):
    cursor = Cursor()
    for _ in range(count):
        yield data.batch(cursor, B)
        cursor = data.advance(cursor, B)


def test_rows_go_on_and_labels_are_the_next_tokens():
    data = causal()
    steps = list(batches(data, data.steps + 1))
    text = torch.cat([batch["input_ids"] for batch in steps[:-1]], 1)
    expected = [data.row(r, data.tokens)[: data.steps * L] for r in range(B)]
    assert np.array_equal(text.numpy(), np.stack(expected))
    assert torch.equal(steps[0]["labels"][:, :-1], steps[0]["input_ids"][:, 1:])
    assert torch.equal(steps[0]["labels"][:, -1], steps[1]["input_ids"][:, 0])
    assert [bool(b["continues"].all()) for b in steps] == [False, *[True] * (data.steps - 1), False]
    assert torch.equal(steps[-1]["input_ids"], steps[0]["input_ids"])  # the next epoch
    separators = (data.tokens == TOKENIZER.sep_id).sum()
    assert separators == CORPUS.num_documents


def test_processes_share_the_rows():
    whole, shared = causal(batch_size=2 * B), causal(num_processes=2)
    for rank in range(2):
        own = load_batches(shared, Cursor(), B, rank=rank, num_processes=2)
        every = load_batches(whole, Cursor(), 2 * B)
        for _ in range(3):
            part = next(own)["input_ids"]
            assert torch.equal(part, next(every)["input_ids"][rank * B : (rank + 1) * B])


def test_permuted_segments():
    data = permuted()
    half = L // 2
    steps = list(batches(data, data.steps))
    assert data.steps > 3
    for number, batch in enumerate(steps):
        ids = batch["input_ids"]
        assert ids.shape == (B, L)
        for row in range(B):
            text = data.row(row, data.tokens)
            remembered = text[number * half : (number + 1) * half]
            assert np.array_equal(ids[row, :half].numpy(), remembered)
        assert (ids[:, -1] == TOKENIZER.cls_id).all()
        assert (ids[:, -2] == TOKENIZER.sep_id).all()
        assert (batch["token_type_ids"][:, -1] == 2).all()
        assert batch["target_mapping"].shape == batch["labels"].shape == (B, 5)
        picked = ids.gather(1, batch["target_mapping"])
        real = batch["labels"] != -100
        assert torch.equal(picked[real], batch["labels"][real])
    forward, backward = (data.row(r, data.tokens) for r in (0, B // 2))
    assert np.array_equal(forward, backward[::-1])
    assert torch.equal(steps[2]["perm_rank"], data.batch(Cursor(0, 2 * B), B)["perm_rank"])


def test_the_second_text_goes_on_half_of_the_time():
    data = permuted(batch_size=2)
    follows = []
    for number in range(data.steps):
        ids = data.batch(Cursor(0, 2 * number), 2)["input_ids"][0, L // 2 :].numpy()
        types = data.batch(Cursor(0, 2 * number), 2)["token_type_ids"][0, L // 2 :].numpy()
        a, b = ids[types == 0][:-1], ids[types == 1][:-1]
        start = (number + 1) * L // 2
        text = data.row(0, data.tokens)[start : start + len(a) + len(b)]
        assert np.array_equal(a, text[: len(a)])
        follows.append(np.array_equal(b, text[len(a) :]))
    # three deviations of a fair coin, and chance likeness of short texts
    assert abs(np.mean(follows) - 0.5) < 1.5 / len(follows) ** 0.5 + 0.05


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (causal, {"length": 10**6}, r"the text has \d+ tokens, \d+ for each of 4 rows"),
        (permuted, {"batch_size": 3}, "batch_size is 3; expected an even number"),
    ],
)
def test_what_cannot_be(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_fingerprint_tells_texts_apart():
    assert causal().fingerprint() == causal().fingerprint()
    assert causal().fingerprint() != causal(length=8, stride=8).fingerprint()
