"""Our fast mode is as good as gensim, with one thread and two, by the measures of the benchmark."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ptmkernels.benchmarks import word_vector_quality as bench
from ptmkernels.benchmarks.word_vector_quality import Quality, Task, Trained
from ptmkernels.data.word_stream import Vocabulary

TASKS = [
    Task("skip-gram", "negative-sampling", 50),
    Task("cbow", "negative-sampling", 50),
    Task("cbow", "hierarchical-softmax", 50),
]
# Of the overlap: on a busy machine a thread may rest between reading and writing part of a row, and undo
# what another did meanwhile; in one training of eight on so short a text this shows. The median of some
# seeds is held against gensim, with this margin beside the usual one.
SEEDS = range(1, 6)
RACE_MARGIN = 0.01


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    pytest.importorskip("gensim")
    folder = tmp_path_factory.mktemp("corpora")
    topics = bench.planted_topics(folder, 40, 20, 800, 4000, epochs=3)
    return SimpleNamespace(topics=topics, text=bench.real_text(folder, epochs=5))


def quality(task, on_topics, on_text, others, corpora) -> Quality:
    overlap = np.mean([bench.neighbour_overlap(on_text, other) for other in others])
    loss = bench.held_out_loss(on_text, corpora.text, task)
    return Quality(bench.topic_precision(on_topics), float(overlap), loss)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.architecture}-{task.loss}")
def test_as_good_as_gensim(corpora, task):
    peers = [bench.train_gensim(corpora.text, task, seed) for seed in (1, 2)]
    peer = quality(task, bench.train_gensim(corpora.topics, task), peers[0], peers[1:], corpora)
    on_topics = bench.train(corpora.topics, task)
    alone = quality(task, on_topics, bench.train(corpora.text, task), peers, corpora)
    assert not alone.shortfall(peer), f"{alone}; gensim: {peer}"

    on_topics = bench.train(corpora.topics, task, threads=2)
    runs = [bench.train(corpora.text, task, seed, threads=2) for seed in SEEDS]
    all_qualities = [quality(task, on_topics, run, peers, corpora) for run in runs]
    median = sorted(all_qualities, key=lambda q: q.overlap)[len(SEEDS) // 2]
    shared = dataclasses.replace(median, overlap=median.overlap + RACE_MARGIN)
    assert not shared.shortfall(peer), f"{all_qualities}; gensim: {peer}"


def model(vectors) -> Trained:
    words = [f"t{i // 15}w{i % 15}" for i in range(30)]
    vocabulary = Vocabulary(words, np.arange(60, 30, -1))
    return Trained(vocabulary, vectors, torch.zeros_like(vectors), None, 1.0)


def test_measures_know_good_from_bad():
    torch.manual_seed(0)
    sorted_rows = torch.eye(2).repeat_interleave(15, 0) + 0.01 * torch.randn(30, 2)
    good, bad = model(sorted_rows), model(torch.randn(30, 20))
    assert bench.topic_precision(good) == 1
    assert 0.3 < bench.topic_precision(bad) < 0.7  # 14 of the 29 others are of a word's topic
    assert bench.neighbour_overlap(good, good) == 1
    assert bench.neighbour_overlap(good, bad) < 0.6


def test_shortfall_names_the_measure():
    peer = Quality(precision=0.9, overlap=0.7, loss=2.0)
    assert Quality(0.895, 0.685, 2.01).shortfall(peer) == ""
    assert Quality(0.88, 0.7, 2.0).shortfall(peer) == "precision 0.880, peer 0.900"
    assert Quality(0.9, 0.67, 2.0).shortfall(peer).startswith("overlap")
    assert Quality(0.9, 0.7, 2.03).shortfall(peer).startswith("held-out loss")
