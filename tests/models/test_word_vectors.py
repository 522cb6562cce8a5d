"""word2vec, fastText and GloVe: what they learn, their files, and going on after a stop."""

import os

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ptmkernels as ptm
from ptmkernels.cli import app
from ptmkernels.data.word_stream import Vocabulary
from ptmkernels.models import FastText, GloVe, Word2Vec
from ptmkernels.models.shallow.vectors import WordVectors

TOPICS, WORDS = 8, 12


def sentences(count=3000, seed=1, strays=0.0):
    """Half of the words of a sentence come from its topic (a share of them from any topic), the others
    from a common head."""
    rng = np.random.default_rng(seed)

    def word(topic):
        if rng.random() < 0.5:
            return f"c{rng.zipf(1.5) % 30}"
        stray = rng.random() < strays
        return f"t{rng.integers(TOPICS) if stray else topic}w{rng.integers(WORDS)}"

    return [[word(topic) for _ in range(12)] for topic in rng.integers(TOPICS, size=count)]


def precision(vectors: WordVectors, count: int = 5) -> float:
    """The share of a topic word's neighbours that are of its topic."""
    words = [f"t{t}w{w}" for t in range(TOPICS) for w in range(WORDS)]
    hits = [
        n.split("w")[0] == w.split("w")[0]
        for w in words
        for n, _ in vectors.most_similar(w, count=count)
    ]
    return float(np.mean(hits))


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
@pytest.mark.parametrize("loss", ["negative-sampling", "hierarchical-softmax"])
@pytest.mark.parametrize("threads", [1, 2])
def test_planted_topics_are_found(architecture, loss, threads):
    model = Word2Vec(
        architecture=architecture, loss=loss, vector_size=24, window=5, min_count=1, sample=1e-2
    )
    losses = []
    model.fit(sentences(), epochs=12, threads=threads, progress=lambda p: losses.append(p.loss))
    assert precision(model.wv) > 0.95
    assert losses[-1] < losses[0]


def test_glove_finds_planted_topics():
    # GloVe learns from pairs that occur: words of different topics must meet now and then.
    model = GloVe(vector_size=16, window=5, min_count=1, x_max=10.0)
    model.fit(sentences(strays=0.4), epochs=30)
    assert precision(model.wv) > 0.9


def test_training_goes_on_where_it_stopped(tmp_path):
    text = sentences(300)
    whole = Word2Vec(vector_size=10, min_count=1).fit(text, epochs=3)
    stopped = Word2Vec(vector_size=10, min_count=1)

    def stop(progress):
        if progress.done == progress.total * 2 // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.fit(text, epochs=3, progress=stop)
    stopped.save(tmp_path / "state.safetensors")
    again = Word2Vec.load(tmp_path / "state.safetensors")
    assert 0 < again.done < whole.done
    again.fit(text, epochs=3)
    assert torch.equal(again.input, whole.input)
    assert torch.equal(again.output, whole.output)


def test_word2vec_files_go_both_ways_with_gensim(tmp_path):
    gensim = pytest.importorskip("gensim.models")
    model = Word2Vec(vector_size=7, min_count=1).fit([["naïve", "日本", "b"]] * 30, epochs=1)
    for binary in (False, True):
        model.wv.save_word2vec(tmp_path / "ours", binary=binary)
        theirs = gensim.KeyedVectors.load_word2vec_format(str(tmp_path / "ours"), binary=binary)
        assert theirs.index_to_key == model.wv.words
        np.testing.assert_array_equal(theirs.vectors, model.wv.vectors)
        theirs.save_word2vec_format(str(tmp_path / "theirs"), binary=binary)
        back = WordVectors.load_word2vec(tmp_path / "theirs")
        assert back.words == model.wv.words
        np.testing.assert_allclose(back.vectors, model.wv.vectors, rtol=1e-6)


