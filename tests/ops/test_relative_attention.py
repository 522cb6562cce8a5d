"""The kernels of `relative_attention` and `two_stream_attention` against the reference in float64."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch.library import opcheck

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, attention_weights, masked_attention, relative_attention
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions
from ptmkernels.ops.attention.relative import relative_options
from tests.backends import KERNELS, normal
from tests.ops.attention_cases import DTYPES, MASKS
from tests.ops.relative_cases import TERMS, RelativeCase, build, call, widened
from tests.ops.test_attention_cpu import arch, pytestmark  # noqa: F401
from tests.ops.test_attention_runs import HARMLESS, KERNEL, Counter
from tests.tolerances import assert_close_to_reference

HEAD_DIMS = (1, 26, 41, 64, 75, 128)
TERM_SETS = [
    tuple(t for t, there in zip(TERMS, chosen, strict=True) if there)
    for chosen in itertools.product((False, True), repeat=len(TERMS))
]


def check(case: RelativeCase, backend: str = "cpu", **changed) -> None:
    """The 2x rule for output, log-sum-exp and the gradient of every tensor."""
    leaves, rest = build(case, backend)
    rest |= changed
    actual = call(leaves, rest, backend)
    low = call(leaves, rest, "reference")
    exact = call(widened(leaves, torch.float64), rest, "reference")
    for name, expected in exact.items():
        hidden = expected == -torch.inf
        assert torch.equal(actual[name] == -torch.inf, hidden), name
        assert actual[name].dtype == low[name].dtype, name
        found = [t.masked_fill(hidden, 0) for t in (actual[name], low[name], expected)]
        # What is summed over queries or keys has terms that cancel, as each row of dS sums to 0; dropout
        # makes those that stay larger.
        whole = name in ("output", "lse", "grad_query")
        terms = 2.0 * (case.batch * case.query_len) ** 0.5 / (1.0 - case.dropout_p)
        size = 1.0 if whole else terms
        assert_close_to_reference(*found, f"{case} {name}", size)


def sampled(count: int) -> list[RelativeCase]:
    """`count` cases that differ in everything."""
    masks = list(MASKS)
    lengths = ((37, 63), (63, 63), (20, 150), (129, 129), (1, 70), (7, 40), (70, 33), (16, 16))
    cases = []
    for i in range(count):
        query_len, key_len = lengths[i % len(lengths)]
        mask = masks[i % len(masks)]
        if query_len > key_len and mask not in ("none", "full", "keys", "dense", "nothing"):
            query_len = key_len
        cases.append(
            RelativeCase(
                ("xl", "xlnet", "clip")[i % 3],
                ("", "b", "bh")[i // 3 % 3],
                TERM_SETS[i * 7 % len(TERM_SETS)],
                ("", "rising", "sorted", "any")[i % 4],
                mask,
                ("none", "full", "keys", "table")[i // 2 % 4],
                (0.0, 0.3)[i // 5 % 2],
                (4, 2, 1)[i % 3],
                DTYPES[i // 2 % len(DTYPES)],
                HEAD_DIMS[i % len(HEAD_DIMS)],
                query_len,
                key_len,
                strided=i % 4 == 0,
            )
        )
    return cases


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("case", sampled(40), ids=str)
def test_against_float64(case, backend):
    check(case, backend)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("terms", TERM_SETS, ids="+".join)
@pytest.mark.parametrize("rows", ["xlnet", "clip"])
def test_every_set_of_terms(terms, rows, backend):
    check(RelativeCase(rows, terms=terms, head_dim=41, query_len=33, key_len=140), backend)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(("query_len", "key_len"), [(300, 300), (130, 400), (1, 300), (8, 300)])
@pytest.mark.parametrize("rows", ["xl", "clip"])
@pytest.mark.parametrize("position", ["", "rising"])
def test_many_tiles(position, rows, query_len, key_len, backend):
    """Bands that begin before the rows, end behind them, or lie beyond them altogether."""
    mask = "recurrence" if rows == "xl" else "none"
    sizes = {"head_dim": 64, "query_len": query_len, "key_len": key_len}
    check(RelativeCase(rows, "b", TERMS, position, mask, **sizes), backend)


@pytest.mark.parametrize("rows", ["xlnet", "clip"])
@pytest.mark.parametrize("position", ["", "rising"])
def test_hidden_tiles_in_between(position, rows):
    """A block of queries whose tiles of keys are no neighbours, so their bands have no row in common."""
    allowed = torch.ones(2, 420, dtype=torch.bool)
    allowed[:, 120:270] = False
    case = RelativeCase(rows, "b", TERMS, position, query_len=70, key_len=420)
    check(case, mask=AttentionMask.keys(allowed, 70))


@pytest.mark.parametrize("position", ["", "rising", "sorted"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(arch, dtype, dropout_p, position):  # noqa: F811
    for query_len, rows in ((67, "xlnet"), (150, "clip"), (3, "xl")):
        check(
            RelativeCase(
                rows, "b", TERMS, position, "keys", "none", dropout_p, 2, dtype, 41, query_len, 150
            )
        )


@pytest.mark.parametrize(("batch", "query_len", "key_len"), [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_empty(batch, query_len, key_len):
    leaves, rest = build(
        RelativeCase("clip", terms=TERMS, batch=batch, query_len=query_len, key_len=key_len)
    )
    for name, found in call(leaves, rest, "cpu").items():
        assert torch.equal(found, torch.full_like(found, -torch.inf if name == "lse" else 0)), name


def test_rows_beyond_what_is_visible_do_no_harm():
    """A relative key of NaN at distances that the mask hides is not read, or its product not kept."""
    length = 200
    query, key, value = (normal(1, 2, length, 64, seed=i) for i in range(3))
    rows = normal(1, 2, 2 * length, 64, seed=4)
    ids = torch.arange(length)[None] // 100
    mask = AttentionMask.documents(ids)
    clean = relative_attention(query, key, value, rows, mask=mask, backend="cpu")
    rows[:, :, : length - 99] = torch.nan
    rows[:, :, length + 100 :] = torch.nan
    assert torch.equal(relative_attention(query, key, value, rows, mask=mask, backend="cpu"), clean)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_token_by_token_equals_one_pass(dropout_p):
    """Generation with memory: query i alone, over the keys up to it, with its own row of dropout bits."""
    length, memory = 20, 5
    leaves, rest = build(RelativeCase("xl", query_len=length, key_len=length + memory))
    leaves = {name: leaf.detach() for name, leaf in leaves.items()}
    rest["mask"] = AttentionMask.recurrence(length, memory)
    whole = relative_attention(**leaves, **rest)
    for i in range(length):
        step = leaves | {
            "query": leaves["query"][:, :, i : i + 1],
            "key": leaves["key"][:, :, : memory + i + 1],
            "value": leaves["value"][:, :, : memory + i + 1],
        }
        given = rest | {
            "mask": None,
            "relative_offset": length - 1 - i,
            "query_segment": rest["query_segment"][:, i : i + 1],
            "key_segment": rest["key_segment"][:, : memory + i + 1],
        }
        torch.testing.assert_close(
            relative_attention(**step, **given), whole[:, :, i : i + 1], rtol=1e-5, atol=1e-5
        )


def test_weights_are_those_of_the_kernel():
    case = RelativeCase("xlnet", mask="keys", dropout_p=0.3)
    leaves, rest = build(case)
    output, lse = relative_attention(**leaves, **rest, backend="cpu", return_lse=True)
    given = {n: t for n, t in leaves.items() if n != "value"} | rest
    weights = attention_weights(given.pop("query"), given.pop("key"), lse, **given)
    torch.testing.assert_close(weights @ leaves["value"], output, rtol=1e-5, atol=1e-5)


def test_without_position_it_is_masked_attention():
    leaves, _ = build(RelativeCase("clip", terms=()))
    query, key, value = (leaves[name] for name in ("query", "key", "value"))
    relative = relative_attention(query, key, value, torch.zeros(1, 1, 9, 26), backend="cpu")
    torch.testing.assert_close(relative, masked_attention(query, key, value), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("terms", TERM_SETS, ids="+".join)
def test_every_combination_runs_the_kernel(terms, backend):
    options = itertools.product(
        ("xl", "xlnet", "clip"), ("", "b", "bh"), ("", "any"), ("none", "full", "table"), (0.0, 0.5)
    )
    for rows, shared, position, bias, dropout_p in options:
        for mask in ("none", "keys", "tree", "dense_heads"):
            case = RelativeCase(
                *(rows, shared, terms, position, mask, bias, dropout_p),
                key_heads=1 if dropout_p else 4,
                dtype=torch.bfloat16 if position else torch.float32,
                query_len=3,
                key_len=5,
            )
            assert counted(case, backend) == KERNEL, case


def counted(case: RelativeCase, backend: str) -> dict[str, int]:
    leaves, rest = build(case, backend)
    given = dict(leaves)
    if case.bias == "table":
        given["bias"] = BucketedBias.t5(leaves["bias"], case.query_len, case.key_len)
    grad = torch.ones_like(leaves["query"])
    with Counter() as counter:
        output = relative_attention(**given, **rest, backend=backend)
        torch.autograd.grad(output, list(leaves.values()), grad)
    return {name: count for name, count in counter.counts.items() if name not in HARMLESS}


def test_the_kernel_is_the_default(monkeypatch):
    monkeypatch.delenv("PTMKERNELS_BACKEND", raising=False)
    leaves, rest = build(RelativeCase(query_len=3, key_len=5))
    leaves = {name: leaf.detach() for name, leaf in leaves.items()}
    with Counter() as counter:
        relative_attention(**leaves, **rest)
    assert counter.counts["attention_forward"] == 1
    assert not {"bmm", "exp", "gather"} & set(counter.counts)


@pytest.mark.parametrize(
    "case", [RelativeCase(terms=TERMS, head_dim=8), RelativeCase("clip")], ids=str
)
def test_opcheck(case):
    leaves, rest = build(case.with_(query_len=5, key_len=7, dropout_p=0.2))
    tensors = [leaves.pop(name) for name in ("query", "key", "value")]
    seed, mask, offset = (rest.pop(name) for name in ("seed", "mask", "relative_offset"))
    dropout_p = rest.pop("dropout_p")
    optional = dict.fromkeys(
        (
            *TERMS[:2],
            "segment_bias",
            "segment_key",
            "query_segment",
            "key_segment",
            "query_position",
        )
    )
    relative = relative_options(*tensors[:2], offset, **(optional | leaves | rest))
    options = AttentionOptions.of(tensors[0], mask, None, None, dropout_p, seed, **relative)
    opcheck(torch.ops.ptmkernels.attention_forward.default, (*tensors, *options))
    output, lse = torch.ops.ptmkernels.attention_forward(*tensors, *options)
    detached = [t.detach() for t in (*tensors, output, lse)]
    frozen = [t.detach() if isinstance(t, torch.Tensor) else t for t in options]
    wanted = sum(1 << n for n, name in enumerate(DIFFERENTIABLE) if name in leaves)
    for asked in (wanted, 0):
        opcheck(
            torch.ops.ptmkernels.attention_backward.default,
            (torch.ones_like(detached[0]), None, *detached, *frozen, asked),
        )


def test_compile_whole_graph():
    leaves, rest = build(RelativeCase(terms=TERMS, mask="keys"))
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    actual = compiled(leaves, rest, "cpu", with_grads=False)
    expected = call(leaves, rest, "cpu", with_grads=False)
    assert torch.equal(actual["output"], expected["output"])
    torch._dynamo.reset()


def test_autocast():
    leaves, rest = build(RelativeCase(terms=TERMS))
    with torch.autocast("cpu", torch.bfloat16):
        found = call(leaves, rest, "cpu")
    alone = call(widened(leaves, torch.bfloat16), rest, "cpu")
    assert torch.equal(found["output"], alone["output"])
    assert found["output"].dtype == torch.bfloat16
    assert all(found[f"grad_{name}"].dtype == torch.float32 for name in leaves)


def test_second_derivatives_are_those_of_the_reference():
    leaves, rest = build(RelativeCase(terms=TERMS, query_len=5, key_len=7, head_dim=8))

    def second(leaves, backend):
        output = relative_attention(**leaves, **rest, backend=backend)
        given = list(leaves.values())
        grads = torch.autograd.grad(output.sin().sum(), given, create_graph=True)
        return torch.autograd.grad(sum(g.sin().sum() for g in grads), given)

    exact = second(widened(leaves, torch.float64), "reference")
    for name, one, two in zip(leaves, second(leaves, "cpu"), exact, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-3, atol=1e-3, msg=name)


PEAK = """
import sys, torch
from ptmkernels.benchmarks.memory import peak_resident_bytes
from tests.ops.relative_cases import TERMS, RelativeCase, build, call

def run(length):
    sizes = {"head_dim": 64, "query_len": length, "key_len": length}
    leaves, rest = build(RelativeCase(terms=TERMS, mask="keys", **sizes))
    return lambda: call(leaves, rest, "cpu", with_grads=sys.argv[2] == "True")

torch.set_num_threads(1)
run(8)()
print(peak_resident_bytes(run(int(sys.argv[1]))))
"""


def peak(length: int, with_grads: bool) -> int:
    """Of a process of its own: the scratch that a thread keeps counts, too."""
    command = [sys.executable, "-c", PEAK, str(length), str(with_grads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if done.stdout.strip() == "None":
        pytest.skip("the peak of memory cannot be told on this system")
    return int(done.stdout)


@pytest.mark.parametrize("with_grads", [False, True])
def test_memory_is_linear_in_the_length(with_grads):
    """Four times the length takes four times the memory; L x S in float32 would be 128 MiB here."""
    small, large = peak(512, with_grads), peak(2048, with_grads)
    assert large <= 4.6 * small + 2**20, (small, large)
