"""The Triton backend of attention under Triton's interpreter, and on a GPU where there is one."""

import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention
from ptmkernels.ops.attention import reference
from ptmkernels.ops.attention.options import AttentionOptions
from ptmkernels.ops.philox import dropout_keep
from tests.tolerances import assert_close_to_reference

DEVICES = [pytest.param("cpu", marks=pytest.mark.interpreted, id="interpreted")]
if torch.cuda.is_available():
    DEVICES.append("cuda")
everywhere = pytest.mark.parametrize("device", DEVICES)


@dataclass(frozen=True)
class Case:
    """One call. Masks and biases are named, so that a case travels between processes."""

    mask: str = "none"
    bias: str = "none"
    batch: int = 2
    heads: int = 1
    key_heads: int = 1
    query_len: int = 35
    key_len: int = 51
    head_dim: int = 26
    dtype: torch.dtype = torch.float32
    dropout_p: float = 0.0
    scale: float = 0.25
    with_lse: bool = True
    layout: str = field(default="heads first")

    def __str__(self) -> str:
        return ", ".join(
            f"{name}={value}"
            for name, value in vars(self).items()
            if value != Case.__dataclass_fields__[name].default
        )


def _random(shape, p: float) -> torch.Tensor:
    return torch.rand(shape) < p