@pytest.mark.parametrize("loss", ["negative-sampling", "hierarchical-softmax"])
def test_fasttext_files_go_both_ways(tmp_path, loss):
    fasttext = pytest.importorskip("fasttext")
    text = [["naïve", "Straße", "日本語", "plain"]] * 40
    model = FastText(vector_size=8, min_count=1, bucket=500, loss=loss).fit(text, epochs=2)
    model.save_fasttext(tmp_path / "ours.bin")
    theirs = fasttext.load_model(str(tmp_path / "ours.bin"))
    for word in ("naïve", "日本語", "unseen", "Straßen"):
        np.testing.assert_allclose(theirs.get_word_vector(word), model.vector(word), atol=1e-7)
        assert theirs.get_subwords(word)[1].tolist() == model.subword_ids(word).tolist()
    (tmp_path / "text").write_text("\n".join(" ".join(s) for s in text))
    theirs = fasttext.train_unsupervised(
        str(tmp_path / "text"), minCount=1, dim=6, bucket=300, epoch=1, verbose=0, minn=2, maxn=4,
        loss="ns" if loss == "negative-sampling" else "hs",
    )  # fmt: skip
    theirs.save_model(str(tmp_path / "theirs.bin"))
    back = FastText.load_fasttext(tmp_path / "theirs.bin")
    for word in ("naïve", "日本語", "unseen"):
        np.testing.assert_allclose(back.vector(word), theirs.get_word_vector(word), atol=1e-7)
    np.testing.assert_array_equal(
        back.output[: len(back.output), :6], theirs.get_output_matrix()[: len(back.output)]
    )


def test_fasttext_files_without_subwords(tmp_path):
    """max_n 0 turns sub-words off, whatever min_n says, and the file has no row for them."""
    fasttext = pytest.importorskip("fasttext")
    text = [["one", "two"]] * 20
    model = FastText(vector_size=8, min_count=1, max_n=0).fit(text, epochs=1)
    model.save_fasttext(tmp_path / "ours.bin")
    theirs = fasttext.load_model(str(tmp_path / "ours.bin"))
    assert theirs.get_input_matrix().shape == model.input.shape[:1] + (8,) == (2, 8)
    np.testing.assert_array_equal(theirs.get_word_vector("two"), model.vector("two"))
    (tmp_path / "text").write_text("\n".join(" ".join(s) for s in text))
    theirs = fasttext.train_unsupervised(
        str(tmp_path / "text"), minCount=1, dim=6, epoch=1, verbose=0, maxn=0
    )
    theirs.save_model(str(tmp_path / "theirs.bin"))
    back = FastText.load_fasttext(tmp_path / "theirs.bin")
    np.testing.assert_array_equal(back.vector("two"), theirs.get_word_vector("two"))


def test_fasttext_files_of_a_text_with_labels(tmp_path):
    """fastText keeps a place for no vector of them, but they are in its list of words."""
    fasttext = pytest.importorskip("fasttext")
    (tmp_path / "text").write_text("__label__x one two\n" * 20)
    theirs = fasttext.train_unsupervised(
        str(tmp_path / "text"), minCount=1, dim=6, epoch=1, verbose=0, bucket=50
    )
    theirs.save_model(str(tmp_path / "theirs.bin"))
    back = FastText.load_fasttext(tmp_path / "theirs.bin")
    assert sorted(back.vocabulary.words) == ["</s>", "one", "two"]
    for word in ("one", "</s>", "unseen"):
        np.testing.assert_allclose(back.vector(word), theirs.get_word_vector(word), atol=1e-7)
    np.testing.assert_allclose(back.wv["</s>"], back.vector("</s>"), atol=1e-7)


