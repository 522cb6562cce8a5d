"""AttentionMask against brute-force definitions of every mask of docs/architecture.md's table."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmkernels import AttentionMask
from ptmkernels._mask_tensors import LOWEST, PADDED

LENGTHS = [(1, 1), (1, 9), (5, 5), (4, 9), (9, 4), (0, 3), (3, 0), (0, 0)]


def brute(batch, query_len, key_len, rule):
    """(B, L, S) booleans from a rule on (b, i, j)."""
    dense = torch.zeros(batch, query_len, key_len, dtype=torch.bool)
    for b, i, j in itertools.product(range(batch), range(query_len), range(key_len)):
        dense[b, i, j] = bool(rule(b, i, j))
    return dense


def assert_mask(mask, expected):
    dense = mask.to_dense()
    assert dense.dtype == torch.bool
    assert dense.shape[-2:] == (mask.query_len, mask.key_len)
    assert torch.equal(dense.expand(expected.shape), expected)


def random_keys(batch, length, generator):
    return torch.rand(batch, length, generator=generator) < 0.6


# -- the rows of the table ---------------------------------------------------------------------


@pytest.mark.parametrize(("length", "keys"), LENGTHS)
def test_rows_without_arguments(length, keys):
    shift = keys - length
    rules = {
        "full": lambda b, i, j: True,
        "causal": lambda b, i, j: j <= i + shift,
        "right_to_left": lambda b, i, j: j >= i + shift,
    }
    for name, rule in rules.items():
        assert_mask(getattr(AttentionMask, name)(length, keys), brute(1, length, keys, rule))
    if length == keys:
        assert_mask(AttentionMask.causal(length), brute(1, length, length, rules["causal"]))


@pytest.mark.parametrize(("length", "keys"), LENGTHS)
@pytest.mark.parametrize("left", [None, 0, 2, 2**40])
@pytest.mark.parametrize("right", [None, 0, 3, 2**31 - 1])
def test_window(length, keys, left, right):
    def rule(b, i, j):
        distance = j - (i + keys - length)
        return (left is None or distance >= -left) and (right is None or distance <= right)

    mask = AttentionMask.window(length, keys, left, right)
    assert_mask(mask, brute(1, length, keys, rule))


@pytest.mark.parametrize("query_len", [None, 0, 1, 4, 11])
def test_keys_take_any_set(query_len):
    allowed = random_keys(4, 7, torch.Generator().manual_seed(0))
    allowed[1], allowed[2] = False, True
    expected = brute(4, 7 if query_len is None else query_len, 7, lambda b, i, j: allowed[b, j])
    for form in (allowed, allowed.long(), allowed.to(torch.uint8)):
        assert_mask(AttentionMask.keys(form, query_len), expected)


def test_prefix():
    lengths = [0, 1, 4, 6]
    expected = brute(4, 6, 6, lambda b, i, j: j <= i or j < lengths[b])
    assert_mask(AttentionMask.prefix(lengths, 6), expected)
    assert_mask(AttentionMask.prefix(torch.tensor(lengths), 6), expected)
    assert AttentionMask.prefix([], 6).batch_size == 0
    assert_mask(AttentionMask.prefix([0], 0), torch.zeros(1, 0, 0, dtype=torch.bool))


@pytest.mark.parametrize("causal", [False, True])
def test_documents(causal):
    ids = torch.tensor([[3, 3, 3, 1, 1, 7, 7], [5, 5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5, 6]])
    expected = brute(3, 7, 7, lambda b, i, j: ids[b, i] == ids[b, j] and (not causal or j <= i))
    assert_mask(AttentionMask.documents(ids, causal), expected)
    assert_mask(AttentionMask.documents(ids[0].to(torch.int16), causal), expected[:1])
    assert AttentionMask.documents(ids[:, :0], causal).key_len == 0
    assert AttentionMask.documents(ids[:0], causal).batch_size == 0


@pytest.mark.parametrize("memory", [0, 1, 5])
@pytest.mark.parametrize("attend", [None, 1, 3, 20])
def test_recurrence(memory, attend):
    def rule(b, i, j):
        return j <= i + memory and (attend is None or j > i + memory - attend)

    assert_mask(AttentionMask.recurrence(4, memory, attend), brute(1, 4, memory + 4, rule))


@pytest.mark.parametrize("full_memory", [6, 4])
@pytest.mark.parametrize("memory", [0, 2, 4, 6])
def test_recurrence_is_same_length_of_transformer_xl(memory, full_memory):
    """`same_length` as its authors build it: two triangles of ones where a key is hidden."""
    length = 5
    ones = torch.ones(length, memory + length)
    extra = memory + length - full_memory
    shift = length - extra if extra > 0 else length
    hidden = ones.triu(1 + memory) + ones.tril(-shift)
    mask = AttentionMask.recurrence(length, memory, attend_len=full_memory)
    assert_mask(mask, (hidden == 0)[None])


@pytest.mark.parametrize("memory", [0, 3])
@pytest.mark.parametrize("stream", ["content", "query"])
def test_permutation_of_any_preorder(memory, stream):
    generator = torch.Generator().manual_seed(1)
    rank = torch.randint(-3, 4, (5, 8), generator=generator)  # ties, negative ranks
    targets = random_keys(5, 8, generator)

    def rule(b, i, j):
        if j < memory:
            return True
        strict = stream == "query" and targets[b, i]
        mine, other = rank[b, i], rank[b, j - memory]
        return other < mine if strict else other <= mine

    expected = brute(5, 8, memory + 8, rule)
    mask = AttentionMask.permutation(rank, targets, stream, memory)
    assert_mask(mask, expected)
    index = torch.tensor([[0, 7, 3], [1, 1, 2], [4, 5, 6], [7, 6, 5], [2, 0, 4]])
    picked = AttentionMask.permutation(rank, targets, stream, memory, query_index=index)
    assert picked.query_len == 3
    rows = torch.arange(5)[:, None]
    assert_mask(picked, expected[rows, index])


def test_permutation_broadcasts_over_the_batch():
    rank, targets = torch.tensor([2, 0, 1]), torch.tensor([[True, False, True], [False] * 3])
    index = torch.tensor([[0], [2]])
    mask = AttentionMask.permutation(rank, targets, "query", query_index=index)
    assert mask.to_dense().tolist() == [[[False, True, True]], [[False, True, True]]]


def test_permutation_takes_the_extreme_ranks():
    rank = torch.tensor([LOWEST + 1, PADDED - 1])
    targets = torch.tensor([[True, True]])
    query = AttentionMask.permutation(rank, targets, "query", memory_len=1)
    assert query.to_dense().tolist() == [[[True, False, False], [True, True, False]]]


@pytest.mark.parametrize("seed", range(3))
def test_permutation_of_transformers_collator(seed):
    """The rows that a target reads agree with the collator's own `perm_mask`, in both streams."""
    transformers = pytest.importorskip("transformers")

    class Tokenizer(transformers.PreTrainedTokenizer):
        """Just what the collator asks for: ids of padding and separators."""

        vocab_size = 40

        def get_vocab(self):
            return {str(i): i for i in range(40)}

        def _convert_token_to_id(self, token):
            return int(token)

        def get_special_tokens_mask(self, ids, already_has_special_tokens=False):
            return [int(i < 3) for i in ids]

    torch.manual_seed(seed)
    tokenizer = Tokenizer(pad_token="0", mask_token="2", sep_token="1")
    collator = transformers.DataCollatorForPermutationLanguageModeling(
        tokenizer, plm_probability=0.4, max_span_length=3
    )
    ids = torch.randint(5, 40, (3, 16))
    ids[:, -1] = 1
    ids[1, 12:] = 0
    batch = collator.torch_mask_tokens(ids)
    hidden, targets = batch[1].bool(), batch[3] != -100
    length = ids.shape[1]
    # Unpredicted keys are lowest; a target's place is the number of targets hidden less often.
    order = (~hidden & targets[:, None, :]).sum(2)
    rank = torch.where(targets, order, -1)
    query = AttentionMask.permutation(rank, targets, "query").to_dense()
    content = AttentionMask.permutation(rank).to_dense()
    itself = torch.eye(length, dtype=torch.bool)
    assert int(targets.sum()) > 3
    assert torch.equal(query[targets], ~hidden[targets])
    assert torch.equal(content[targets], (~hidden | itself)[targets])


