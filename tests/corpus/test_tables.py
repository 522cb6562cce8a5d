"""Huffman trees, alias tables and sub-word hashes against gensim, word2vec.c's rule and fastText."""

import itertools

import numpy as np
import pytest
from scipy import stats

from ptmkernels import _corpus


def split_paths(counts, ties):
    offsets, path = _corpus.huffman_paths(counts, ties=ties)
    parts = [path[a:b] for a, b in itertools.pairwise(offsets)]
    return [p & 1 for p in parts], [p >> 1 for p in parts]


def gensim_tree(counts):
    word2vec = pytest.importorskip("gensim.models.word2vec")
    vectors = pytest.importorskip("gensim.models").KeyedVectors(1)
    words = [str(i) for i in range(len(counts))]
    vectors.index_to_key, vectors.key_to_index = words, {w: i for i, w in enumerate(words)}
    vectors.expandos["count"] = np.array(counts)
    word2vec._assign_binary_codes(vectors)
    return vectors.expandos["code"], vectors.expandos["point"]


def two_pointers(counts):
    """The rule of word2vec.c: among equal counts an inner node goes before a word."""
    weight = list(counts)
    leaf, inner, up = len(counts) - 1, len(counts), {}
    for node in range(len(counts), 2 * len(counts) - 1):
        for bit in (0, 1):
            if leaf >= 0 and (inner >= len(weight) or weight[leaf] < weight[inner]):
                chosen, leaf = leaf, leaf - 1
            else:
                chosen, inner = inner, inner + 1
            up[chosen] = (node - len(counts), bit)
        total = sum(weight[c] for c, (n, _) in up.items() if n == node - len(counts))
        weight.append(total)
    codes, points = [], []
    for word in range(len(counts)):
        path, node = [], word
        while node in up:
            path.append(up[node])
            node = len(counts) + up[node][0]
        points.append([p for p, _ in reversed(path)])
        codes.append([b for _, b in reversed(path)])
    return codes, points


def zipf_counts(size, distinct):
    counts = np.floor(1e5 / (np.arange(size) + 1.0) ** 1.1).astype(np.int64) + 1
    if distinct:
        counts = np.sort(counts)[::-1] * 4 * size + np.arange(size)[::-1]
    return counts.tolist()


@pytest.mark.parametrize("size", [2, 3, 20, 501])
@pytest.mark.parametrize("ties", ["queue", "heap"])
def test_codes_equal_gensims_on_distinct_counts(size, ties):
    counts = zipf_counts(size, distinct=True)
    for ours, theirs in zip(split_paths(counts, ties), gensim_tree(counts), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [1000, 3000])