@pytest.mark.parametrize("loss", ["negative-sampling", "hierarchical-softmax"])
def test_fasttext_files_go_both_ways_with_gensim(tmp_path, loss):
    gensim = pytest.importorskip("gensim.models.fasttext")
    text = [["naïve", "Straße", "日本語", "plain"]] * 40
    model = FastText(vector_size=8, min_count=1, bucket=500, loss=loss).fit(text, epochs=1)
    model.save_fasttext(tmp_path / "ours.bin")
    theirs = gensim.load_facebook_model(str(tmp_path / "ours.bin"))
    assert_same_vectors(model, theirs.wv)
    tree = loss == "hierarchical-softmax"
    theirs = gensim.FastText(
        text,
        vector_size=6,
        min_count=1,
        bucket=300,
        hs=int(tree),
        negative=0 if tree else 5,
        epochs=1,
    )
    gensim.save_facebook_model(theirs, str(tmp_path / "theirs.bin"))
    assert_same_vectors(FastText.load_fasttext(tmp_path / "theirs.bin"), theirs.wv)


def assert_same_vectors(ours: FastText, theirs) -> None:
    for word in ("naïve", "日本語", "unseen"):
        np.testing.assert_allclose(ours.vector(word), theirs[word], atol=1e-7)


def test_fasttext_learns_from_spelling():
    rng = np.random.default_rng(1)
    text = [
        [f"{s}{rng.integers(30)}xyz" for s in rng.choice([["run", "walk"], ["cat", "dog"]])] * 4
        for _ in range(800)
    ]
    model = FastText(vector_size=16, min_count=1, bucket=2000, sample=0, learning_rate=0.05).fit(
        text, epochs=5
    )
    unseen, near, far = (model.vector(w) for w in ("running", "run1xyz", "cat1xyz"))
    cosine = [a @ unseen / np.linalg.norm(a) / np.linalg.norm(unseen) for a in (near, far)]
    assert cosine[0] > cosine[1]


def test_vectors_are_those_of_the_weights_as_they_are():
    text = [["one", "two", "three"]] * 30
    for model in (
        Word2Vec(vector_size=8, min_count=1, sample=0),
        FastText(vector_size=8, min_count=1, sample=0, bucket=99),
    ):
        before = model.fit(text, epochs=1).wv
        assert model.wv is before
        after = model.fit(text, epochs=2).wv
        assert not np.array_equal(before["one"], after["one"])
        rows = [model.subword_ids(w) for w in after.words] if model.subwords else [[0], [1], [2]]
        means = np.stack([model.input[ids].mean(0)[:8] for ids in rows])
        np.testing.assert_allclose(after.vectors, means, atol=1e-7)
        model.build_vocabulary(Vocabulary(["new", "one"], np.array([3, 2])))
        assert model.wv.words == ["new", "one"]
        if model.subwords:
            assert model.subword_ids("one")[0] == 1


def test_nearest_takes_what_fits():
    vectors = WordVectors(["a", "b"], np.eye(2))
    assert vectors.most_similar("a", count=0) == []
    with pytest.raises(ValueError, match="count is -1"):
        vectors.most_similar("a", count=-1)
    with pytest.raises(ValueError, match=r"query has shape \(3,\); expected \(2,\)"):
        vectors.nearest(np.ones(3))