@st.composite
def trees(draw):
    """A sentence tree: tokens in order, each (branch or -1, anchor group or -1)."""
    tokens, branch = [], 0
    for group in range(draw(st.integers(1, 5))):
        tokens += [(-1, group)] * draw(st.integers(1, 2))
        for _ in range(draw(st.integers(0, 3))):
            tokens += [(branch, group)] * draw(st.integers(1, 3))
            branch += 1
    return tokens


def tree_mask(tokens):
    """Each anchor touches the branches of its group, which are numbered in a row."""
    trunk, low, high = [], [], []
    for branch, group in tokens:
        touched = [b for b, g in tokens if g == group and b >= 0] if branch < 0 else [branch]
        trunk.append(branch < 0)
        low.append(min(touched, default=1))
        high.append(max(touched, default=0))
    return AttentionMask.tree(*(torch.tensor([row]) for row in (trunk, low, high)))


def tree_rule(tokens):
    """K-BERT: trunk sees trunk; a branch sees itself and the anchor on which it hangs."""

    def rule(b, i, j):
        (branch_i, group_i), (branch_j, group_j) = tokens[i], tokens[j]
        if branch_i < 0 or branch_j < 0:
            return (branch_i < 0 and branch_j < 0) or group_i == group_j
        return branch_i == branch_j

    return rule


