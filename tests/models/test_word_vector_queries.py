"""What word vectors are asked for, beside gensim's answers."""

from pathlib import Path

import gensim
import numpy as np
import pytest
from gensim.models import KeyedVectors
from scipy import stats
from typer.testing import CliRunner

from ptmkernels.cli import app
from ptmkernels.models import Word2Vec
from ptmkernels.models.shallow.vectors import WordVectors

DATA = Path(gensim.__file__).parent / "test" / "test_data"
QUESTIONS, PAIRS = DATA / "questions-words.txt", DATA / "wordsim353.tsv"


def both(words, vectors):
    """The same vectors, ours and gensim's."""
    peer = KeyedVectors(vectors.shape[1])
    peer.add_vectors(words, vectors)
    return WordVectors(words, vectors), peer


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(3000)]
    return both(words, (rng.standard_normal((3000, 41)) + 0.3).astype(np.float32))


@pytest.fixture(scope="module")
def questioned():
    """Words of the questions, in capitals and not, whose vectors answer some questions."""
    lines = [line.split() for line in QUESTIONS.read_text().splitlines() if line[0] != ":"]
    words = list(dict.fromkeys(word for line in lines for word in line))[:-60]
    words += [word.lower() for word in words[:40] if word.lower() not in words]
    words += [
        word
        for line in PAIRS.read_text().splitlines()
        if line[0] != "#"
        for word in line.split("\t")[:2]
    ]
    words = list(dict.fromkeys(words))
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((len(words), 12)).astype(np.float32)
    place = {word: i for i, word in enumerate(words)}
    for a, b, c, d in lines[::3]:
        if {a, b, c, d} <= place.keys():
            vectors[place[d]] = vectors[place[b]] - vectors[place[a]] + vectors[place[c]]
    return both(words, vectors)


def assert_alike(ours, peer):
    assert [word for word, _ in ours] == [word for word, _ in peer]
    np.testing.assert_allclose([x for _, x in ours], [x for _, x in peer], atol=2e-6)


@pytest.mark.parametrize("method", ["most_similar", "most_similar_cosmul"])
@pytest.mark.parametrize(
    ("positive", "negative"),
    [("w5", []), (["w5", "w9"], ["w7"]), (["w5", "w9", "w2"], ["w7", "w1"])],
)
@pytest.mark.parametrize("count", [1, 10, 4000])
def test_neighbours(pair, method, positive, negative, count):
    ours, peer = pair
    found = getattr(ours, method)(positive, negative, count)
    assert_alike(found, getattr(peer, method)(positive, negative, topn=count))
    assert len(found) == min(
        count, 3000 - len([positive] if positive == "w5" else positive + negative)
    )


def test_neighbours_among_the_first_words(pair):
    ours, peer = pair
    found = ours.most_similar(["w5", "w2900"], restrict_vocab=100)
    assert_alike(found, peer.most_similar(["w5", "w2900"], restrict_vocab=100))
    assert all(int(word[1:]) < 100 for word, _ in found)


def test_many_words_at_once(pair):
    ours, peer = pair
    words = ours.words[:300]
    for word, found in zip(words, ours.neighbors(words, 7), strict=True):
        assert_alike(found, peer.most_similar(word, topn=7))
    assert ours.neighbors([], 7) == []
    assert [len(found) for found in ours.neighbors(words[:2], 5000)] == [2999, 2999]


def test_comparisons(pair):
    ours, peer = pair
    assert ours.similarity("w1", "w2") == pytest.approx(peer.similarity("w1", "w2"), abs=1e-6)
    sets = (["w1", "w2"], ["w3", "w4", "w5"])
    assert ours.n_similarity(*sets) == pytest.approx(peer.n_similarity(*sets), abs=1e-6)
    np.testing.assert_allclose(ours.distances("w1"), peer.distances("w1"), atol=1e-6)
    for others in (["w3", "w1"], []):
        expected = peer.distances("w1", others) if others else []
        np.testing.assert_allclose(ours.distances("w1", others), expected, atol=1e-6)
    vector = np.arange(41.0)
    np.testing.assert_allclose(ours.distances(vector), peer.distances(vector), atol=1e-6)
    for other in ("w2", "w77", "w1"):
        assert ours.rank("w1", other) == peer.rank("w1", other)
    words = [f"w{i}" for i in range(20)]
    assert ours.doesnt_match(words) == peer.doesnt_match(words)
    with pytest.warns(UserWarning, match="not in the vocabulary, left out: x, y"):
        assert ours.doesnt_match(["y", *words, "x"]) == peer.doesnt_match(words)


def test_a_vector_of_zeros_is_like_none():
    vectors = WordVectors(["a", "b", "none"], np.array([[1, 0], [1, 1], [0, 0]]))
    assert vectors.similarity("a", "none") == 0
    assert vectors.n_similarity(["a"], ["none"]) == 0
    assert dict(vectors.most_similar("none")) == {"a": 0, "b": 0}
    assert dict(vectors.most_similar("a"))["none"] == 0
    assert vectors.neighbors(["a"])[0][1] == ("none", 0)
    assert vectors.distances("a", ["none"]) == [1]


