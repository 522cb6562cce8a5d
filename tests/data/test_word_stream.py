"""The stream of word ids: pieces end with a sentence, and memory does not grow with the text."""

import numpy as np
import pytest

from ptmkernels.benchmarks.memory import peak_resident_bytes
from ptmkernels.data.word_stream import Vocabulary, WordStream

SENTENCES = [["b", "a"], ["a"], ["c", "a", "b", "a", "x", "a"], ["b"] * 9, ["a", "c"]]


def stream() -> WordStream:
    return WordStream(SENTENCES, Vocabulary(["a", "b", "c"], np.array([7, 6, 2])))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_pieces_are_whole_and_end_with_a_sentence(size):
    whole = [1, 0, -1, 0, -1, 2, 0, 1, 0, 0, -1, *[1] * 9, -1, 0, 2, -1]
    pieces = list(stream().pieces(size))
    assert np.concatenate([ids for _, ids in pieces]).tolist() == whole
    assert [place for place, _ in pieces] == np.cumsum(
        [0] + [len(i) for _, i in pieces[:-1]]
    ).tolist()
    # A sentence longer than a piece is cut.
    assert all(ids[-1] == -1 or len(ids) == 2 * size for _, ids in pieces)


def test_pieces_go_on_from_a_place():
    place, ids = next(stream().pieces(100, start=5))
    assert (place, ids[:3].tolist()) == (5, [2, 0, 1])


def test_memory_does_not_grow_with_the_text(tmp_path):
    ids = np.random.default_rng(1).integers(1000, size=(5000, 20))
    block = "\n".join(" ".join(f"w{i}" for i in row) for row in ids.tolist()) + "\n"

    def peak(repeats: int) -> int | None:
        path = tmp_path / f"{repeats}.txt"
        path.write_text(block * repeats)

        def read() -> None:
            for _ in WordStream(path, Vocabulary.count(path)).pieces(1 << 16):
                pass

        return peak_resident_bytes(read)

    if peak(1) is None:  # pools are filled now
        pytest.skip("the peak cannot be told here")
    assert peak(25) < peak(5) + 2**22  # the ids of the other two million words take 8 MiB


def test_words_of_lists_stay_whole():
    """White space in a word is part of it; an empty word is none."""
    text = [["new york", "is", "", "big\n"], [], ["is", "new york"]] * 2
    vocabulary = Vocabulary.count(text, min_count=1)
    assert dict(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True)) == {
        "is": 4,
        "new york": 4,
        "big\n": 2,
    }
    with WordStream(text, vocabulary) as stream:
        ids = np.concatenate([piece for _, piece in stream.pieces(100)])
    words = [vocabulary.words[i] if i >= 0 else "." for i in ids]
    assert words == ["new york", "is", "big\n", ".", "is", "new york", "."] * 2