@settings(max_examples=40, deadline=None)
@given(trees())
def test_tree_is_the_visible_matrix(tokens):
    n = len(tokens)
    assert_mask(tree_mask(tokens), brute(1, n, n, tree_rule(tokens)))


def test_tree_of_many_branches_and_trunk_of_one_row():
    n = 300
    branch = torch.arange(n)[None]
    mask = AttentionMask.tree(torch.zeros(n, dtype=torch.bool), branch, branch)
    assert_mask(mask, torch.eye(n, dtype=torch.bool)[None])


def test_tree_for_the_last_queries():
    tokens = [(-1, 0), (0, 0), (1, 0), (-1, 1), (2, 1)]
    whole = tree_mask(tokens)
    last = AttentionMask(
        whole.key_rank, whole.query_low[:, 3:], whole.query_high[:, 3:], branches=whole.branches
    )
    assert_mask(last, whole.to_dense()[:, 3:])


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6), (1, 4, 6), (2, 3, 4, 6), (1, 1, 4, 6)])
def test_dense(shape):
    allowed = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5
    dense = AttentionMask.dense(allowed).to_dense()
    assert torch.equal(
        dense.expand(2, 3, 4, 6) if dense.dim() == 4 else dense, _full(allowed, dense)
    )
    strided = AttentionMask.dense(allowed.transpose(-1, -2).contiguous().transpose(-1, -2))
    assert torch.equal(strided.to_dense(), dense)
    assert strided.allowed.is_contiguous()


def _full(allowed, dense):
    if allowed.dim() == 2:
        return allowed[None]
    return allowed.expand(2, 3, 4, 6) if dense.dim() == 4 else allowed.reshape(-1, 4, 6)


# -- combination -------------------------------------------------------------------------------


def square_masks():
    """Masks of length 8 by name, of batch sizes 1 and 3; every kind that there is."""
    generator = torch.Generator().manual_seed(3)
    trunk = torch.tensor([1, 0, 0, 1, 1, 0, 1, 1])
    low = torch.tensor([0, 0, 1, 9, 2, 2, 9, 9])
    high = torch.tensor([1, 0, 1, 0, 2, 2, 0, 0])
    return {
        "full": AttentionMask.full(8),
        "keys": AttentionMask.keys(random_keys(3, 8, generator)),
        "causal": AttentionMask.causal(8),
        "right_to_left": AttentionMask.right_to_left(8),
        "prefix": AttentionMask.prefix([2, 0, 8], 8),
        "documents": AttentionMask.documents(torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])),
        "window": AttentionMask.window(8, 8, 2, 3),
        "recurrence": AttentionMask.recurrence(8, 0, 4),
        "permutation": AttentionMask.permutation(torch.randint(0, 6, (3, 8), generator=generator)),
        "tree": AttentionMask.tree(trunk, low, high),
        "dense": AttentionMask.dense(torch.rand(3, 8, 8, generator=generator) < 0.7),
        "heads": AttentionMask.dense(torch.rand(1, 2, 8, 8, generator=generator) < 0.7),
    }


MASKS = square_masks()
ANY_ORDER = {"full", "keys", "tree", "dense", "heads"}


def heads_dense(mask):
    dense = mask.to_dense()
    return dense if dense.dim() == 4 else dense[:, None]


