"""fastText's small models (.ftz), beside fastText itself: read, made, written; words that are not UTF-8."""

import random

import fasttext
import numpy as np
import pytest
from typer.testing import CliRunner

from ptmkernels.cli import app
from ptmkernels.models import FastText, FastTextClassifier
from ptmkernels.models.shallow.fasttext_file import read_fasttext
from ptmkernels.models.shallow.product_quantiser import quantised

OPTIONS = {"softmax": "softmax", "hierarchical-softmax": "hs", "one-vs-all": "ova"}
TABLE = 0.008  # the step of fastText's table of the sigmoid


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Labels with words of their own, and common words."""
    path = tmp_path_factory.mktemp("text") / "text"
    rng = random.Random(1)
    lines = []
    for i in range(3000):
        label = i % 5
        words = [f"w{label}x{rng.randrange(60)}" for _ in range(4)]
        words += [f"c{rng.randrange(100)}" for _ in range(3)]
        lines.append(f"__label__{label} {' '.join(words)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def lines_of(path, count=60):
    lines = path.read_text().splitlines()[:: 3000 // count]
    return [*lines, "", "unknown words only", "w1x1 w2x2"]


def predictions(theirs, line, count):
    """The binding of fastText that is made for NumPy 1 fails in its `predict`; its core does not."""
    return {label: p for p, label in theirs.f.predict(line + "\n", count, 0.0, "strict")}


def assert_same(ours, theirs, text, tolerance):
    """Of a tree fastText leaves out what is less likely than 1e-5."""
    for line in lines_of(text):
        expected, found = predictions(theirs, line, 5), dict(ours.predict(line, 5))
        assert expected.keys() <= found.keys(), line
        for label, p in found.items():
            assert p == pytest.approx(expected.get(label, 0), abs=tolerance), line
        assert bool(expected) == bool(found), line


@pytest.mark.parametrize("loss", OPTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cutoff": 300},
        {"qnorm": True},
        {"qout": False, "cutoff": 280, "qnorm": True, "dsub": 3},
    ],
)
def test_small_files_of_fasttext(loss, options, text, tmp_path):
    model = fasttext.train_supervised(
        str(text), loss=OPTIONS[loss], dim=10, wordNgrams=2, minn=2, maxn=3, bucket=500, verbose=0, thread=1,
    )  # fmt: skip
    model.quantize(**options)
    path = tmp_path / "model.ftz"
    model.save_model(str(path))
    ours = FastTextClassifier.load_fasttext(path)
    assert_same(ours, model, text, TABLE if loss == "one-vs-all" else 1e-4)
    ours.save_fasttext(tmp_path / "again.ftz")
    assert_same(
        FastTextClassifier.load_fasttext(tmp_path / "again.ftz"),
        fasttext.load_model(str(tmp_path / "again.ftz")),
        text,
        TABLE if loss == "one-vs-all" else 1e-4,
    )


@pytest.mark.parametrize(
    "options", [{}, {"cutoff": 300}, {"cutoff": 280, "qnorm": True, "dsub": 3}]
)
def test_what_we_make_small(options, text, tmp_path):
    model = FastTextClassifier(vector_size=10, word_ngrams=2, bucket=500).fit(text, epochs=3)
    count, before, _ = model.test(text)
    model.save_fasttext(tmp_path / "model.bin")
    model.quantize(**options).save_fasttext(tmp_path / "model.ftz")
    assert (tmp_path / "model.ftz").stat().st_size < (tmp_path / "model.bin").stat().st_size
    _, after, _ = model.test(text)
    assert count == 3000
    assert before > 0.95
    assert after > before - 0.05
    theirs = fasttext.load_model(str(tmp_path / "model.ftz"))
    assert_same(model, theirs, text, 1e-4)
    assert_same(FastTextClassifier.load_fasttext(tmp_path / "model.ftz"), theirs, text, 1e-4)
    if "cutoff" in options:
        assert len(model.input) == options["cutoff"]
        assert "</s>" in model.words
    with pytest.raises(ValueError, match="the model is quantised already"):
        model.quantize()


@pytest.fixture(scope="module")
def many_labels(tmp_path_factory):
    """300 labels, so that the output can be quantised, each with two words of its own."""
    path = tmp_path_factory.mktemp("labels") / "text"
    rng = random.Random(1)
    lines = [f"__label__{i % 300} a{i % 300} b{i % 300} c{rng.randrange(50)}" for i in range(3000)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("loss", OPTIONS)
@pytest.mark.parametrize("options", [{}, {"cutoff": 300, "qnorm": True, "dsub": 3}])
def test_quantised_outputs(loss, options, many_labels, tmp_path):
    """Of fastText read here, and ours read by fastText."""
    theirs = fasttext.train_supervised(
        str(many_labels), loss=OPTIONS[loss], dim=10, epoch=20, lr=0.5, verbose=0, thread=1
    )
    theirs.save_model(str(tmp_path / "model.bin"))
    ours = FastTextClassifier.load_fasttext(tmp_path / "model.bin").quantize(qout=True, **options)
    ours.save_fasttext(tmp_path / "ours.ftz")
    theirs.quantize(qout=True, **options)
    theirs.save_model(str(tmp_path / "theirs.ftz"))
    tolerance = TABLE if loss == "one-vs-all" else 1e-4
    sizes = [(tmp_path / name).stat().st_size for name in ("ours.ftz", "theirs.ftz")]
    assert sizes[0] == sizes[1]
    for model, name in ((theirs, "theirs.ftz"), (None, "ours.ftz")):
        path = tmp_path / name
        official = model or fasttext.load_model(str(path))
        read = FastTextClassifier.load_fasttext(path)
        for line in many_labels.read_text().splitlines()[:60:3]:
            expected = predictions(official, line, 5)
            found = dict(read.predict(line, 300))
            for label, p in expected.items():
                assert found[label] == pytest.approx(p, abs=tolerance), (name, line)
    quality = [model.test(str(many_labels))[1] for model in (ours, theirs)]
    assert quality[0] > quality[1] - 0.03


def test_what_cannot_be_made_small(text, tmp_path):
    (tmp_path / "few").write_text("__label__a x\n__label__b y\n")
    few = FastTextClassifier(vector_size=4).fit(tmp_path / "few", epochs=1)
    with pytest.raises(ValueError, match="the input matrix has 3 rows; expected at least 256"):
        few.quantize()
    model = FastTextClassifier(vector_size=4).fit(text, epochs=1)
    with pytest.raises(ValueError, match="the output matrix has 5 rows; expected at least 256"):
        model.quantize(qout=True)
    with pytest.raises(ValueError, match="the input matrix has 9 rows"):
        model.quantize(cutoff=9)
    with pytest.raises(RuntimeError, match="no labels yet"):
        FastTextClassifier().quantize()


def test_codes_stand_for_rows_near_by():
    rng = np.random.default_rng(1)
    few = rng.standard_normal((200, 7)).astype(np.float32)
    matrix = few[rng.integers(200, size=1000)]
    np.testing.assert_allclose(quantised(matrix, 7, False).dense(), matrix, atol=0.4)
    matrix = rng.standard_normal((2000, 7)).astype(np.float32)
    for part, norms, most in ((1, False, 0.02), (2, False, 0.2), (2, True, 0.25), (3, False, 0.4)):
        found = quantised(matrix, part, norms)
        assert found.codes.shape == (2000, -(-7 // part))
        error = np.linalg.norm(found.dense() - matrix) / np.linalg.norm(matrix)
        assert error < most, (part, norms)


@pytest.mark.parametrize("at", ["codes", "parts", "norms"])
def test_broken_small_files(at, text, tmp_path):
    model = FastTextClassifier(vector_size=10).fit(text, epochs=1).quantize(qnorm=True)
    path = tmp_path / "model.ftz"
    model.save_fasttext(path)
    data, rows = path.read_bytes(), len(model.input)
    matrix = data.index(b"\1\1" + rows.to_bytes(8, "little"))
    codes = matrix + 2 + 16 + 4
    where = {"codes": codes - 4, "parts": codes + 5 * rows + 4, "norms": len(data)}[at]
    path.write_bytes(data[:where] + b"\7\0\0\0" + data[where + 4 :])
    message = {
        "codes": "the input matrix has 7 codes for",
        "parts": "the quantiser of the input matrix has width 10, 7 parts of 2",
        "norms": "4 bytes follow the output matrix",
    }
    with pytest.raises(ValueError, match=message[at]):
        FastTextClassifier.load_fasttext(path)


@pytest.mark.parametrize("loss", ["softmax", "ova"])
def test_vectors_of_files_with_any_loss(loss, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat\n" * 20)
    theirs = fasttext.train_unsupervised(
        str(tmp_path / "text"), "skipgram", loss=loss, dim=4, minCount=1, bucket=50, verbose=0
    )
    theirs.save_model(str(tmp_path / "model.bin"))
    ours = FastText.load_fasttext(tmp_path / "model.bin")
    for word in ("cat", "cats"):
        expected = theirs.get_word_vector(word)
        np.testing.assert_allclose(ours.vector(word), expected, atol=1e-6)
    np.testing.assert_allclose(ours.wv["cat"], theirs.get_word_vector("cat"), atol=1e-6)
    for refused in (
        lambda: ours.fit(tmp_path / "text"),
        lambda: ours.save(tmp_path / "x.safetensors"),
        lambda: ours.save_fasttext(tmp_path / "x.bin"),
    ):
        with pytest.raises(
            ValueError, match=r"the model was trained with .* by fastText: its vectors can be"
        ):
            refused()


def test_words_that_are_not_utf8(tmp_path):
    (tmp_path / "text").write_bytes(b"caf\xe9 au lait\nle caf\xc3\xa9\n" * 30)
    theirs = fasttext.train_unsupervised(
        str(tmp_path / "text"), dim=4, minCount=1, bucket=50, verbose=0, thread=1
    )
    path = tmp_path / "model.bin"
    theirs.save_model(str(path))
    model = FastText.load_fasttext(path)
    assert {"caf\udce9", "café", "lait"} <= {*model.wv.words}
    np.testing.assert_allclose(model.wv["lait"], theirs.get_word_vector("lait"), atol=1e-6)
    expected = read_fasttext(path)
    place = expected.words.index("caf\udce9")
    ids = model.subword_ids("caf\udce9")
    np.testing.assert_allclose(model.wv["caf\udce9"], expected.input[ids].mean(0), atol=1e-6)
    assert ids[0] == place
    model.save_fasttext(tmp_path / "again.bin")
    assert read_fasttext(tmp_path / "again.bin").words == expected.words
    model.save(tmp_path / "model.safetensors")
    assert FastText.load(tmp_path / "model.safetensors").wv.words == model.wv.words
    result = CliRunner().invoke(app, ["neighbors", str(path), "lait"])
    assert result.exit_code == 0, result.exception
    assert "caf?" in result.output


def test_on_the_command_line(text, tmp_path):
    def invoke(*arguments, given=None):
        result = CliRunner().invoke(app, ["classify", *map(str, arguments)], input=given)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    model, small = tmp_path / "model.bin", tmp_path / "model.ftz"
    options = ("--dim", 10, "--word-ngrams", 2, "--bucket", 500, "--epoch", 3)
    invoke("train", text, model, *options)
    invoke("quantize", model, small, "--cutoff", 300)
    for path in (model, small):
        theirs = fasttext.load_model(str(path))
        for k in (1, 2):
            count, precision, recall = theirs.test(str(text), k)
            expected = f"N\t{count}\nP@{k}\t{precision:.3f}\nR@{k}\t{recall:.3f}\n"
            assert invoke("test", path, text, k) == expected
        lines = lines_of(text)
        expected = [" ".join(predictions(theirs, line, 2)) for line in lines]
        assert (
            invoke("predict", path, "-", 2, given="\n".join(lines) + "\n")
            == "\n".join(expected) + "\n"
        )
    (tmp_path / "lines").write_text("w1x1 w1x2\n")
    label, probability = invoke("predict", model, tmp_path / "lines", "--prob").split()
    assert label == "__label__1"
    below, above = (factor * float(probability) for factor in (0.99, 1.01))
    assert invoke("predict", model, tmp_path / "lines", 5, below) == "__label__1\n"
    assert invoke("predict", model, tmp_path / "lines", 5, above) == "\n"
    result = CliRunner().invoke(app, ["classify", "train", str(text), "/proc/model.bin"])
    assert isinstance(result.exception, OSError)
    assert "/proc/model.bin" in str(result.exception)
