"""fastText's classifier: it learns, and reads what fastText trained."""

import numpy as np
import pytest

from ptmkernels.models import FastText, FastTextClassifier

LOSSES = {"softmax": "softmax", "hierarchical-softmax": "hs", "one-vs-all": "ova"}


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
    if loss != "one-vs-all":
        assert sum(p for _, p in found) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("grams", [{}, {"wordNgrams": 3}, {"minn": 2, "maxn": 4, "wordNgrams": 2}])
def test_reads_what_fasttext_trained(text, tmp_path, loss, grams):
    fasttext = pytest.importorskip("fasttext")
    theirs = fasttext.train_supervised(
        str(text), dim=6, epoch=5, bucket=400, loss=LOSSES[loss], verbose=0, thread=1, **grams
    )
    theirs.save_model(str(tmp_path / "theirs.bin"))
    ours = FastTextClassifier.load_fasttext(tmp_path / "theirs.bin")
    # fastText's one-vs-all reads its sigmoid, of slope 1/4, from a table with steps of 1/32.
    tolerance = 1 / 128 if loss == "one-vs-all" else 1e-4
    for line in ("n1 n2 straße good", "not good n5", "unseen w2 n19", "w3"):
        # fastText's own wrapper turns the answer into an array in a way that NumPy 2 refuses.
        expected = {label: p for p, label in theirs.f.predict(line + "\n", 4, 0.0, "strict")}
        assert dict(ours.predict(line, 4)) == pytest.approx(expected, abs=tolerance)
    with pytest.raises(ValueError, match="holds a classifier"):
        FastText.load_fasttext(tmp_path / "theirs.bin")


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="loss is 'ns'"):
        FastTextClassifier(loss="ns")
    (tmp_path / "text").write_text("no label here\n")
    with pytest.raises(ValueError, match="the text has 0 labels"):
        FastTextClassifier().fit(tmp_path / "text")
    (tmp_path / "none.bin").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a fastText file"):
        FastTextClassifier.load_fasttext(tmp_path / "none.bin")