@pytest.mark.parametrize("one", MASKS)
@pytest.mark.parametrize("two", MASKS)
def test_and_is_exact_or_refused(one, two):
    a, b = MASKS[one], MASKS[two]
    own = [name for name in (one, two) if name == "permutation"]
    if one == two == "tree":
        with pytest.raises(ValueError, match="trees"):
            a & b
    elif own and not {one, two} & ANY_ORDER:
        with pytest.raises(ValueError, match="order the keys differently"):
            a & b
    else:
        both, turned = a & b, b & a
        assert torch.equal(heads_dense(both), heads_dense(a) & heads_dense(b))
        assert torch.equal(both.to_dense(), turned.to_dense())
        again = both & AttentionMask.full(8)
        assert torch.equal(again.to_dense(), both.to_dense())


def test_and_of_three_with_memory():
    rank = torch.tensor([[2, 0, 1, 1]])
    keys = torch.tensor([[0, 1, 1, 1, 1, 0]])
    mask = AttentionMask.permutation(rank, memory_len=2) & AttentionMask.keys(keys, query_len=4)
    expected = brute(
        1, 4, 6, lambda b, i, j: keys[0, j] and (j < 2 or rank[0, j - 2] <= rank[0, i])
    )
    assert_mask(mask, expected)


def test_and_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="query_len 3 and 4"):
        AttentionMask.full(3) & AttentionMask.full(4)
    with pytest.raises(ValueError, match="device cpu and meta"):
        AttentionMask.full(3) & AttentionMask.full(3, device="meta")
    with pytest.raises(ValueError, match="batch_size 2 and 3"):
        AttentionMask.prefix([1, 2], 3) & AttentionMask.prefix([1, 2, 3], 3)
    with pytest.raises(TypeError):
        AttentionMask.full(3) & torch.ones(3, 3)


@pytest.mark.parametrize("one", MASKS)
@pytest.mark.parametrize("two", MASKS)
def test_cat(one, two):
    a, b = MASKS[one], MASKS[two]
    joined = AttentionMask.cat([a, b, a])
    assert joined.batch_size == 2 * a.batch_size + b.batch_size
    assert all(t is None or t.is_contiguous() for t in joined._tensors())
    parts = [heads_dense(m) for m in (a, b, a)]
    heads = max(part.shape[1] for part in parts)
    expected = torch.cat([part.expand(-1, heads, -1, -1) for part in parts])
    assert torch.equal(heads_dense(joined).expand(expected.shape), expected)


def test_cat_is_unilm():
    """The four modes of UniLM in one batch, each row padded, then packed."""
    length = 6
    modes = [
        AttentionMask.full(length),
        AttentionMask.causal(length),
        AttentionMask.right_to_left(length),
        AttentionMask.prefix([3], length),
    ]
    keys = torch.arange(length) < torch.tensor([6, 4, 5, 6])[:, None]
    mask = AttentionMask.cat(modes) & AttentionMask.keys(keys)
    expected = torch.cat([m.to_dense() for m in modes]) & keys[:, None]
    assert_mask(mask, expected)


def test_cat_refuses():
    with pytest.raises(ValueError, match="empty"):
        AttentionMask.cat([])
    with pytest.raises(ValueError, match="expected one pair"):
        AttentionMask.cat([AttentionMask.full(3), AttentionMask.full(4)])


# -- packing -----------------------------------------------------------------------------------


def laid_out(mask, rows, columns):
    """Brute force: (1, T, T), what token t sees of token u."""
    dense = mask.to_dense()
    dense = dense.expand(max(int(rows.max()) + 1 if len(rows) else 1, dense.shape[0]), -1, -1)
    seen = dense[rows[:, None], columns[:, None], columns[None, :]]
    return (seen & (rows[:, None] == rows[None, :]))[None]


PACKABLE = [name for name in MASKS if MASKS[name].allowed is None]


@pytest.mark.parametrize("name", PACKABLE)
def test_pack(name):
    lengths = torch.tensor([5, 0, 8])
    packed = MASKS[name].pack(lengths)
    keys = torch.arange(8) < lengths[:, None]
    rows, columns = keys.nonzero(as_tuple=True)
    assert_mask(packed, laid_out(MASKS[name], rows, columns))
    assert_mask(MASKS[name].pack([5, 0, 8]), packed.to_dense())
    padded = MASKS[name] & AttentionMask.keys(keys)
    assert_mask(padded.pack(lengths), packed.to_dense())