def test_changed_vectors_have_new_norms(pair):
    vectors = WordVectors(["a", "b"], np.array([[1, 0], [1, 1]]))
    vectors.most_similar("a")
    vectors.vectors = np.array([[3, 4], [6, 8]])
    assert vectors.most_similar("a") == [("b", pytest.approx(1))]


def test_what_cannot_be_asked(pair):
    ours, _ = pair
    for call, error, message in (
        (lambda: ours.n_similarity([], ["w1"]), ValueError, "first is empty"),
        (lambda: ours.most_similar_cosmul([]), ValueError, "positive is empty"),
        (lambda: ours.doesnt_match([]), ValueError, "holds no word of the vocabulary"),
        (
            lambda: ours.distances(np.ones(3)),
            ValueError,
            r"query has shape \(3,\); expected \(41,\)",
        ),
        (lambda: ours.rank("w1", "x"), KeyError, "'x' is not in the vocabulary"),
        (lambda: ours.neighbors(["w1"], -1), ValueError, "count is -1"),
        (lambda: ours.count("w1"), ValueError, "counts of these words are not known"),
        (lambda: WordVectors(["a"], np.ones((1, 1)), np.ones(2)), ValueError, "counts has shape"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_counts():
    model = Word2Vec(min_count=1, vector_size=4).fit([["a", "b", "a"]] * 5, epochs=1)
    assert [model.wv.count(word) for word in "ab"] == [10, 5]
    with pytest.raises(KeyError, match="'c' is not in the vocabulary"):
        model.wv.count("c")


@pytest.mark.parametrize("case_insensitive", [True, False])
@pytest.mark.parametrize("dummy4unknown", [True, False])
@pytest.mark.parametrize("restrict_vocab", [300_000, 500])
def test_analogies(questioned, case_insensitive, dummy4unknown, restrict_vocab):
    ours, peer = questioned
    options = (restrict_vocab, case_insensitive, dummy4unknown)
    score, sections = ours.evaluate_word_analogies(QUESTIONS, *options)
    expected, of_peer = peer.evaluate_word_analogies(str(QUESTIONS), *options)
    assert 0.01 < score < 0.99
    assert score == pytest.approx(expected, abs=1e-12)
    assert sections == of_peer


@pytest.mark.parametrize("case_insensitive", [True, False])
@pytest.mark.parametrize("dummy4unknown", [True, False])
def test_word_pairs(questioned, case_insensitive, dummy4unknown):
    ours, peer = questioned
    options = {"case_insensitive": case_insensitive, "dummy4unknown": dummy4unknown}
    found = ours.evaluate_word_pairs(PAIRS, restrict_vocab=900, **options)
    pearson, spearman, unknown = peer.evaluate_word_pairs(str(PAIRS), restrict_vocab=900, **options)
    assert found == pytest.approx((pearson[0], spearman[0], unknown), abs=1e-6)
    assert 0 < found.unknown < 100


def test_files_without_questions(questioned, tmp_path):
    ours, _ = questioned
    path = tmp_path / "file"
    for content, message in (
        ("a b c d\n", "line 1 comes before any section"),
        (": x\na b c\n", "holds no question"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            ours.evaluate_word_analogies(path)
    path.write_text("# nothing\none two three\n")
    with pytest.raises(ValueError, match="holds no pair of words"):
        ours.evaluate_word_pairs(path)


def test_on_the_command_line(questioned, tmp_path):
    ours, _ = questioned
    path = tmp_path / "vectors.txt.gz"
    ours.save_word2vec(path)
    result = CliRunner().invoke(app, ["analogies", str(path), str(QUESTIONS)])
    share, sections = ours.evaluate_word_analogies(QUESTIONS)
    last = result.output.splitlines()[-1].split()
    assert last[0] == f"{100 * share:.1f}"
    assert (
        last[2]
        == f"{len(sections[-1]['correct'])}/{sum(map(len, list(sections[-1].values())[1:]))}"
    )
    result = CliRunner().invoke(app, ["word-pairs", str(path), str(PAIRS)])
    expected = ours.evaluate_word_pairs(PAIRS)
    assert f"Spearman {expected.spearman:.4f}" in result.output
    assert expected.pearson == pytest.approx(
        stats.pearsonr(*_judged(ours, PAIRS)).statistic, abs=1e-9
    )


def _judged(vectors, path):
    index = {word.upper(): word for word in reversed(vectors.words)}
    rows = [line.upper().split("\t") for line in path.read_text().splitlines() if line[0] != "#"]
    rows = [row for row in rows if row[0] in index and row[1] in index]
    return [float(x) for _, _, x in rows], [
        vectors.similarity(index[a], index[b]) for a, b, _ in rows
    ]
