"""Byte-pair encoding against subword-nmt, merge by merge and piece by piece."""

import collections
import io
import pydoc_data.topics

import pytest

from ptmkernels._corpus import BytePairEncoder, learn_bpe
from ptmkernels.models import BPE

learn = pytest.importorskip("subword_nmt.learn_bpe")
apply = pytest.importorskip("subword_nmt.apply_bpe")


def corpus():
    text = " ".join(pydoc_data.topics.topics.values())
    return [word for word in text.split() if word.isprintable()]


def oracle_merges(words, count, min_frequency=2):
    out = io.StringIO()
    learn.learn_bpe(io.StringIO(" ".join(words)), out, count, min_frequency)
    return out.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        corpus()[:6000],
        ["aaa", "aaaa", "aaaaa", "baab", "abab", "ababab", "bababa"] * 3,
        ["naïve", "naïf", "日本語", "日本", "本日", "e\u0301te", "Straße"] * 4 + ["x", "é"],
        ["abc", "bca", "cab", "abcabc", "aabbcc"] * 5,
    ],
    ids=["english", "repeats", "unicode", "cycles"],
)
def test_merges_and_pieces_equal_subword_nmt(words):
    codes = oracle_merges(words, 1200)
    expected = [tuple(line.split(" ")) for line in codes.splitlines()[1:]]
    merges = learn_bpe(list(collections.Counter(words).items()), 1200)
    assert merges == expected
    encoder = BytePairEncoder(merges)
    oracle = apply.BPE(io.StringIO(codes))
    for word in {*words, *corpus()[6000:8000], "ü", "日", "aaaaaaa"}:
        pieces = encoder.split(word)
        assert "".join(pieces) == word
        assert " ".join(f"{p}@@" for p in pieces[:-1]) + " " * (len(pieces) > 1) + pieces[
            -1
        ] == oracle.segment(word)


def test_min_frequency_and_small_inputs():
    assert learn_bpe([("ab", 1), ("cd", 3)], 10) == [("c", "d</w>")]
    assert learn_bpe([("ab", 1), ("cd", 1)], 10) == []
    assert learn_bpe([], 10) == []
    assert learn_bpe([("a", 5)], 10) == []
    assert BytePairEncoder([]).split("") == []
    assert BytePairEncoder([]).split("abc") == ["a", "b", "c"]


def test_lines_are_split_at_plain_white_space_alone(tmp_path):
    """A no-break space and a line separator are letters, for learning and for applying."""
    lines = ["a\u00a0b a\u00a0b c\u2028d", "c\u2028d  a\u00a0b"]
    (tmp_path / "text").write_text("\n".join(lines))
    bpe = BPE.learn(tmp_path / "text", merges=3)
    bpe.save(tmp_path / "codes")
    oracle = apply.BPE((tmp_path / "codes").open(encoding="utf-8"))
    for line in (*lines, "b\u00a0a  x", " "):
        assert bpe.encode(line) == oracle.segment(line)
    assert bpe.encode("c\td\x0bc\n") == oracle.segment("c d c")