def test_heap_ties_equal_gensims(size):
    counts = zipf_counts(size, distinct=False)
    for ours, theirs in zip(split_paths(counts, "heap"), gensim_tree(counts), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "counts", [[1, 1, 1, 1, 1], [5, 3, 2, 2, 1, 1, 1], zipf_counts(300, False)]
)
def test_queue_ties_equal_the_two_pointer_rule(counts):
    for ours, theirs in zip(split_paths(counts, "queue"), two_pointers(counts), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_total_code_length_does_not_depend_on_ties():
    counts = zipf_counts(700, distinct=False)
    lengths = [
        sum(c * len(code) for c, code in zip(counts, split_paths(counts, ties)[0], strict=True))
        for ties in ("queue", "heap")
    ]
    assert lengths[0] == lengths[1]


def test_one_word_and_bad_counts():
    offsets, path = _corpus.huffman_paths([7])
    assert offsets.tolist() == [0, 0]
    assert path.size == 0
    with pytest.raises(ValueError, match="counts is empty"):
        _corpus.huffman_paths([])
    with pytest.raises(ValueError, match=r"counts\[1\] is 5"):
        _corpus.huffman_paths([3, 5])
    with pytest.raises(ValueError, match=r"counts\[2\] is 0"):
        _corpus.huffman_paths([3, 1, 0])
    with pytest.raises(ValueError, match="ties is 'other'"):
        _corpus.huffman_paths([3, 1], ties="other")


def alias_probabilities(table):
    """The exact distribution that a table draws from."""
    keep = ((table >> 32) & 0xFFFFFFFF) / 2**32
    result = keep.copy()
    np.add.at(result, table & 0xFFFFFFFF, 1 - keep)
    return result / len(table)


@pytest.mark.parametrize("size", [1, 2, 63, 5000])
def test_alias_table_holds_the_distribution(size):
    weights = np.random.default_rng(1).pareto(1.0, size) + 1e-3
    expected = weights / weights.sum()
    actual = alias_probabilities(_corpus.alias_table(weights))
    # A threshold is rounded to 2**-32 of a cell, and a cell is 1 / size.
    np.testing.assert_allclose(actual, expected, atol=size * 2.0**-32)


def test_alias_draws_pass_chi_square():
    weights = np.array([5, 0, 1, 3, 1.5])
    table = _corpus.alias_table(weights)
    words = np.random.default_rng(2).integers(0, 2**32, (2, 200_000), dtype=np.uint64)
    cell = (words[0] * np.uint64(len(table)) >> np.uint64(32)).astype(np.int64)
    entry = table[cell]
    drawn = np.where(words[1] < (entry >> 32 & 0xFFFFFFFF), cell, entry & 0xFFFFFFFF)
    counts = np.bincount(drawn, minlength=5)
    assert counts[1] == 0
    kept = [0, 2, 3, 4]
    expected = weights[kept] / weights.sum() * counts.sum()
    assert stats.chisquare(counts[kept], expected).pvalue > 1e-4


def test_alias_table_refuses_bad_weights():
    for weights in ([], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf")], [1e308] * 2):
        with pytest.raises(ValueError, match="weights"):
            _corpus.alias_table(weights)


WORDS = ["king", "a", "naïve", "Straße", "日本語", "слово", "e\u0301te", "x" * 40, "🙂🙂"]


def test_subword_ids_equal_fasttexts(tmp_path):
    fasttext = pytest.importorskip("fasttext")
    text = tmp_path / "text"
    text.write_text((" ".join(WORDS) + "\n") * 20, encoding="utf-8")
    bucket = 1000
    model = fasttext.train_unsupervised(
        str(text), minCount=1, dim=2, epoch=1, thread=1, bucket=bucket, minn=2, maxn=5, verbose=0
    )
    size = len(model.get_words())
    offsets, buckets = _corpus.subword_buckets(WORDS, 2, 5, bucket)
    for i, word in enumerate(WORDS):
        _, ids = model.get_subwords(word)
        expected = [id - size for id in ids if id >= size]
        assert buckets[offsets[i] : offsets[i + 1]].tolist() == expected, word


def test_subword_edges():
    assert not _corpus.subword_buckets(["</s>"])[1].size
    offsets, buckets = _corpus.subword_buckets(["", "ab"], 1, 2, 2_000_000)
    grams = ["<>"], ["<a", "a", "ab", "b", "b>"]
    expected = [[_corpus.fasttext_hash(g) % 2_000_000 for g in word] for word in grams]
    assert buckets[: offsets[1]].tolist() == expected[0]
    assert buckets[offsets[1] :].tolist() == expected[1]
    with pytest.raises(ValueError, match="bucket is 0"):
        _corpus.subword_buckets(["a"], 1, 2, 0)


def test_word_ngrams_follow_the_published_recurrence():
    words = ["der", "naïve", "König", "schlief"]
    hashes = [np.int32(np.uint32(_corpus.fasttext_hash(w))) for w in words]
    expected = []
    for i in range(len(words)):
        h = int(hashes[i])
        for j in range(i + 1, min(len(words), i + 3)):
            h = (h * 116049371 + int(hashes[j])) % 2**64
            expected.append(h % 1000)
    assert _corpus.word_ngram_buckets(words, 3, 1000).tolist() == expected
