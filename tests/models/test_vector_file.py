"""Files of word vectors as they are found: GloVe's, compressed, with words twice or not in UTF-8."""

import bz2
import gzip
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from ptmkernels.models import BPE, FastText, FastTextClassifier, GloVe, Word2Vec
from ptmkernels.models.shallow.files import load_any
from ptmkernels.models.shallow.vectors import WordVectors

OPENERS = {"": open, ".gz": gzip.open, ".bz2": bz2.open}


def binary(*entries, width=2, count=None):
    """A binary file of (word, its numbers)."""
    rows = [word + b" " + np.full(width, x, "<f4").tobytes() + b"\n" for word, x in entries]
    return f"{count or len(rows)} {width}\n".encode() + b"".join(rows)


def some_vectors(size=50, width=7):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((size, width)) * 10.0 ** rng.integers(-30, 30, (size, width))
    return WordVectors([f"wört{i}" for i in range(size)], values.astype(np.float32))


def test_glove_files_have_no_header(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 0.1 0.2\nof 0.3 -4e-3\n. . 5 6\nat name@domain.com 7 8\n<unk> 0.5 0.6")
    vectors = load_any(path)
    assert vectors.words == ["the", "of", ". .", "at name@domain.com", "<unk>"]
    expected = [[0.1, 0.2], [0.3, -4e-3], [5, 6], [7, 8], [0.5, 0.6]]
    np.testing.assert_array_equal(vectors.vectors, np.array(expected, np.float32))
    with pytest.raises(ValueError, match=r"the first line is b'the 0\.1 0\.2"):
        WordVectors.load_word2vec(path, binary=True)


@pytest.mark.parametrize(
    "content",
    [
        b"3 2\na 1 1\nb 2 2\na 3 3\n",
        b"a 1 1\nb 2 2\na 3 3\n",
        binary((b"a", 1), (b"b", 2), (b"a", 3)),
    ],
)
def test_of_a_word_that_comes_twice_the_first_is_kept(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.warns(UserWarning, match=r"file holds 1 words that came before, 'a' first"):
        vectors = WordVectors.load_word2vec(tmp_path / "file")
    assert vectors.words == ["a", "b"]
    np.testing.assert_array_equal(vectors.vectors, [[1, 1], [2, 2]])


@pytest.mark.parametrize(
    "content", [b"2 2\ncaf\xc3 1 1\nb 2 2\n", binary((b"caf\xc3", 1), (b"b", 2))]
)
def test_words_that_are_not_utf8(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file: not UTF-8 at byte 7, in the word b'caf\\xc3'"):
        WordVectors.load_word2vec(tmp_path / "file")
    for errors, word in (("ignore", "caf"), ("replace", "caf\ufffd")):
        assert WordVectors.load_word2vec(tmp_path / "file", errors=errors).words == [word, "b"]
    with pytest.raises(ValueError, match="errors is 'lenient'; expected one of"):
        WordVectors.load_word2vec(tmp_path / "file", errors="lenient")


@pytest.mark.parametrize(
    "content", [b"2 2\na 1 1\nb 2 2", b"a 1 1\nb 2 2\r\n", binary((b"a", 1), (b"b", 2))]
)
@pytest.mark.parametrize("compression", OPENERS)
def test_byte_order_marks_and_compression(content, compression, tmp_path):
    path = tmp_path / f"file{compression}"
    with OPENERS[compression](path, "wb") as file:
        file.write(b"\xef\xbb\xbf" + content)
    vectors = load_any(path)
    assert vectors.words == ["a", "b"]
    np.testing.assert_array_equal(vectors.vectors, [[1, 1], [2, 2]])
    limited = WordVectors.load_word2vec(path, limit=1)
    assert limited.words == ["a"]
    np.testing.assert_array_equal(limited.vectors, [[1, 1]])
    with pytest.raises(ValueError, match="limit is 0; expected at least 1"):
        WordVectors.load_word2vec(path, limit=0)


@pytest.mark.parametrize("compression", OPENERS)
@pytest.mark.parametrize("is_binary", [False, True])
def test_what_is_written_reads_back_the_same(compression, is_binary, tmp_path):
    vectors, path = some_vectors(), tmp_path / f"file{compression}"
    vectors.save_word2vec(path, is_binary)
    for back in (
        WordVectors.load_word2vec(path),
        KeyedVectors.load_word2vec_format(str(path), binary=is_binary),
    ):
        np.testing.assert_array_equal(back.vectors, vectors.vectors)
    assert WordVectors.load_word2vec(path).words == vectors.words
    with OPENERS[compression](path, "rb") as file:
        assert file.readline() == b"50 7\n"


def test_numbers_have_the_fewest_digits(tmp_path):
    WordVectors(["a"], np.array([[0.1, -1 / 3, 1e-30, 2]], np.float32)).save_word2vec(
        tmp_path / "file"
    )
    assert (tmp_path / "file").read_text() == "1 4\na 0.1 -0.33333334 1e-30 2.0\n"


@pytest.mark.parametrize("compression", [".gz", ".bz2"])
def test_compressed_files_that_are_none(compression, tmp_path):
    path = tmp_path / f"file{compression}"
    some_vectors().save_word2vec(path)
    whole = path.read_bytes()
    for content in (b"2 2\na 1 1\nb 2 2\n", whole[: len(whole) // 2]):
        path.write_bytes(content)
        for read in (WordVectors.load_word2vec, Word2Vec(min_count=1).fit, BPE.load):
            with pytest.raises(
                ValueError, match=rf"file{compression} is no whole {compression} file"
            ):
                read(path)


def test_surrogates_are_named(tmp_path):
    word = b"caf\xe9".decode("utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=r"words\[1\] is 'caf\\udce9', no text: surrogates"):
        WordVectors(["a", word], np.ones((2, 2))).save_word2vec(tmp_path / "file")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"sentence 1 of source holds 'caf\\udce9', no text"):
        Word2Vec(min_count=1).fit([["a"], ["b", word]], epochs=1)


@pytest.mark.parametrize("compression", OPENERS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_text_is_the_same_in_every_form(compression, mark, ending, tmp_path):
    sentences = [["ähre", "b", "cd"], ["ähre", "cd"]] * 300
    path = tmp_path / f"text{compression}"
    with OPENERS[compression](path, "wb") as file:
        file.write(mark + b"\n".join(" ".join(s).encode() for s in sentences) + ending)
    options = {"min_count": 1, "vector_size": 8}
    expected = Word2Vec(**options).fit(sentences, epochs=2).wv
    found = Word2Vec(**options).fit(path, epochs=2).wv
    assert found.words == expected.words
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert found.count("ähre") == 600
    assert BPE.learn(path, 2).merges == [("ä", "h"), ("äh", "r")]


@pytest.mark.parametrize("model", [FastText, GloVe])
def test_the_last_newline_changes_no_vector(model, tmp_path):
    """Of the other models; the test above is on word2vec."""
    text = "ähre b cd\nähre cd\n" * 100 + "b ähre"
    options = {"min_count": 1, "vector_size": 8} | ({"bucket": 50} if model is FastText else {})
    vectors = []
    for ending in ("", "\n"):
        (tmp_path / "text").write_text(text + ending, encoding="utf-8")
        vectors.append(model(**options).fit(tmp_path / "text", epochs=2).wv)
    assert vectors[0].words == vectors[1].words
    np.testing.assert_array_equal(vectors[0].vectors, vectors[1].vectors)


def test_a_compressed_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "text.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"a b\n\xff\n")
    with pytest.raises(ValueError, match=r"text.gz: not UTF-8 at byte 4"):
        Word2Vec(min_count=1).fit(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_classifiers_text_is_the_same_in_every_form(mark, ending, tmp_path):
    lines = b"__label__a x y\n__label__b z"
    (tmp_path / "text").write_bytes(mark + lines + ending)
    (tmp_path / "plain").write_bytes(lines)
    model, plain = (
        FastTextClassifier(vector_size=4).fit(tmp_path / name, epochs=3)
        for name in ("text", "plain")
    )
    assert sorted(model.labels) == ["__label__a", "__label__b"]
    assert model.counts[model.words.index("</s>")] == 2
    for rows in ("input", "output"):
        assert torch.equal(getattr(model, rows), getattr(plain, rows))
    assert model.test(tmp_path / "text", 2) == plain.test(tmp_path / "plain", 2)


def test_no_warning_from_a_training():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Word2Vec(min_count=1, vector_size=4).fit([["a", "b"]] * 5, epochs=1)


READ = """
import re, sys
from pathlib import Path
from ptmkernels.models.shallow.vectors import WordVectors

def peak():  # of this program: the one that getrusage gives is inherited from the caller
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
words = [f"w{i}" for i in range(int(sys.argv[2]))]
index = {word: i for i, word in enumerate(words)}
of_words, before = peak() - before, peak()
vectors = WordVectors.load_word2vec(sys.argv[1])
read = peak() - before
print((read - of_words) / vectors.vectors.nbytes, read / vectors.vectors.nbytes)
"""


@pytest.mark.parametrize(("width", "with_words"), [(100, False), (300, True)])
@pytest.mark.parametrize("form", ["binary", "text", "glove"])
def test_memory_of_a_reading(form, width, with_words, tmp_path):
    """At most 1.3 times the matrix, of 40 MB here: with the words and their index at D 300, not at 100."""
    path, size = tmp_path / "file", 10_000_000 // width
    vectors = WordVectors([f"w{i}" for i in range(size)], np.full((size, width), 0.125, np.float32))
    vectors.save_word2vec(path, binary=form == "binary")
    if form == "glove":
        path.write_bytes(path.read_bytes().partition(b"\n")[2])
    command = [sys.executable, "-c", READ, path, str(size)]
    root = Path(__file__).parents[2]
    found = subprocess.check_output(command, cwd=root, text=True).split()
    assert float(found[with_words]) < 1.3
