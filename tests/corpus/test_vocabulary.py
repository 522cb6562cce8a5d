"""Counting and encoding of text files."""

import collections
import random

import numpy as np
import pytest

from ptmkernels._corpus import Encoder, VocabularyCounter


def write_corpus(path, lines=20_000, words=500, seed=1):
    generator = random.Random(seed)
    vocabulary = [f"wörd{i}" if i % 7 == 0 else f"w{i}" for i in range(words)]
    weights = [1 / (i + 1) for i in range(words)]
    text = [
        " ".join(generator.choices(vocabulary, weights, k=generator.randrange(20)))
        for _ in range(lines)
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return text


@pytest.mark.parametrize("threads", [1, 3])
def test_counts_equal_python(tmp_path, threads):
    text = write_corpus(tmp_path / "text")
    expected = collections.Counter(word for line in text for word in line.split())
    counter = VocabularyCounter()
    done = []
    counter.add_file(str(tmp_path / "text"), threads=threads, progress=done.append)
    assert dict(counter.most_common()) == expected
    assert counter.total == sum(expected.values())
    assert counter.lines == len(text)
    assert done[-1] == (tmp_path / "text").stat().st_size
    kept = counter.most_common(min_count=100)
    assert kept == sorted(
        ((w, c) for w, c in expected.items() if c >= 100), key=lambda p: (-p[1], p[0].encode())
    )


def test_a_line_longer_than_a_block_and_a_word_longer_than_a_block(tmp_path):
    words = ["a" * 3_000_000, *["b c"] * 800_000, "d"]
    (tmp_path / "text").write_text(" ".join(words))
    counter = VocabularyCounter()
    counter.add_file(str(tmp_path / "text"), threads=2)
    assert dict(counter.most_common()) == {"a" * 3_000_000: 1, "b": 800_000, "c": 800_000, "d": 1}


def test_pruning_keeps_the_frequent_words(tmp_path):
    with (tmp_path / "text").open("w") as file:
        for i in range(200_000):
            file.write(f"rare{i} the of\n" if i % 2 else "and the\n")
    counter = VocabularyCounter(max_words=1000)
    counter.add_file(str(tmp_path / "text"), threads=2)
    words = counter.most_common()
    assert len(words) <= 1000
    assert words[:3] == [("the", 200_000), ("and", 100_000), ("of", 100_000)]
    assert counter.pruned >= 1


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_invalid_utf8_names_file_and_byte(tmp_path, bad):
    path = tmp_path / "text"
    start = b"good words\n" * 200_000
    path.write_bytes(start + bad + b" more\n" + start)
    with pytest.raises(ValueError, match=rf"text: not UTF-8 at byte {len(start)}$"):
        VocabularyCounter().add_file(str(path), threads=2)
    with pytest.raises(ValueError, match=rf"text: not UTF-8 at byte {len(start)}$"):
        Encoder(["good"]).encode_file(str(path), str(tmp_path / "ids"), threads=2)


def test_unreadable_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        VocabularyCounter().add_file(str(tmp_path / "missing"))
    with pytest.raises(IsADirectoryError):
        VocabularyCounter().add_file(str(tmp_path))
    (tmp_path / "text").write_text("a b\n")
    with pytest.raises(FileNotFoundError, match="folder"):
        Encoder(["a"]).encode_file(str(tmp_path / "text"), str(tmp_path / "folder" / "ids"))


def test_progress_that_raises_ends_the_work(tmp_path):
    write_corpus(tmp_path / "text", lines=100_000)

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VocabularyCounter().add_file(str(tmp_path / "text"), threads=2, progress=stop)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("keep_empty", [False, True])
def test_encoded_file_equals_python(tmp_path, threads, keep_empty):
    text = write_corpus(tmp_path / "text", lines=200_000)
    words = [f"w{i}" for i in range(400)]
    index = {word: i for i, word in enumerate(words)}
    expected = []
    for line in text:
        ids = [index[word] for word in line.split() if word in index]
        if ids or keep_empty:
            expected += [*ids, -1]
    encoder = Encoder(words)
    count = encoder.encode_file(
        str(tmp_path / "text"), str(tmp_path / "ids"), keep_empty=keep_empty, threads=threads
    )
    ids = np.fromfile(tmp_path / "ids", np.int32)
    assert count == len(ids)
    np.testing.assert_array_equal(ids, expected)


def test_sentence_ends_are_kept_where_a_block_ends_inside_a_line(tmp_path):
    line = "a " * 300_000 + "unknown\n"
    (tmp_path / "text").write_text(line * 5)
    Encoder(["a"]).encode_file(str(tmp_path / "text"), str(tmp_path / "ids"))
    ids = np.fromfile(tmp_path / "ids", np.int32)
    np.testing.assert_array_equal(ids, [*[0] * 300_000, -1] * 5)


def test_encode_text_and_repeated_words():
    assert Encoder(["a", "b"]).encode("b x\n\na b", line_end=-5).tolist() == [1, -5, 0, 1]
    with pytest.raises(ValueError, match="'a' twice"):
        Encoder(["a", "b", "a"])
