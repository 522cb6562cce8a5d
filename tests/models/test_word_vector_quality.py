"""Planted topics: our fast mode finds a word's true neighbours as well as gensim does."""

import numpy as np
import pytest

from ptmkernels.models import Word2Vec
from ptmkernels.models.shallow.vectors import WordVectors

gensim = pytest.importorskip("gensim.models")
TOPICS, WORDS, HEAD, SENTENCES, LENGTH = 100, 20, 1000, 15_000, 20
MARGIN = 0.01  # of precision at 10, below gensim's


@pytest.fixture(scope="module")
def text():
    """Half of the tokens from a common Zipf head, the others from the sentence's topic."""
    rng = np.random.default_rng(1)
    head = 1 / (np.arange(HEAD) + 2.7)
    head /= head.sum()
    sentences = []
    for topic in rng.integers(TOPICS, size=SENTENCES):
        common, own = rng.choice(HEAD, LENGTH, p=head), rng.integers(WORDS, size=LENGTH)
        from_head = rng.random(LENGTH) < 0.5
        sentences.append(
            [
                f"c{c}" if f else f"t{topic}w{w}"
                for c, w, f in zip(common, own, from_head, strict=True)
            ]
        )
    return sentences


def precision_at_ten(vectors: WordVectors) -> float:
    rows = [i for i, word in enumerate(vectors.words) if word.startswith("t")]
    topic = np.array([int(vectors.words[i][1:].split("w")[0]) for i in rows])
    unit = vectors.vectors[rows] / np.linalg.norm(vectors.vectors[rows], axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    nearest = np.argsort(-cosine, 1)[:, :10]
    return float((topic[nearest] == topic[:, None]).mean())


@pytest.fixture(scope="module")
def peers(text):
    result = {}
    for sg in (0, 1):
        model = gensim.Word2Vec(
            text, vector_size=50, window=5, negative=5, min_count=5, sample=1e-3, sg=sg, epochs=3,
            workers=1, alpha=0.025 if sg else 0.05,
        )  # fmt: skip
        vectors = WordVectors(model.wv.index_to_key, model.wv.vectors)
        result["skip-gram" if sg else "cbow"] = precision_at_ten(vectors)
    return result


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
@pytest.mark.parametrize("threads", [1, 2])
def test_planted_topics_are_found_as_well_as_by_gensim(text, peers, architecture, threads):
    model = Word2Vec(architecture=architecture, vector_size=50).fit(text, epochs=3, threads=threads)
    ours = precision_at_ten(model.wv)
    print(f"{architecture}, {threads} threads: {ours:.4f}, gensim {peers[architecture]:.4f}")
    assert ours >= peers[architecture] - MARGIN
