"""Batches: reproducible at any place, the same for any number of processes and workers."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch

from ptmkernels.data import (
    IGNORED,
    Cursor,
    FullSentences,
    MaskedDataset,
    Masking,
    SentencePairs,
    load_batches,
)
from tests.data.corpora import random_corpus, tokenizer

TOKENIZER = tokenizer()


def dataset(seed=0, duplicates=None, documents=12, source=SentencePairs, **options):
    corpus = random_corpus(documents)
    return MaskedDataset(
        source(corpus, TOKENIZER, 41),
        Masking.of(TOKENIZER, **options),
        pad_id=TOKENIZER.pad_id,
        seed=seed,
        duplicates=duplicates,
    )


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("duplicates", [None, 3], ids=["dynamic", "static"])
def test_a_batch_depends_on_its_place_only(duplicates):
    data = dataset(duplicates=duplicates)
    forward = [data.batch(Cursor(0, 7 * i), 7) for i in range(5)]
    again = dataset(duplicates=duplicates)
    for i in reversed(range(5)):
        assert same(again.batch(Cursor(0, 7 * i), 7), forward[i])
    assert not same(dataset(seed=1, duplicates=duplicates).batch(Cursor(), 7), forward[0])


def rows_of_epoch(data, epoch):
    return [
        tuple(data.batch(Cursor(epoch, i), 1)["input_ids"][0].tolist())
        for i in range(data.epoch_length(epoch))
    ]


def test_static_masking_repeats_and_dynamic_does_not():
    static = dataset(duplicates=2)
    first, second = rows_of_epoch(static, 0), rows_of_epoch(static, 1)
    assert first != second  # another order …
    assert sorted(first) == sorted(second)  # … of the same rows
    dynamic = dataset()
    common = set(rows_of_epoch(dynamic, 0)) & set(rows_of_epoch(dynamic, 1))
    assert len(common) < 0.2 * dynamic.epoch_length(0)


def test_replicas_differ():
    data = dataset(duplicates=2)
    assert data.epoch_length(0) == sum(len(data._plan(stream)) for stream in range(2))
    rows = rows_of_epoch(data, 0)
    assert len(set(rows)) > 0.8 * len(rows)


def test_an_epoch_shows_everything_once():
    data = dataset(source=FullSentences)
    seen = []
    for i in range(data.epoch_length(0)):
        batch = data.batch(Cursor(0, i), 1)
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        seen.append(tuple(torch.where(labels == IGNORED, ids, labels).tolist()))
    source = data.source
    plan = source.plan(np.random.default_rng(0))
    whole = [tuple(source.example(plan, i).input_ids.tolist()) for i in range(len(plan))]
    assert sorted(seen) == sorted(whole)


def test_batches_go_over_the_end_of_an_epoch():
    data = dataset()
    length = data.epoch_length(0)
    across = data.batch(Cursor(0, length - 2), 5)
    assert across["input_ids"].shape[0] == 5
    last = data.batch(Cursor(1, 2), 1)
    width = last["input_ids"].shape[1]
    assert torch.equal(across["input_ids"][4, :width], last["input_ids"][0])
    assert data.advance(Cursor(0, length - 2), 5) == Cursor(1, 3)
    long = length + data.epoch_length(1) + data.epoch_length(2) + 1
    assert data.advance(Cursor(), long) == Cursor(3, 1)


def test_padding():
    batch = dataset().batch(Cursor(), 9)
    padded = batch["attention_mask"] == 0
    assert padded.any()
    assert (batch["input_ids"][padded] == TOKENIZER.pad_id).all()
    assert (batch["labels"][padded] == IGNORED).all()
    assert (batch["attention_mask"].diff(dim=1) <= 0).all()
    assert batch["next_sentence_label"].shape == (9,)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_change_nothing(workers):
    data, start = dataset(), Cursor(0, 5)
    alone = list(islice(load_batches(data, start, 6), 4))
    parts = [
        list(islice(load_batches(data, start, 3, rank=r, num_processes=2, workers=workers), 4))
        for r in range(2)
    ]
    for i, batch in enumerate(alone):
        ids = [row[row != TOKENIZER.pad_id].tolist() for row in batch["input_ids"]]
        halves = [row[row != TOKENIZER.pad_id].tolist() for p in parts for row in p[i]["input_ids"]]
        assert ids == halves


def test_loading_leaves_the_models_generator_alone():
    before = torch.get_rng_state()
    next(load_batches(dataset(), Cursor(), 3))
    assert torch.equal(before, torch.get_rng_state())


def test_a_dataset_travels_to_workers():
    data = dataset(duplicates=2)
    again = pickle.loads(pickle.dumps(data))
    assert same(again.batch(Cursor(), 4), data.batch(Cursor(), 4))


def test_fingerprints_tell_data_apart():
    marks = [
        dataset().fingerprint(),
        dataset(seed=1).fingerprint(),
        dataset(duplicates=2).fingerprint(),
        dataset(documents=13).fingerprint(),
        dataset(probability=0.2).fingerprint(),
    ]
    assert all(marks.count(mark) == 1 for mark in marks)
    assert dataset().fingerprint() == marks[0]


@pytest.mark.parametrize("options, word", [({"seed": -1}, "seed"), ({"duplicates": 0}, "duplic")])
def test_bad_options(options, word):
    with pytest.raises(ValueError, match=word):
        dataset(**options)
