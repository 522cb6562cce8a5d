"""Word vectors trained by us and by gensim, and what says whether a faster training is as good a one.

Three measures: on a corpus with planted topics the share of a word's ten nearest neighbours that are of its
topic; on real text the overlap of nearest neighbours with gensim's, against that of two gensim runs with
different seeds; and the loss on sentences that were held out.

Both start from word2vec.c's weights (gensim's own are twice as large, which shows after a short training) and
number the words alike (equal counts in another order give another Huffman tree and other neighbours).
"""

from __future__ import annotations

import pydoc_data.topics
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptmkernels.benchmarks.planted_topics import sentences_with_topics
from ptmkernels.data.word_stream import Vocabulary
from ptmkernels.models.shallow import Word2Vec
from ptmkernels.ops import (
    AliasTable,
    HuffmanTree,
    hierarchical_softmax_loss,
    negative_sampling_loss,
)

WINDOW, NEGATIVES, MIN_COUNT, NEIGHBOURS = 5, 5, 5, 10
REAL_WORDS = 1000  # most frequent words of the real text whose neighbours are compared
# What counts as equal quality.
PRECISION_MARGIN, OVERLAP_MARGIN, LOSS_MARGIN = 0.01, 0.02, 0.01
TOPIC_WORDS = 2000  # whose neighbours among all topic words are looked up
HELD_OUT = 500  # sentences at most


@dataclass(frozen=True)
class Corpus:
    """A file with a sentence a line, and sentences that are not in it.

    Attributes:
        vocabulary: in gensim's order.
        epochs: how often a training reads it.
    """

    path: Path
    held_out: list[list[str]]
    tokens: int
    vocabulary: Vocabulary
    epochs: int


@dataclass(frozen=True)
class Task:
    """What is trained: architecture and loss as :class:`Word2Vec` names them, and the width D."""

    architecture: str
    loss: str
    width: int


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        input, output: (V, D) and (V, D), with a tree (V - 1, D).
        tree: None = negative sampling.
        seconds: of the training, without the counting of words.
    """

    vocabulary: Vocabulary
    input: Tensor
    output: Tensor
    tree: HuffmanTree | None
    seconds: float


def planted_topics(
    folder: Path, topics: int, words: int, head: int, sentences: int, epochs: int, length: int = 20
) -> Corpus:
    """Half of the tokens from a common Zipf head, the others from the sentence's topic.

    Args:
        topics, words: number of topics, and words of each ("t3w7").
        head: words that all sentences share ("c12").
    """
    ids = sentences_with_topics(topics, words, head, sentences, length)
    names = [f"c{i}" for i in range(head)]
    names += [f"t{t}w{w}" for t in range(topics) for w in range(words)]
    return _split(folder / "topics.txt", [[names[i] for i in row] for row in ids.tolist()], epochs)


def real_text(folder: Path, epochs: int) -> Corpus:
    """The English text that every Python carries, in lower case."""
    text = "\n".join(pydoc_data.topics.topics.values()).lower()
    found = (re.findall(r"[a-z]+", part) for part in re.split(r"[.:;]\s", text))
    return _split(folder / "text.txt", [words for words in found if len(words) > 1], epochs)


def _split(path: Path, sentences: list[list[str]], epochs: int) -> Corpus:
    """Every 50th sentence is held out, or as many as are wanted."""
    stride = max(50, len(sentences) // HELD_OUT)
    kept = [s for i, s in enumerate(sentences) if i % stride]
    path.write_text("\n".join(" ".join(s) for s in kept) + "\n", encoding="utf-8")
    words = gensim_model(Task("cbow", "negative-sampling", 1), path).wv
    counts = np.array([words.get_vecattr(w, "count") for w in words.index_to_key])
    vocabulary = Vocabulary(words.index_to_key, counts)
    return Corpus(path, sentences[::stride], sum(map(len, kept)), vocabulary, epochs)


def train(corpus: Corpus, task: Task, seed: int = 1, threads: int = 1) -> Trained:
    """Ours."""
    model = Word2Vec(
        architecture=task.architecture, loss=task.loss, vector_size=task.width, window=WINDOW,
        negative=NEGATIVES, min_count=MIN_COUNT, seed=seed, huffman_ties="heap",
    )  # fmt: skip
    model.build_vocabulary(corpus.vocabulary)
    start = time.perf_counter()
    model.fit(corpus.path, epochs=corpus.epochs, threads=threads)
    seconds = time.perf_counter() - start
    tree = HuffmanTree.from_counts(corpus.vocabulary.counts, "heap") if _has_tree(task) else None
    rows = [m[:, : task.width].contiguous() for m in (model.input, model.output)]
    return Trained(corpus.vocabulary, *rows, tree, seconds)


def train_gensim(corpus: Corpus, task: Task, seed: int = 1, threads: int = 1) -> Trained:
    """gensim's, on the file as ours, which is the fastest way that it has.

    Its several workers would train parts of a short file twice that way: they get sentences.
    """
    from gensim.models.word2vec import LineSentence

    model = gensim_model(task, corpus.path, seed, threads)
    model.wv.vectors *= 0.5
    source = {"corpus_file": str(corpus.path), "total_words": model.corpus_total_words}
    if threads > 1:
        source = {"corpus_iterable": LineSentence(str(corpus.path))}
    start = time.perf_counter()
    model.train(**source, epochs=corpus.epochs, total_examples=model.corpus_count)
    seconds = time.perf_counter() - start
    size, tree = len(model.wv), None
    if _has_tree(task):
        codes, points = (
            [model.wv.get_vecattr(i, name) for i in range(size)] for name in ("code", "point")
        )
        ends = np.cumsum([0, *map(len, codes)])
        path = np.concatenate(points).astype(np.int32) * 2 + np.concatenate(codes).astype(np.int32)
        tree = HuffmanTree(torch.from_numpy(ends), torch.from_numpy(path))
    output = model.syn1neg if tree is None else model.syn1[: size - 1]
    matrices = [torch.from_numpy(np.array(m)) for m in (model.wv.vectors, output)]
    return Trained(corpus.vocabulary, *matrices, tree, seconds)


def gensim_model(task: Task, path: Path, seed: int = 1, threads: int = 1):
    """gensim's model with our options and its vocabulary."""
    from gensim.models import Word2Vec as Peer

    tree = _has_tree(task)
    rate = 0.05 if task.architecture == "cbow" else 0.025
    model = Peer(
        vector_size=task.width, window=WINDOW, min_count=MIN_COUNT, sample=1e-3, alpha=rate,
        min_alpha=rate * 1e-4, sg=task.architecture != "cbow", hs=tree,
        negative=0 if tree else NEGATIVES, workers=threads, seed=seed,
    )  # fmt: skip
    model.build_vocab(corpus_file=str(path))
    return model