@pytest.mark.parametrize("name", PACKABLE)
def test_gather_left_padding_holes_and_any_order(name):
    generator = torch.Generator().manual_seed(4)
    left = torch.arange(8) >= torch.tensor([[3], [0], [7]])
    for keys in (left, random_keys(3, 8, generator)):
        rows, columns = keys.nonzero(as_tuple=True)
        assert_mask(MASKS[name].gather(rows, columns), laid_out(MASKS[name], rows, columns))
        order = torch.randperm(len(rows), generator=generator)
        shuffled = rows[order], columns[order]
        assert_mask(MASKS[name].gather(*shuffled), laid_out(MASKS[name], *shuffled))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 12))
def test_gather_of_random_orders(seed, batch, length):
    generator = torch.Generator().manual_seed(seed)
    rank = torch.randint(-(2**20), 2**20, (batch, length), generator=generator)
    targets, keys = (random_keys(batch, length, generator) for _ in range(2))
    mask = AttentionMask.permutation(rank, targets, "query") & AttentionMask.keys(keys)
    rows, columns = random_keys(batch, length, generator).nonzero(as_tuple=True)
    assert_mask(mask.gather(rows, columns), laid_out(mask, rows, columns))


def test_packed_masks_take_padding_and_nothing_at_all():
    packed = AttentionMask.causal(3).pack([2, 3]) & AttentionMask.keys(
        torch.tensor([[1, 0, 1, 1, 1]])
    )
    assert packed.to_dense()[0].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1],
    ]  # fmt: skip
    for mask in (AttentionMask.full(4), AttentionMask.full(0), MASKS["keys"]):
        assert mask.pack([0, 0, 0]).key_len == 0


def test_pack_on_the_class_packs_the_full_mask():
    documents = AttentionMask.documents(torch.tensor([0, 0, 2, 2, 2]))
    for lengths in ([2, 0, 3], torch.tensor([2, 0, 3], dtype=torch.int32)):
        assert_mask(AttentionMask.pack(lengths), documents.to_dense())
    assert AttentionMask.pack([]).key_len == 0
    assert "laid out as one row" in AttentionMask.pack.__doc__
    with pytest.raises(TypeError, match="lengths has dtype"):
        AttentionMask.pack([2.0, 3.0])
    with pytest.raises(ValueError, match=r"lengths holds \[2, -1\]"):
        AttentionMask.pack([2, -1])


def test_pack_refuses():
    mask = MASKS["keys"]
    with pytest.raises(ValueError, match="lengths"):
        mask.pack([1, 2])
    with pytest.raises(ValueError, match="0 to 8"):
        mask.pack([1, 2, 9])
    with pytest.raises(ValueError, match="0 to 8"):
        mask.pack([1, -2, 3])
    with pytest.raises(ValueError, match="dense"):
        MASKS["dense"].pack([1, 2, 3])
    with pytest.raises(ValueError, match="L = S"):
        AttentionMask.full(3, 4).pack([2])
    with pytest.raises(ValueError, match="rows and columns"):
        mask.gather(torch.tensor([0, 1]), torch.tensor([0]))
    wide = AttentionMask.permutation(torch.tensor([[LOWEST + 1, PADDED - 1]]))
    with pytest.raises(ValueError, match="spread"):
        wide.pack([2, 2])


# -- bad arguments -----------------------------------------------------------------------------

