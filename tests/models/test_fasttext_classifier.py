"""fastText's classifier: it learns, and its files go both ways with fastText."""

import numpy as np
import pytest

from ptmkernels.models import FastText, FastTextClassifier

LOSSES = {
    "softmax": "softmax",
    "hierarchical-softmax": "hs",
    "negative-sampling": "ns",
    "one-vs-all": "ova",
}
SIGMOIDS = ("negative-sampling", "one-vs-all")  # probabilities that do not sum to 1
LINES = (
    "n1 n2 straße good",
    "not good n5",
    "unseen w2 n19",
    "w3",
    "n3\u00a0n4 n5",
    "w2\0not good\r",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Three unequal classes; "not" before a word means another class, which only word pairs show."""
    rng = np.random.default_rng(1)
    lines = []
    for label in rng.choice(4, 600, p=[0.4, 0.3, 0.2, 0.1]):
        noise = [f"n{i}" for i in rng.integers(20, size=4)]
        own = ["good", "straße"] if label == 0 else ["not", "good"] if label == 1 else [f"w{label}"]
        lines.append(" ".join([f"__label__{label}", *noise, *own]))
    path = tmp_path_factory.mktemp("classifier") / "text"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def accuracy(model, path):
    lines = [line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    return np.mean([model.predict(rest)[0][0] == label for label, _, rest in lines])


@pytest.mark.parametrize("loss", LOSSES)
def test_learns(text, loss):
    model = FastTextClassifier(
        loss=loss, vector_size=12, word_ngrams=2, bucket=500, learning_rate=0.3
    )
    assert accuracy(model.fit(text, epochs=8), text) > 0.95
    found = model.predict("n1 n2 not good", 4)
    assert found[0][0] == "__label__1"
    assert len(found) == 4
    if loss not in SIGMOIDS:
        assert sum(p for _, p in found) == pytest.approx(1, abs=1e-5)


def assert_predict_the_same(ours, theirs, loss):
    # fastText adds 1e-5 to each probability before its logarithm; where it uses a sigmoid of slope 1/4, it
    # reads that from a table with steps of 1/32.
    tolerance = 1 / 128 if loss in SIGMOIDS else 1e-4
    for line in LINES:
        # fastText's own wrapper turns the answer into an array in a way that NumPy 2 refuses.
        expected = [(label, p) for p, label in theirs.f.predict(line + "\n", 4, 0.0, "strict")]
        actual = ours.predict(line, 4)
        assert actual[0][0] == expected[0][0]
        # It leaves out what is less likely than 1e-5.
        expected = dict.fromkeys(ours.labels, 0.0) | dict(expected)
        assert dict(actual) == pytest.approx(expected, abs=tolerance)


BOTH = {"minn": 2, "maxn": 4, "wordNgrams": 2}
KINDS = [(loss, BOTH) for loss in LOSSES] + [("softmax", {}), ("softmax", {"wordNgrams": 3})]


@pytest.mark.parametrize(("loss", "grams"), KINDS)
def test_reads_what_fasttext_trained(text, tmp_path, loss, grams):
    fasttext = pytest.importorskip("fasttext")
    theirs = fasttext.train_supervised(
        str(text), dim=6, epoch=5, bucket=400, loss=LOSSES[loss], verbose=0, thread=1, **grams
    )
    theirs.save_model(str(tmp_path / "theirs.bin"))
    ours = FastTextClassifier.load_fasttext(tmp_path / "theirs.bin")
    assert ours.config.loss == loss
    assert_predict_the_same(ours, theirs, loss)
    with pytest.raises(ValueError, match="holds a classifier"):
        FastText.load_fasttext(tmp_path / "theirs.bin")
    ours.save_fasttext(tmp_path / "back.bin")
    assert_predict_the_same(ours, fasttext.load_model(str(tmp_path / "back.bin")), loss)


@pytest.mark.parametrize(("loss", "grams"), KINDS)
def test_fasttext_reads_what_is_trained_here(text, tmp_path, loss, grams):
    fasttext = pytest.importorskip("fasttext")
    names = {"wordNgrams": "word_ngrams", "minn": "min_n", "maxn": "max_n"}
    options = {names[name]: value for name, value in grams.items()}
    ours = FastTextClassifier(loss=loss, vector_size=7, bucket=300, learning_rate=0.3, **options)
    ours.fit(text, epochs=2).save_fasttext(tmp_path / "ours.bin")
    theirs = fasttext.load_model(str(tmp_path / "ours.bin"))
    assert theirs.get_labels() == ours.labels
    assert theirs.get_words() == ours.words
    assert_predict_the_same(ours, theirs, loss)
    again = FastTextClassifier.load_fasttext(tmp_path / "ours.bin")
    assert again.predict(LINES[0], 4) == ours.predict(LINES[0], 4)


def test_counts_words_and_labels_as_fasttext(tmp_path):
    """Rare labels stay, rare words go; the end of each line is a word, and white space is ASCII's alone."""
    fasttext = pytest.importorskip("fasttext")
    text = "__label__b a </s> a\u00a0a a\n\n__label__a a c\td </s> e\n__label__b\x0ba d\x1ff\r\na </s>no d"
    # Here the last line ends with the text; fastText counts its end only where a newline follows.
    for name, ending in (("text", ""), ("theirs", "\n")):
        (tmp_path / name).write_text(text + ending, encoding="utf-8", newline="")
    theirs = fasttext.train_supervised(str(tmp_path / "theirs"), minCount=2, dim=3, verbose=0)
    ours = FastTextClassifier(min_count=2, vector_size=3)
    ours.fit(tmp_path / "text", epochs=1)
    for actual, expected in (
        ((ours.words, ours.counts[: len(ours.words)]), theirs.get_words(include_freq=True)),
        ((ours.labels, ours.counts[len(ours.words) :]), theirs.get_labels(include_freq=True)),
    ):
        assert dict(zip(*actual, strict=True)) == dict(zip(*expected, strict=True))


def test_labels_by_another_prefix(tmp_path):
    """fastText's file names no prefix: what is a label stands with each entry."""
    fasttext = pytest.importorskip("fasttext")
    (tmp_path / "text").write_text("#x good __label__old\n#y bad\n" * 20)
    theirs = fasttext.train_supervised(
        str(tmp_path / "text"), label="#", dim=4, epoch=9, lr=1.0, verbose=0, thread=1
    )
    theirs.save_model(str(tmp_path / "theirs.bin"))
    theirs = fasttext.load_model(str(tmp_path / "theirs.bin"))
    ours = FastTextClassifier.load_fasttext(tmp_path / "theirs.bin")
    for line in ("good __label__old", "#x bad", "__label__new __label__old"):
        expected = {label: p for p, label in theirs.f.predict(line + "\n", 2, 0.0, "strict")}
        assert dict(ours.predict(line, 2)) == pytest.approx(expected, abs=1e-4)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="loss is 'ns'"):
        FastTextClassifier(loss="ns")
    with pytest.raises(ValueError, match="learning_rate is nan"):
        FastTextClassifier(learning_rate=float("nan"))
    with pytest.raises(RuntimeError, match="no labels yet"):
        FastTextClassifier().save_fasttext(tmp_path / "none.bin")
    with pytest.raises(RuntimeError, match="no labels yet"):
        FastTextClassifier().predict("a")
    with pytest.raises(TypeError, match="seed is 'a'"):
        FastTextClassifier(seed="a")
    (tmp_path / "text").write_text("__label__a b\n")
    model = FastTextClassifier(vector_size=2).fit(tmp_path / "text", epochs=1)
    with pytest.raises(ValueError, match="count is -1"):
        model.predict("b", -1)
    with pytest.raises(TypeError, match="line is a list"):
        model.predict(["b"])
    (tmp_path / "text").write_text("no label here\n")
    with pytest.raises(ValueError, match="the text has 0 labels"):
        FastTextClassifier().fit(tmp_path / "text")
    (tmp_path / "text").write_bytes(b"__label__a b\n\xff\n")
    with pytest.raises(ValueError, match=r"text: not UTF-8 at byte 13"):
        FastTextClassifier().fit(tmp_path / "text")
