"""The fused steps against the reference, pair by pair, and the distributions of their draws."""

import numpy as np
import pytest
import torch
from scipy import stats

from ptmkernels.ops import AliasTable, HuffmanTree, cbow_step_, skipgram_step_
from ptmkernels.ops.word_vectors import keep_thresholds, reference

# Sums in another order: some hundred updates of rows of size 1, each with round-off of float32.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-6}
DTYPES = (torch.float32, torch.bfloat16)


def case(vocabulary=23, width=41, tokens=400, dtype=torch.float32, seed=1):
    """Random rows, Zipf tokens with short and empty sentences."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([1000 // (i + 1) + 1 for i in range(vocabulary)])
    ids = torch.multinomial(counts.float(), tokens, replacement=True, generator=generator)
    ends = torch.rand(tokens, generator=generator) < 0.1
    ids[ends] = -1
    matrices = [torch.randn(vocabulary, width, generator=generator) * 0.3 for _ in range(2)]
    return counts, ids.int(), [m.to(dtype) for m in matrices]


def subword_case(vocabulary, width=41):
    """Input rows for words of one to seven sub-words, and the lists of those."""
    generator = torch.Generator().manual_seed(3)
    extra = 40
    matrix = torch.randn(vocabulary + extra, width, generator=generator) * 0.3
    rows = [
        [w, *(vocabulary + torch.randint(extra, (w % 7,), generator=generator)).tolist()]
        for w in range(vocabulary)
    ]
    offsets = torch.tensor([0, *np.cumsum([len(r) for r in rows])])
    return matrix, (offsets, torch.tensor([r for row in rows for r in row], dtype=torch.int32))


def both(step, matrices, tokens, **options):
    """The matrices and statistics after the kernel and after the reference in float64."""
    results = []
    for backend in ("cpu", "reference"):
        a, b = (m.clone() for m in matrices)
        if backend == "reference":
            a, b = a.double(), b.double()
        s = step(a, b, tokens, backend=backend, seed=torch.tensor([77]), **options)
        results.append((a.double(), b.double(), s))
    return results


def assert_same(results, **tolerance):
    (a, b, s), (ra, rb, rs) = results
    torch.testing.assert_close(a, ra, **(tolerance or TOLERANCE))
    torch.testing.assert_close(b, rb, **(tolerance or TOLERANCE))
    assert (s.pairs, s.words) == (rs.pairs, rs.words)
    assert s.loss == pytest.approx(rs.loss, rel=tolerance.get("rtol", 1e-3), nan_ok=True)


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("width", [1, 4, 7, 26, 32, 100, 112])
def test_negative_sampling(step, width):
    counts, tokens, matrices = case(width=width)
    assert_same(
        both(
            step,
            matrices,
            tokens,
            window=4,
            learning_rate=0.05,
            sampler=AliasTable.from_counts(counts),
            keep=keep_thresholds(np.linspace(0.3, 1.2, len(counts))),
            position=2**33,
            total=2**34,
        )
    )


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("negatives", [0, 1, 2, 9, 15])
def test_numbers_of_negatives(step, negatives):
    counts, tokens, matrices = case(vocabulary=23 if negatives < 15 else 5000, width=48)
    sampler = AliasTable.from_counts(counts)
    options = {"window": 2, "learning_rate": 0.05, "sampler": sampler, "num_negatives": negatives}
    assert_same(both(step, matrices, tokens, **options))


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("vocabulary", [2, 3, 23, 200])
def test_hierarchical_softmax(step, vocabulary):
    counts, tokens, (a, b) = case(vocabulary=vocabulary)
    tree = HuffmanTree.from_counts(counts)
    assert_same(both(step, [a, b[1:]], tokens, window=5, learning_rate=0.05, tree=tree))


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
def test_vocabulary_of_one_word(step):
    _, tokens, (a, b) = case(vocabulary=1)
    options = {"window": 5, "learning_rate": 0.05}
    sampler = AliasTable.from_counts(torch.tensor([5]))
    assert_same(both(step, [a, b], tokens, sampler=sampler, **options))
    tree = HuffmanTree.from_counts(torch.tensor([5]))
    before = a.clone()
    step(a, b[1:], tokens, tree=tree, seed=torch.tensor([1]), **options)
    assert torch.equal(a, before)


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("loss", ["negatives", "tree"])
def test_subwords(step, loss):
    counts, tokens, (_, b) = case()
    size = len(counts)
    a, subwords = subword_case(size)
    options = {"window": 3, "learning_rate": 0.05, "subwords": subwords}
    if loss == "negatives":
        options["sampler"] = AliasTable.from_counts(counts)
    else:
        options["tree"], b = HuffmanTree.from_counts(counts), b[1:]
    assert_same(both(step, [a, b], tokens, **options))


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
def test_bfloat16_stays_near_the_reference(step):
    counts, tokens, matrices = case(tokens=60, dtype=torch.bfloat16)
    options = {"window": 3, "learning_rate": 0.02, "sampler": AliasTable.from_counts(counts)}
    # Each store of a row rounds to 8 bits, some tens of times for the most frequent word.
    assert_same(both(step, matrices, tokens, **options), rtol=0.05, atol=0.03)


def mean_change(backend, width, steps, dtype):
    """How far steps far below the last bit of a row move it, on average over its columns."""
    tokens = torch.tensor([0, 1, -1] * steps, dtype=torch.int32)
    sign = 1.0 - 2.0 * (torch.arange(width) % 2)  # so that products are near 0
    a, b = (torch.ones(2, width) / 32).to(dtype), sign.expand(2, -1).to(dtype).contiguous()
    skipgram_step_(
        a, b, tokens, window=1, learning_rate=1e-4, total=10**9, num_negatives=0, backend=backend,
        sampler=AliasTable.from_counts(torch.tensor([1, 1])), seed=torch.tensor([1]),
    )  # fmt: skip
    return ((a.double() - 1 / 32) * sign).mean().item()


def test_bfloat16_rounding_has_no_drift():
    """Steps far below the last bit of a row still move it, by the right amount on average."""
    moved = {dtype: mean_change("cpu", 1024, 200, dtype) for dtype in DTYPES}
    assert moved[torch.float32] > 2e-3
    assert moved[torch.bfloat16] == pytest.approx(moved[torch.float32], rel=0.1)


def test_rows_may_be_parts_of_wider_ones():
    counts, tokens, matrices = case(width=20)
    options = {"window": 3, "learning_rate": 0.05, "sampler": AliasTable.from_counts(counts)}
    wide = [torch.cat([m, torch.full_like(m, 7.0)], 1) for m in matrices]
    views = [w[:, :20] for w in wide]
    skipgram_step_(*views, tokens, seed=torch.tensor([5]), **options)
    skipgram_step_(*matrices, tokens, seed=torch.tensor([5]), **options)
    for m, w in zip(matrices, wide, strict=True):
        assert torch.equal(w[:, :20], m)
        assert (w[:, 20:] == 7).all()


def test_long_sentences_are_cut_alike():
    counts, tokens, matrices = case(tokens=2500, width=8)
    tokens = tokens.abs()
    options = {"window": 2, "learning_rate": 0.01, "sampler": AliasTable.from_counts(counts)}
    assert_same(both(skipgram_step_, matrices, tokens, **options))


def test_pieces_of_the_stream_give_what_the_whole_gives():
    counts, tokens, matrices = case(tokens=600)
    cut = int(torch.nonzero(tokens < 0)[20]) + 1
    options = {
        "window": 3, "learning_rate": 0.05, "total": 1000,
        "sampler": AliasTable.from_counts(counts), "seed": torch.tensor([9]),
    }  # fmt: skip
    whole = [m.clone() for m in matrices]
    skipgram_step_(*whole, tokens, position=10, **options)
    skipgram_step_(*matrices, tokens[:cut], position=10, **options)
    skipgram_step_(*matrices, tokens[cut:], position=10 + cut, **options)
    for a, b in zip(whole, matrices, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("loss", ["negatives", "tree"])
def test_threads_lose_nothing_of_the_rows_changed_most(step, loss):
    """Steps so small that their order does not matter: what is missing was lost (1 % without the copies)."""
    counts, tokens, (rows, output) = case(vocabulary=60, width=112, tokens=100_000)
    options = {"window": 5, "learning_rate": 1e-9, "seed": torch.tensor([7])}
    if loss == "tree":
        output, options["tree"] = output[1:], HuffmanTree.from_counts(counts)
    else:
        options["sampler"] = AliasTable.from_counts(counts)
    changes = []
    for threads in (1, 2):
        trained = torch.zeros_like(output)
        step(rows.clone(), trained, tokens, threads=threads, **options)
        changes.append(trained)
    assert (changes[1] - changes[0]).norm() < 1e-3 * changes[0].norm()


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_train_every_pair_once(threads):
    counts, tokens, matrices = case(vocabulary=500, tokens=60_000, width=16)
    # The same learning rate everywhere: it falls with the place in the stream, and which places are
    # trained first depends on how the machine schedules the threads.
    options = {
        "window": 3, "learning_rate": 0.01, "total": 10**9,
        "sampler": AliasTable.from_counts(counts), "seed": torch.tensor([1]),
    }  # fmt: skip
    alone = [m.clone() for m in matrices]
    one = skipgram_step_(*alone, tokens, **options)
    many = skipgram_step_(*matrices, tokens, threads=threads, **options)
    assert (one.pairs, one.words) == (many.pairs, many.words)
    assert many.loss == pytest.approx(one.loss, rel=0.02)
    again = [skipgram_step_(*m, tokens, **options).loss for m in (alone, matrices)]
    assert again[1] == pytest.approx(again[0], rel=0.02)


def test_draws_pass_chi_square():
    weights = np.arange(1, 31) ** 0.75
    sampler = AliasTable.from_weights(weights)
    keep_word, reach, negatives = reference.draws(
        torch.arange(40_000) + 2**40, torch.tensor([123]), 7, 5, sampler
    )
    assert stats.chisquare(np.bincount(reach, minlength=8)[1:]).pvalue > 1e-4
    expected = weights / weights.sum() * negatives.numel()
    for column in (slice(None), 0, 4):
        drawn = np.bincount(negatives[:, column].reshape(-1), minlength=30)
        assert stats.chisquare(drawn, expected * drawn.sum() / expected.sum()).pvalue > 1e-4
    kept = keep_word < (keep_thresholds([0.3]).long() & 0xFFFFFFFF)
    assert stats.binomtest(int(kept.sum()), len(kept), 0.3).pvalue > 1e-4


def test_errors_name_the_argument():
    counts, tokens, (a, b) = case()
    good = {
        "window": 3, "learning_rate": 0.05, "seed": torch.tensor([1]),
        "sampler": AliasTable.from_counts(counts),
    }  # fmt: skip

    def refuse(match, *args, error=ValueError, **change):
        with pytest.raises(error, match=match):
            skipgram_step_(*(args or (a, b, tokens)), **(good | change))

    refuse("learning_rate is nan", learning_rate=float("nan"))
    refuse("window is 0", window=0)
    refuse("num_negatives is -1", num_negatives=-1)
    refuse("threads is 0", threads=0)
    refuse("exactly one of sampler and tree", sampler=None)
    refuse("input_weight has 22 rows; expected 23", a[1:], b, tokens)
    refuse("output_weight has 22 rows; expected 23", a, b[1:], tokens)
    refuse("tokens holds 23", a, b, torch.tensor([23], dtype=torch.int32))
    refuse("tokens must be an int32", a, b, tokens.long(), error=TypeError)
    refuse("seed must be", seed=3, error=TypeError)
    refuse("seed is on meta; expected cpu", seed=torch.tensor([1], device="meta"))
    refuse("keep is on meta", keep=torch.empty(23, dtype=torch.int32, device="meta"))
    refuse("keep is", keep=torch.zeros(4, dtype=torch.int32))
    refuse(
        "output_weight has 23 rows; expected 22", sampler=None, tree=HuffmanTree.from_counts(counts)
    )
    refuse("empty", a[:0], b[:0], tokens, sampler=AliasTable(torch.empty(0).long(), torch.empty(0)))
    refuse("dtype torch.float16", a.half(), b.half(), tokens, error=TypeError)
    refuse("num_negatives is 65537; expected 0 to 65536", num_negatives=2**16 + 1)
    refuse("position is", position=2**63)
    refuse("keep is a list", keep=[1] * 23, error=TypeError)
    refuse("input_weight is an expanded view", a[:1].expand(23, -1), b, tokens)
    offsets, rows = torch.arange(24), torch.arange(23, dtype=torch.int32)
    refuse("subwords has offsets that do not fit", subwords=(offsets - 1, rows[:22]))
    refuse("subwords is a int", subwords=1, error=TypeError)
    refuse(r"subwords\[0\] is a int", subwords=(1, rows), error=TypeError)
    with pytest.raises(ValueError, match="probability"):
        keep_thresholds([float("nan")])


def test_tables_with_gaps_between_their_values():
    counts, tokens, matrices = case()
    counts = torch.sort(counts, descending=True)[0]
    tables = [
        keep_thresholds(torch.linspace(0.2, 1, 23)),
        torch.arange(24),
        torch.arange(23, dtype=torch.int32).flip(0),
    ]
    results = []
    for spread in (False, True):
        a, b = (m.clone() for m in matrices)
        keep, *subwords = [torch.stack([t, t], 1)[:, 0] if spread else t for t in tables]
        skipgram_step_(
            a, b, tokens, window=3, learning_rate=0.05, sampler=AliasTable.from_counts(counts),
            keep=keep, subwords=tuple(subwords), seed=torch.tensor([5]),
        )  # fmt: skip
        results.append((a, b))
    for contiguous, with_gaps in zip(*results, strict=True):
        assert torch.equal(contiguous, with_gaps)


def test_autograd_notices_the_change():
    counts, tokens, (a, b) = case()
    hidden = torch.ones(2, a.shape[1], requires_grad=True)
    product = (hidden * a[:2]).sum()
    skipgram_step_(
        a, b, tokens, window=3, learning_rate=0.05, sampler=AliasTable.from_counts(counts),
        seed=torch.tensor([5]),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_no_tokens():
    counts, _, (a, b) = case()
    s = skipgram_step_(
        a, b, torch.empty(0, dtype=torch.int32), window=1, learning_rate=0.1,
        sampler=AliasTable.from_counts(counts), seed=torch.tensor([1]),
    )  # fmt: skip
    assert (s.pairs, s.words) == (0, 0)