ROW = torch.arange(4)


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: AttentionMask([0, 1], ROW, ROW), TypeError, "key_rank is a list"),
        (lambda: AttentionMask(ROW, ROW.float(), ROW), TypeError, "query_low has dtype"),
        (lambda: AttentionMask(ROW, ROW, ROW[None, None]), ValueError, "query_high has shape"),
        (lambda: AttentionMask(ROW, ROW, ROW[:3]), ValueError, "same number"),
        (lambda: AttentionMask(ROW, ROW, ROW + PADDED - 3), ValueError, "kept for padded keys"),
        (lambda: AttentionMask(ROW, ROW, ROW + 2**32), ValueError, "query_high holds 4294967296"),
        (lambda: AttentionMask(ROW - 2**33, ROW, ROW), ValueError, "key_rank holds"),
        (lambda: AttentionMask(ROW.expand(2, 4), ROW, ROW.expand(3, 4)), ValueError, "batch size"),
        (lambda: AttentionMask(ROW, ROW, ROW.to("meta")), ValueError, "query_high is on meta"),
        (lambda: AttentionMask(ROW, ROW, ROW, branches=ROW), ValueError, "branches has shape"),
        (
            lambda: AttentionMask(ROW[:3], ROW, ROW, branches=torch.zeros(1, 3, 3).int()),
            ValueError,
            "no more queries than keys",
        ),
        (lambda: AttentionMask(ROW, ROW, ROW, allowed=ROW), TypeError, "allowed has dtype"),
        (
            lambda: AttentionMask(ROW, ROW, ROW, allowed=torch.ones(3, 4).bool()),
            ValueError,
            "allowed has shape",
        ),
        (lambda: AttentionMask.full(-1), ValueError, "query_len is -1"),
        (lambda: AttentionMask.full(2.0), TypeError, "query_len is 2.0"),
        (lambda: AttentionMask.causal(2, -3), ValueError, "key_len is -3"),
        (lambda: AttentionMask.right_to_left(2, True), TypeError, "key_len is True"),
        (lambda: AttentionMask.window(3, 3, -1, 0), ValueError, "left is -1"),
        (lambda: AttentionMask.window(3, 3, 0, -2), ValueError, "right is -2"),
        (lambda: AttentionMask.window(3, 3, 1.5), TypeError, "left is 1.5"),
        (lambda: AttentionMask.recurrence(3, -1), ValueError, "memory_len is -1"),
        (lambda: AttentionMask.recurrence(3, 2, 0), ValueError, "attend_len is 0"),
        (lambda: AttentionMask.keys(torch.ones(2, 3)), TypeError, "allowed has dtype"),
        (lambda: AttentionMask.keys([[1, 0]]), TypeError, "allowed is a list"),
        (lambda: AttentionMask.keys(ROW), ValueError, "allowed has shape"),
        (lambda: AttentionMask.keys(ROW[None], query_len=-1), ValueError, "query_len is -1"),
        (lambda: AttentionMask.prefix([1.5], 3), TypeError, "prefix_lengths has dtype"),
        (lambda: AttentionMask.prefix([-1], 3), ValueError, "from 0 to 3"),
        (lambda: AttentionMask.prefix([4], 3), ValueError, "from 0 to 3"),
        (lambda: AttentionMask.prefix(2, 3), ValueError, "prefix_lengths has shape"),
        (lambda: AttentionMask.documents(torch.tensor([0, 1, 0])), ValueError, "contiguous"),
        (
            lambda: AttentionMask.documents(torch.tensor([[0, 0, 1], [5, 4, 5]])),
            ValueError,
            "row 1",
        ),
        (lambda: AttentionMask.documents(torch.rand(3)), TypeError, "ids has dtype"),
        (lambda: AttentionMask.documents(ROW[None, None]), ValueError, "ids has shape"),
        (lambda: AttentionMask.permutation(ROW, stream="both"), ValueError, "stream is 'both'"),
        (lambda: AttentionMask.permutation(ROW, stream="query"), ValueError, "targets is None"),
        (lambda: AttentionMask.permutation(ROW.float()), TypeError, "rank has dtype"),
        (lambda: AttentionMask.permutation(ROW + PADDED - 3), ValueError, "rank holds"),
        (lambda: AttentionMask.permutation(ROW, memory_len=-1), ValueError, "memory_len is -1"),
        (
            lambda: AttentionMask.permutation(ROW, torch.ones(1, 3).bool(), "query"),
            ValueError,
            "targets has shape",
        ),
        (lambda: AttentionMask.tree(ROW.float(), ROW, ROW), TypeError, "trunk has dtype"),
        (lambda: AttentionMask.tree(ROW, ROW[:3], ROW), ValueError, "branch_low has 3 tokens"),
        (lambda: AttentionMask.dense(torch.ones(3, 3)), TypeError, "allowed has dtype"),
        (lambda: AttentionMask.dense(torch.ones(3).bool()), ValueError, "allowed has shape"),
        (lambda: AttentionMask.dense([[True]]), TypeError, "allowed is a list"),
    ],
)
def test_bad_arguments_are_named(build, error, match):
    with pytest.raises(error, match=match):
        build()