def test_command_line(tmp_path):

    corpus = tmp_path / "text"
    corpus.write_text("\n".join(" ".join(s) for s in sentences(800)))
    run = CliRunner().invoke
    for model, name in (
        ("word2vec", "v.txt"),
        ("fasttext", "v.bin"),
        ("glove", "g.txt"),
        ("word2vec", "v.safetensors"),
    ):
        out = tmp_path / name
        result = run(app, [
            "embed", str(corpus), "--model", model, "--dim", "12", "--epochs", "2", "--min-count", "1",
            "--output", str(out), "--plot", str(tmp_path / "map.png"),
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
        assert out.exists()
        assert (tmp_path / "map.png").stat().st_size > 1000
        if model == "word2vec":
            result = run(app, ["neighbors", str(out), "t1w1", "--count", "3"])
            assert len(result.output.splitlines()) == 3, result.output


def test_cards_of_the_shallow_models():
    names = ptm.list_models("shallow/*")
    assert "word2vec-cbow-hierarchical-softmax" in names
    assert {n.split("-")[0] for n in names} >= {"word2vec", "glove", "fasttext", "bpe", "nnlm"}
    card = ptm.model_card("word2vec")
    assert (card.year, card.family, card.heads) == (2013, "shallow", ())
    model = ptm.create_model("word2vec-cbow-hierarchical-softmax", vector_size=7)
    assert isinstance(model, Word2Vec)
    config = model.config
    assert (config.architecture, config.loss) == ("cbow", "hierarchical-softmax")
    assert config.vector_size == 7
    assert ptm.create_model("char-cnn-large", vocab_size=9, char_size=5).width == 1100
    with pytest.raises(ValueError, match="word2vec-cbow-negative-sampling has no head"):
        ptm.create_model("word2vec-cbow-negative-sampling", "masked-lm")


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="architecture is 'skipgram'"):
        Word2Vec(architecture="skipgram")
    with pytest.raises(ValueError, match="the vocabulary is empty"):
        Word2Vec().fit([["a", "b"]])
    with pytest.raises(RuntimeError, match="fit or load"):
        _ = Word2Vec().wv
    with pytest.raises(ValueError, match="device is 'tpu'; expected 'cpu' or 'cuda'"):
        Word2Vec().fit([["a"]], device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is 'cuda:1', but torch sees no GPU"):
            Word2Vec().fit([["a"]], device="cuda:1")
    result = CliRunner().invoke(app, ["embed", "text", "--model", "glove", "--device", "cuda"])
    assert "--device is 'cuda'; glove trains on cpu only" in str(result.exception)
    result = CliRunner().invoke(app, ["embed", "text", "--model", "glove", "--max-in-flight", "9"])
    assert "--max-in-flight is 9; glove trains on cpu only" in str(result.exception)
    (tmp_path / "words").write_text("a b\n" * 9)
    asked = [
        "embed",
        str(tmp_path / "words"),
        "--max-in-flight",
        "9",
        "--output",
        str(tmp_path / "v"),
    ]
    assert "max_in_flight is 9; expected None" in str(CliRunner().invoke(app, asked).exception)
    with pytest.raises(ValueError, match=r"--output is \., a folder"):
        CliRunner().invoke(app, ["embed", "text", "--output", "."], catch_exceptions=False)
    with pytest.raises(TypeError, match="sentence 1 of source is no list of words"):
        Word2Vec().fit([["a"], [1]])
    model = Word2Vec(vector_size=4)
    model.build_vocabulary(Vocabulary(["a"], np.array([5])))
    (tmp_path / "other").write_text("b c")
    with pytest.raises(ValueError, match="no word of the vocabulary"):
        model.fit(tmp_path / "other")
    os.mkfifo(tmp_path / "pipe")
    for kind in (Word2Vec, GloVe):
        with pytest.raises(ValueError, match="pipe can be read only once"):
            kind().fit(tmp_path / "pipe")
    (tmp_path / "broken").write_text("2 3\na 1 2 3\nb 1 2\n")
    with pytest.raises(ValueError, match="line 3 has 2 numbers; expected 3"):
        WordVectors.load_word2vec(tmp_path / "broken")
    with pytest.raises(KeyError, match="'x' is not in"):
        WordVectors(["a"], np.ones((1, 2)))["x"]


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (Word2Vec, {}, 1.5),
        (FastText, {"bucket": 100}, 1.5),
        (Word2Vec, {"initial_range": 0.5}, 0.5),
    ],
)
def test_how_wide_rows_start(model, options, expected):
    started = model(vector_size=20, min_count=1, **options)
    started.build_vocabulary(sentences(200))
    rows = started.input[:, :20] * 20
    assert 0.98 * expected < rows.abs().max() <= expected
    assert rows.std() == pytest.approx(expected / 3**0.5, rel=0.05)
    assert not started.input[:, 20:].any()
    assert not started.output.any()
    with pytest.raises(ValueError, match="initial_range is 0; expected"):
        model(initial_range=0)
