"""AttentionMask against brute-force definitions of every mask of docs/architecture.md's table."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmkernels import AttentionMask
from ptmkernels._mask_tensors import LOWEST, PADDED
from tests.masks.cases import assert_mask, brute, random_keys

LENGTHS = [(1, 1), (1, 9), (5, 5), (4, 9), (9, 4), (0, 3), (3, 0), (0, 0)]


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


def test_permutation_has_no_other_positions():
    with pytest.raises(ValueError, match="query_index holds 0 to 3; expected 0 to 2"):
        AttentionMask.permutation(torch.arange(3), query_index=torch.tensor([[0, 3]]))


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