# -- as a value --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKS)
def test_copies_and_pytrees(name):
    mask = MASKS[name]
    leaves, spec = torch.utils._pytree.tree_flatten(mask)
    others = [
        copy.deepcopy(mask),
        pickle.loads(pickle.dumps(mask)),
        torch.utils._pytree.tree_unflatten(leaves, spec),
        mask.to("cpu"),
    ]
    for other in others:
        assert_mask(other, mask.to_dense())
        assert repr(other) == repr(mask)
        # What `&` may do with it came along.
        assert torch.equal((other & MASKS["keys"]).to_dense(), (mask & MASKS["keys"]).to_dense())
        if name != "permutation":
            other & MASKS["causal"]


def test_repr_and_device():
    mask = MASKS["tree"] & MASKS["heads"]
    assert repr(mask) == (
        "AttentionMask(batch_size=1, query_len=8, key_len=8, branches, allowed, device=cpu)"
    )
    moved = mask.to("meta")
    assert moved.device.type == "meta"
    assert moved.to_dense().shape == (1, 2, 8, 8)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_constructors_take_a_device(device):
    for mask in (
        AttentionMask.full(3, device=device),
        AttentionMask.causal(3, device=device),
        AttentionMask.right_to_left(3, device=device),
        AttentionMask.window(3, 3, 1, 1, device=device),
        AttentionMask.recurrence(3, 2, device=device),
        AttentionMask.prefix([1, 2], 3, device=device),
        AttentionMask.keys(torch.ones(2, 3, dtype=torch.bool, device=device)),
        AttentionMask.documents(torch.zeros(3, dtype=torch.int32, device=device)),
        AttentionMask.permutation(torch.zeros(2, 3, dtype=torch.int64, device=device)),
        AttentionMask.causal(3, device=device).gather(*torch.zeros(2, 4, device=device).long()),
    ):
        assert mask.device.type == device
        assert mask.to_dense().device.type == device


def test_fake_tensors():
    with torch._subclasses.FakeTensorMode():
        mask = AttentionMask(torch.arange(4), torch.zeros(4).long(), torch.arange(4))
        keys = AttentionMask.keys(torch.ones(2, 4).bool())
        documents = AttentionMask.documents(torch.zeros(2, 4).long(), causal=True)
        order = AttentionMask.permutation(torch.zeros(2, 4).long())
        assert (mask & keys).to_dense().shape == (2, 4, 4)
        assert (documents & AttentionMask.window(4, 4, 1)).to_dense().shape == (2, 4, 4)
        assert order.to_dense().shape == (2, 4, 4)
        assert mask.gather(torch.zeros(5).long(), torch.arange(5)).key_len == 5


def build_many(keys, ids, rank):
    length = keys.shape[1]
    documents = AttentionMask.documents(ids, causal=True) & AttentionMask.keys(keys)
    order = AttentionMask.permutation(rank) & AttentionMask.keys(keys)
    window = AttentionMask.window(length, None, 2, 1) & AttentionMask.prefix([2, 1], length)
    joined = AttentionMask.cat([documents, order, window])
    picked = joined.gather(torch.zeros_like(ids[0]), torch.arange(length))
    return joined.to_dense(), picked.to_dense()


@pytest.mark.parametrize("dynamic", [False, True])
def test_masks_are_built_inside_compiled_functions(dynamic):
    compiled = torch.compile(build_many, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (7, 8, 11):
        generator = torch.Generator().manual_seed(length)
        keys = random_keys(2, length, generator)
        ids = torch.arange(length).expand(2, -1) // 3
        rank = torch.randint(0, 9, (2, length), generator=generator)
        for actual, expected in zip(
            compiled(keys, ids, rank), build_many(keys, ids, rank), strict=True
        ):
            assert torch.equal(actual, expected)


def test_masks_are_arguments_of_compiled_functions():
    compiled = torch.compile(
        lambda mask: (mask & AttentionMask.causal(8)).to_dense(), fullgraph=True, backend="eager"
    )
    for name in ("keys", "dense", "window"):
        assert torch.equal(compiled(MASKS[name]), (MASKS[name] & MASKS["causal"]).to_dense())


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = MASKS["keys"].plot(batch=2)
    image = axes.images[0].get_array()
    assert torch.equal(torch.as_tensor(image.data) > 0, MASKS["keys"].to_dense()[2])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")
    given_axes = plt.subplots()[1]
    assert MASKS["heads"].plot(ax=given_axes) is given_axes
    plt.close("all")
