"""Files that are no fastText file, or broken: each error names the byte and what is wrong there."""

import struct

import numpy as np
import pytest

from ptmkernels.models import FastText, FastTextClassifier
from ptmkernels.models.shallow.fasttext_file import FastTextFile, read_fasttext, write_fasttext
from ptmkernels.models.shallow.files import load_any

ARGUMENTS, SIZES = 8, 64  # where they begin
ENTRIES = SIZES + 28
INPUT = ENTRIES + 13 + 11 + 11  # words "aé", "b" and "x", each with a zero byte, a count and a type
OUTPUT = INPUT + 17 + 4 * 4 * 3


@pytest.fixture
def path(tmp_path):
    """Two words, one label, two buckets, D = 3."""
    file = FastTextFile(
        loss="softmax", architecture="classifier", window=5, min_count=1, negative=5, word_ngrams=2,
        bucket=2, min_n=0, max_n=0, sample=1e-4, words=["aé", "b", "x"],
        counts=np.array([4, 3, 2]), labels=1, input=np.arange(12, dtype=np.float32).reshape(4, 3),
        output=np.ones((1, 3), np.float32),
    )  # fmt: skip
    write_fasttext(tmp_path / "model.bin", file)
    return tmp_path / "model.bin"


def patched(path, at, value):
    data = path.read_bytes()
    path.write_bytes(data[:at] + value + data[at + len(value) :])
    return path


def test_the_file_is_read_as_written(path):
    file = read_fasttext(path)
    assert (file.words, file.counts.tolist(), file.labels) == (["aé", "b", "x"], [4, 3, 2], 1)
    np.testing.assert_array_equal(file.input, np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(file.output, np.ones((1, 3)))
    assert path.stat().st_size == OUTPUT + 17 + 12


HUGE = 2**62
BROKEN = {
    "magic": (0, b"word", "is not a fastText file: it starts with b'word'"),
    "version": (4, struct.pack("<i", 10), "byte 4: the version is 10; expected 11 or 12, which fastText 0.1"),
    "dimension": (8, struct.pack("<i", 0), "byte 8: the dimension is 0; expected at least 1"),
    "loss": (8 + 24, struct.pack("<i", 5), "the loss is 5; expected 1 to 4"),
    "architecture": (8 + 28, struct.pack("<i", -1), "the architecture is -1; expected 1 to 3"),
    "bucket": (8 + 32, struct.pack("<i", -7), "the number of buckets is -7"),
    "no bucket": (8 + 32, struct.pack("<i", 0), "no bucket for n-grams of 2 words"),
    "entries": (SIZES, struct.pack("<3i", 2**31 - 1, 2**31 - 2, 1), "byte 92: 2147483647 entries need"),
    "sizes": (SIZES, struct.pack("<3i", 3, 4, -1), "byte 64: 3 entries are not 4 words and -1 labels"),
    "kept": (SIZES + 20, struct.pack("<q", 1), f"byte {INPUT}: an n-gram that is kept is none of 2"),
    "more kept": (SIZES + 20, struct.pack("<q", HUGE), f"the list of {HUGE} n-grams that are kept needs"),
    "type": (ENTRIES + 12, b"\1", "byte 104: word 0 of the dictionary has type 1; expected 0"),
    "twice": (ENTRIES + 13, b"x", "byte 64: the dictionary holds a word twice"),
    "quantised": (INPUT, b"\1", f"byte {INPUT}: the input matrix is {3 << 56} by"),
    "rows": (INPUT + 1, struct.pack("<2q", HUGE, 3), f"is {HUGE} by 3; expected 4 by 3"),
    "columns": (OUTPUT + 1, struct.pack("<2q", 1, -3), "the output matrix is 1 by -3; expected 1 by 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_contradicts_itself(path, name):
    at, value, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        read_fasttext(patched(path, at, value))


def test_claimed_sizes_allocate_nothing(path):
    """2**30 dimensions would be a matrix of 16 GiB."""
    width = 2**30
    patched(path, 8, struct.pack("<i", width))
    with pytest.raises(
        ValueError, match=f"byte {INPUT + 17}: the input matrix needs {16 * width} "
    ):
        read_fasttext(patched(path, INPUT + 9, struct.pack("<q", width)))


def test_a_file_that_breaks_off_anywhere(path):
    data = path.read_bytes()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"^{path}"):
            read_fasttext(path)
    path.write_bytes(data + b"!")
    with pytest.raises(ValueError, match="1 bytes follow the output matrix"):
        read_fasttext(path)
    with pytest.raises(IsADirectoryError):
        read_fasttext(path.parent)


def test_the_wrong_kind(path):
    with pytest.raises(ValueError, match="holds a classifier"):
        FastText.load_fasttext(path)
    vectors = path.with_name("vectors.bin")
    FastText(min_count=1, vector_size=2, bucket=3).fit([["a", "b"]]).save_fasttext(vectors)
    with pytest.raises(
        ValueError, match=r"holds word vectors \(skip-gram\); expected a classifier"
    ):
        FastTextClassifier.load_fasttext(vectors)


def test_a_zero_byte_in_a_word(path):
    file = read_fasttext(path)
    file.words[1] = "b\0"
    with pytest.raises(ValueError, match=r"words\[1\] is 'b\\x00'"):
        write_fasttext(path.with_name("other.bin"), file)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.bin"]


def test_files_before_the_first_version(path):
    """They begin with the arguments, and their dictionary names no n-grams that are kept."""
    data = path.read_bytes()
    path.write_bytes(data[ARGUMENTS : SIZES + 20] + data[ENTRIES:])
    for read in (read_fasttext, FastText.load_fasttext, FastTextClassifier.load_fasttext, load_any):
        with pytest.raises(
            ValueError,
            match=r"model.bin is of fastText before 0\.1\.0, .* expected version 11 or 12",
        ):
            read(path)


def test_files_of_version_11(tmp_path):
    """Their classifiers name n-grams of characters, but use none."""
    fasttext = pytest.importorskip("fasttext")
    (tmp_path / "text").write_text("__label__a good day\n__label__b bad night\n" * 30)
    model = fasttext.train_supervised(
        str(tmp_path / "text"),
        dim=4,
        bucket=50,
        minn=2,
        maxn=3,
        epoch=9,
        lr=1.0,
        verbose=0,
        thread=1,
    )
    model.save_model(str(tmp_path / "old.bin"))
    patched(tmp_path / "old.bin", 4, struct.pack("<i", 11))
    theirs = fasttext.load_model(str(tmp_path / "old.bin"))
    expected = {label: p for p, label in theirs.f.predict("good goods\n", 2, 0.0, "strict")}
    ours = FastTextClassifier.load_fasttext(tmp_path / "old.bin")
    assert dict(ours.predict("good goods", 2)) == pytest.approx(expected, abs=1e-4)