def build_mask(case: Case) -> AttentionMask | None:
    b, h, n, s = case.batch, case.heads, case.query_len, case.key_len
    return {
        "none": lambda: None,
        "causal": lambda: AttentionMask.causal(n, s),
        "window": lambda: AttentionMask.window(n, s, 9, 4),
        "recurrence": lambda: AttentionMask.recurrence(n, s - n, 20),
        "keys": lambda: AttentionMask.keys(_random((b, s), 0.5), n),
        "left padding": lambda: AttentionMask.keys(torch.arange(s) >= torch.tensor([[33], [40]]), n)
        & AttentionMask.causal(n, s),
        "nothing": lambda: AttentionMask.keys(torch.zeros(b, s, dtype=torch.bool), n),
        "prefix": lambda: AttentionMask.prefix([20, 3], n),
        "documents": lambda: AttentionMask.documents(torch.arange(n)[None] // 13),
        "causal documents": lambda: AttentionMask.documents(torch.arange(n)[None] // 13, True),
        "query stream": lambda: AttentionMask.permutation(
            torch.randint(0, 30, (b, n)), _random((b, n), 0.5), "query", memory_len=s - n
        ),
        "tree": lambda: tree(b, n, s),
        "dense": lambda: AttentionMask.dense(_random((b, n, s), 0.5)),
        "dense heads": lambda: AttentionMask.dense(_random((1, h, n, s), 0.3))
        & AttentionMask.causal(n, s),
    }[case.mask]()


def tree(batch: int, query_len: int, key_len: int) -> AttentionMask:
    """Some on the trunk, some touch no branch; the queries are the last tokens."""
    rows = [_random((batch, key_len), 0.5), *(torch.randint(0, 6, (2, batch, key_len)))]
    branches = torch.stack([row.int() for row in rows], 1)
    full = AttentionMask.full(query_len, key_len)
    return AttentionMask(full.key_rank, full.query_low, full.query_high, branches=branches)


def build_bias(case: Case) -> torch.Tensor | None:
    """The tensor that receives the gradient."""
    b, h, n, s = case.batch, case.heads, case.query_len, case.key_len
    shape = {
        "none": None,
        "own": (b, h, n, s),
        "shared by rows": (1, h, n, s),
        "shared by heads": (b, 1, n, s),
        "shared by all": (n, s),
        "of keys": (b, 1, 1, s),
        "of queries": (h, n, 1),
        "transposed": (h, s, n),
        "hiding": (b, 1, n, s),
        "table": (8, h),
    }[case.bias]
    if shape is None:
        return None
    bias = torch.randn(shape)
    return bias.masked_fill(_random(shape, 0.4), -torch.inf) if case.bias == "hiding" else bias


def build(case: Case) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {"query": (case.heads, case.query_len)}
    sizes |= dict.fromkeys(("key", "value"), (case.key_heads, case.key_len))
    leaves = {}
    for name, (heads, length) in sizes.items():
        if case.layout == "heads last":
            drawn = torch.randn(case.batch, length, heads, case.head_dim).transpose(1, 2)
        else:
            drawn = torch.randn(case.batch, heads, length, case.head_dim)
        leaves[name] = drawn.to(case.dtype)
    bias = build_bias(case)
    if bias is not None:
        leaves["bias"] = bias
    return leaves


def as_argument(case: Case, leaf: torch.Tensor | None):
    if case.bias == "table":
        return BucketedBias.t5(leaf, case.query_len, case.key_len, max_distance=20)
    return leaf.mT if case.bias == "transposed" else leaf


def upstream(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    rows = (case.batch, case.heads, case.query_len)
    return torch.randn(*rows, case.head_dim), torch.randn(rows)


def gradients(outputs, leaves, upstream, with_lse: bool) -> dict[str, torch.Tensor]:
    """Output, log-sum-exp and every gradient, by name."""
    output, lse = outputs
    pairs = [(output, upstream[0].to(output))] + [(lse, upstream[1].to(lse))] * with_lse
    grads = torch.autograd.grad(
        [o for o, _ in pairs], list(leaves.values()), [g for _, g in pairs], allow_unused=True
    )
    named = {
        f"grad of {name}": torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }
    return {"output": output.detach(), "lse": lse.detach(), **named}


SEED = torch.tensor([-8872345610987654321])


def of_kernel(case: Case, device: str) -> dict[str, torch.Tensor]:
    leaves = {n: t.to(device).requires_grad_() for n, t in build(case).items()}
    mask = build_mask(case)
    outputs = masked_attention(
        *(leaves[n] for n in ("query", "key", "value")),
        mask if mask is None else mask.to(device),
        bias=as_argument(case, leaves.get("bias")),
        scale=case.scale,
        dropout_p=case.dropout_p,
        seed=SEED.to(device),
        backend="triton",
        return_lse=True,
    )
    return {
        n: t.cpu() for n, t in gradients(outputs, leaves, upstream(case), case.with_lse).items()
    }


def of_formula(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The formula run in `dtype` from end to end."""
    leaves = {n: t.to(dtype).requires_grad_() for n, t in build(case).items()}
    options = AttentionOptions.of(
        build_mask(case), _four_dim(as_argument(case, leaves.get("bias"))), case.scale,
        case.dropout_p, SEED,
    )  # fmt: skip
    weights, lse = reference.softmax(reference.scores(leaves["query"], leaves["key"], options))
    value = leaves["value"].repeat_interleave(case.heads // case.key_heads, dim=1)
    output = reference.dropped(weights, options) @ value
    return gradients((output, lse), leaves, upstream(case), case.with_lse)


def _four_dim(bias):
    return bias[(None,) * (4 - bias.dim())] if isinstance(bias, torch.Tensor) else bias


def check(case: Case, device: str) -> None:
    actual = of_kernel(case, device)
    exact, low = of_formula(case, torch.float64), of_formula(case, case.dtype)
    low["lse"] = of_formula(case, torch.float32)["lse"]  # float32 whatever the dtype
    hidden = exact["lse"] == -torch.inf
    assert torch.equal(actual["lse"] == -torch.inf, hidden), str(case)
    assert (actual["output"][hidden] == 0).all(), str(case)
    for named in (actual, exact, low):
        named["lse"] = named["lse"].masked_fill(hidden, 0.0)
    for name, value in actual.items():
        assert value.shape == exact[name].shape, f"{case}: {name}"
        assert value.isfinite().all(), f"{case}: {name}"
        assert_close_to_reference(value, low[name], exact[name], f"{case}: {name}")


SQUARE = {"query_len": 35, "key_len": 35}
HEADS = {"batch": 1, "heads": 4, "key_heads": 2}
CASES = [
    Case(heads=2, key_heads=2),
    Case("causal"),
    Case("causal", query_len=51, key_len=35),
    Case("window", with_lse=False),
    Case("recurrence", dtype=torch.bfloat16),
    Case("keys", dtype=torch.float16, head_dim=41),
    Case("left padding", layout="heads last", heads=2),
    Case("nothing", query_len=17),
    Case("prefix", **SQUARE),
    Case("documents", **SQUARE, **HEADS),
    Case("causal documents", **SQUARE),
    Case("query stream"),
    Case("tree", **SQUARE),
    Case("dense", scale=-0.3),
    Case("dense heads", **HEADS),
    Case("keys", scale=0.0, query_len=17),
    Case(head_dim=1, query_len=32, key_len=64),
    Case(head_dim=75, dtype=torch.bfloat16, query_len=17),
    Case("causal", "own"),
    Case("causal", "shared by rows", heads=2),
    Case("documents", "shared by heads", **SQUARE, heads=2, key_heads=2),
    Case("none", "shared by all", query_len=17),
    Case("keys", "of keys", **HEADS),
    Case("none", "of queries", query_len=20),
    Case("none", "of queries", query_len=20, with_lse=False),
    Case("none", "transposed", dtype=torch.bfloat16, query_len=17),
    Case("none", "hiding", dropout_p=0.1, query_len=17),
    Case("causal", "table"),
    Case("none", "table", query_len=51, key_len=20, dtype=torch.bfloat16),
    Case("causal", dropout_p=0.4, heads=2, batch=1),
    Case("query stream", "table", dropout_p=0.5, query_len=17, key_len=35),
    Case("none", query_len=1, key_len=200),
    Case("keys", "own", query_len=1, key_len=150, dropout_p=0.2, **HEADS),
    Case("causal", "table", query_len=7, key_len=130, dtype=torch.bfloat16),
    Case("nothing", query_len=1),
    Case("tree", query_len=3, key_len=70),
    Case("window", query_len=1, key_len=200, head_dim=64),
]


@everywhere
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case, device):
    check(case, device)


@everywhere
@pytest.mark.parametrize(
    ("batch", "query_len", "key_len"), [(0, 5, 5), (2, 0, 5), (2, 5, 0), (1, 0, 0)]
)
def test_empty(batch, query_len, key_len, device):
    query = torch.randn(batch, 2, query_len, 8, device=device, requires_grad=True)
    key, value = (
        torch.randn(batch, 2, key_len, 8, device=device, requires_grad=True) for _ in range(2)
    )
    dense = torch.randn(2, query_len, key_len, device=device, requires_grad=True)
    table = torch.randn(8, 2, device=device, requires_grad=True)
    buckets = torch.zeros(max(query_len + key_len - 1, 0), dtype=torch.int32, device=device)
    for bias, given in ((dense, dense), (table, BucketedBias(table, buckets))):
        output, lse = masked_attention(
            query, key, value, bias=given, backend="triton", return_lse=True
        )
        assert output.shape == query.shape
        assert (output == 0).all()
        assert (lse == -torch.inf).all()
        leaves = [query, key, value, bias]
        for grad, leaf in zip(torch.autograd.grad(output.sum(), leaves), leaves, strict=True):
            assert grad.shape == leaf.shape
            assert (grad == 0).all()


@everywhere
@pytest.mark.parametrize("query_len", [1, 35])
def test_dropout_keeps_what_philox_says(query_len, device):
    """With equal weights and one-hot values the output shows each kept weight."""
    key_len = 47
    query = torch.zeros(2, 3, query_len, key_len, device=device)
    value = torch.eye(key_len, device=device).expand(2, 3, -1, -1)
    seed = SEED.to(device)
    output = masked_attention(
        query, value, value, dropout_p=0.3, seed=seed, scale=1.0, backend="triton"
    )
    keep = dropout_keep(SEED, 0.3, 2, 3, query_len, key_len)
    assert torch.equal(output.cpu() != 0, keep)
    torch.testing.assert_close(output.cpu(), keep / (key_len * 0.7), rtol=1e-5, atol=0)


@everywhere
def test_offsets_beyond_32_bits(device):
    """Batch rows 2**31 elements apart, in memory that is reserved but for the most part never touched."""
    small = torch.randn(3, 2, 2, 20, 16, dtype=torch.bfloat16, device=device)
    far = torch.empty(3 * 2**31 + 4096, dtype=torch.bfloat16, device=device)
    wide = far.as_strided((3, 2, 2, 20, 16), (2**31, 2**30 + 8, 320, 16, 1)).copy_(small)
    expected = masked_attention(*small, backend="triton")
    assert torch.equal(masked_attention(*wide, backend="triton"), expected)
    rows = small[0, :, :, :, None].transpose(2, 3)
    spread = far.as_strided((2, 2, 1, 20, 16), (320, 640, 16, 2**28, 1)).copy_(rows)[:, :, 0]
    output = masked_attention(spread, small[1], small[2], backend="triton")
    assert torch.equal(output, expected)


@everywhere
def test_a_score_sees_each_option_once_in_torch_compile(device):
    mask = AttentionMask.causal(20).to(device)
    table = torch.randn(8, 2, device=device, requires_grad=True)
    inputs = [torch.randn(2, 2, 20, 16, device=device, requires_grad=True) for _ in range(3)]

    def call(query, key, value, table):
        bias = BucketedBias.t5(table, 20)
        return masked_attention(query, key, value, mask, bias=bias, backend="triton").sin().sum()

    leaves = [*inputs, table]
    expected = torch.autograd.grad(call(*leaves), leaves)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for actual, wanted in zip(
        torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True
    ):
        torch.testing.assert_close(actual, wanted)


@everywhere
def test_registration(device):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 9, 16, device=device) for _ in range(3))
    mask = AttentionMask.causal(9).to(device)
    bias = torch.randn(1, 2, 9, 9, device=device, requires_grad=True)
    options = AttentionOptions.of(mask, bias, 0.25, 0.0, None).astuple()
    inputs = [t.requires_grad_() for t in (query, key, value)]
    op = torch.ops.ptmkernels.triton_attention_forward
    torch.library.opcheck(op, (*inputs, *options))
    output, lse = op(*inputs, *options)
    backward = torch.ops.ptmkernels.triton_attention_backward
    detached = [t.detach() for t in (output, *inputs, output, lse)]
    arguments = (detached[0], None, *detached[1:], *options[:5], bias.detach(), *options[6:])
    torch.library.opcheck(
        backward, (*arguments, True, False), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.interpreted
@pytest.mark.parametrize("of_keys", [False, True], ids=["queries", "keys"])
@pytest.mark.parametrize(
    "mask", ["causal", "window", "keys", "left padding", "nothing", "prefix", "documents"]
)
def test_tiles_to_visit(mask, of_keys):
    """Every visible pair lies in a visited tile, every pair of a full tile is visible."""
    from ptmkernels.ops.attention.triton_config import Tile
    from ptmkernels.ops.attention.triton_launch import _Call

    case = Case(mask, query_len=67, key_len=67)
    built = build_mask(case)
    dense = built.to_dense()
    query = torch.zeros(case.batch, 1, 67, 1)
    call = _Call.of(query, query, query, AttentionOptions.of(built, None, 1.0, 0.0, None))
    ranges, _ = call.ranges(Tile(8, 4, 1, 1), of_keys)
    block, other, visible = (4, 8, dense.mT) if of_keys else (8, 4, dense)
    for b, tile in torch.cartesian_prod(*(torch.arange(n) for n in ranges.shape[:2])).tolist():
        first, full_first, full_last, last = ranges[b, tile].tolist()
        rows = visible[b, tile * block : (tile + 1) * block]
        assert first <= full_first <= full_last <= last
        assert not rows[:, : first * other].any()
        assert not rows[:, last * other :].any()
        assert rows[:, full_first * other : full_last * other].all()
        assert full_first == full_last or full_last * other <= 67
        if first < last:  # the bounds of the run are reached
            assert rows[:, first * other : (first + 1) * other].any()
            assert rows[:, (last - 1) * other : last * other].any()


@pytest.mark.interpreted
def test_a_positional_mask_visits_only_its_area():
    """Tiles visited under packed documents of 16 in 128 tokens: those of the documents, no more."""
    from ptmkernels.ops.attention.triton_config import Tile
    from ptmkernels.ops.attention.triton_launch import _Call

    query = torch.zeros(1, 1, 128, 1)
    for mask, visited, full in (
        (AttentionMask.documents(torch.arange(128) // 16), 8 * 4, 8 * 4),
        (AttentionMask.causal(128), 136, 120),
        (AttentionMask.full(128), 256, 256),
    ):
        call = _Call.of(query, query, query, AttentionOptions.of(mask, None, 1.0, 0.0, None))
        ranges, _ = call.ranges(Tile(8, 8, 1, 1))
        first, full_first, full_last, last = ranges[0].unbind(-1)
        assert (last - first).sum() == visited
        assert (full_last - full_first).sum() == full


@everywhere
def test_backward_gives_the_same_bits_again(device):
    case = Case("causal", "table", batch=1)
    first, second = of_kernel(case, device), of_kernel(case, device)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_refused_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    tensor = torch.zeros(1, 1, 2, 4)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        masked_attention(tensor, tensor, tensor, backend="triton")


@everywhere
def test_float64_is_refused(device):
    tensor = torch.zeros(1, 1, 2, 4, dtype=torch.float64, device=device)
    with pytest.raises(RuntimeError, match="float64"):
        masked_attention(tensor, tensor, tensor, backend="triton")


def test_importing_the_package_does_not_import_triton():
    code = "import sys, ptmkernels.ops; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