def _has_tree(task: Task) -> bool:
    return task.loss == "hierarchical-softmax"


def neighbours(trained: Trained, words: Sequence[str], places: Sequence[int]) -> np.ndarray:
    """Places in `words` of the nearest others by cosine, (len(places), NEIGHBOURS).

    Args:
        places: of the words whose neighbours are wanted.
    """
    index = {word: i for i, word in enumerate(trained.vocabulary.words)}
    unit = torch.nn.functional.normalize(trained.input[[index[w] for w in words]], dim=1)
    cosine = unit[places] @ unit.T
    cosine[torch.arange(len(places)), torch.tensor(places)] = -2  # not its own neighbour
    return cosine.topk(NEIGHBOURS).indices.numpy()


def topic_precision(trained: Trained) -> float:
    """The share of a topic word's neighbours, among all topic words, that are of its topic."""
    words = sorted(w for w in trained.vocabulary.words if w.startswith("t"))
    topic = np.array([w.partition("w")[0] for w in words])
    places = range(0, len(words), max(1, len(words) // TOPIC_WORDS))
    return float((topic[neighbours(trained, words, places)] == topic[places, None]).mean())


def neighbour_overlap(first: Trained, second: Trained) -> float:
    """The share of neighbours that two models have in common, over the most frequent words."""
    words = sorted(first.vocabulary.words[:REAL_WORDS])
    found = (neighbours(model, words, range(len(words))) for model in (first, second))
    pairs = zip(*found, strict=True)
    return float(np.mean([len(set(a) & set(b)) for a, b in pairs]) / NEIGHBOURS)


def held_out_loss(trained: Trained, corpus: Corpus, task: Task) -> float:
    """The mean training loss, with full windows, over the sentences that were held out."""
    index = {word: i for i, word in enumerate(trained.vocabulary.words)}
    hidden, target = [], []
    for sentence in corpus.held_out:
        ids = [index[w] for w in sentence if w in index]
        for i, word in enumerate(ids):
            near = ids[max(0, i - WINDOW) : i] + ids[i + 1 : i + 1 + WINDOW]
            rows = trained.input[near]
            if task.architecture == "cbow" and near:
                rows = rows.mean(0, keepdim=True)
            hidden.append(rows)
            target += [word] * len(rows)
    hidden, target = torch.cat(hidden), torch.tensor(target)
    if trained.tree is not None:
        return hierarchical_softmax_loss(hidden, target, trained.output, trained.tree).item()
    noise = AliasTable.from_counts(trained.vocabulary.counts, 0.75)
    loss = negative_sampling_loss(
        hidden,
        target,
        trained.output,
        sampler=noise,
        num_negatives=NEGATIVES,
        seed=torch.tensor([1]),
    )
    return loss.item()


@dataclass(frozen=True)
class Quality:
    """The three measures of a model; see the module."""

    precision: float
    overlap: float
    loss: float

    def shortfall(self, peer: Quality) -> str:
        """In what this is worse than the peer; empty where it is not."""
        reasons = []
        if self.precision < peer.precision - PRECISION_MARGIN:
            reasons.append(f"precision {self.precision:.3f}, peer {peer.precision:.3f}")
        if self.overlap < peer.overlap - OVERLAP_MARGIN:
            reasons.append(f"overlap {self.overlap:.3f}, peer {peer.overlap:.3f}")
        if self.loss > peer.loss * (1 + LOSS_MARGIN):
            reasons.append(f"held-out loss {self.loss:.4f}, peer {peer.loss:.4f}")
        return "; ".join(reasons)

    def __str__(self) -> str:
        return f"precision {self.precision:.3f}, overlap {self.overlap:.3f}, held-out loss {self.loss:.4f}"
