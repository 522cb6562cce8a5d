"""The Triton backend of attention, interpreted on the CPU, or run on a GPU where there is one."""

import subprocess
import sys
from unittest.mock import patch

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention
from ptmkernels.ops.attention.options import AttentionOptions
from ptmkernels.ops.philox import dropout_keep
from tests.ops.attention_cases import Case, build, kernel
from tests.ops.test_masked_attention import check

# The other tests of masked attention run on a GPU with every backend; these are few and small, since the
# interpreter takes some 50 ms for each tile.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [] if DEVICE == "cuda" else pytest.mark.interpreted
SEED = torch.tensor([-8872345610987654321])


def case(mask="none", bias="none", dropout_p=0.0, key_heads=4, **sizes) -> Case:
    return Case(mask, bias, dropout_p, key_heads, **{"batch": 1, **sizes})


ODD = {"query_len": 19, "key_len": 35}
SQUARE = {"query_len": 35, "key_len": 35}
HALF = {"dtype": torch.bfloat16}
CASES = [
    case(**ODD, batch=2),
    case(query_len=32, key_len=32, head_dim=64, **HALF),
    case("causal", **SQUARE),
    case("causal", query_len=35, key_len=19),
    case("right_to_left", **ODD, **HALF),
    case("keys", **ODD, dtype=torch.float16, head_dim=41, batch=2),
    case("prefix", **ODD, batch=2, strided=True),
    case("documents", **SQUARE, key_heads=2),
    case("causal_documents", **SQUARE, key_heads=1),
    case("window", **SQUARE, **HALF, head_dim=75),
    case("recurrence", **ODD),
    case("content", **ODD, batch=2),
    case("query", **ODD, **HALF),
    case("tree", **ODD, key_heads=2),
    case("dense", **ODD),
    case("dense_heads", **ODD),
    case("several", query_len=35, key_len=35),
    case("nothing", query_len=17, key_len=19),
    case("causal", "full", **ODD),
    case("causal", "heads", **ODD, batch=2, key_heads=2),
    case("keys", "keys", **ODD, batch=2, key_heads=2),
    case("none", "scalar", query_len=17, key_len=19),
    case("none", "expanded", query_len=17, key_len=19),
    case("none", "strided", query_len=17, key_len=19, **HALF),
    case("none", "hiding", 0.1, query_len=17, key_len=19),
    case("causal", "table", **ODD),
    case("none", "table", query_len=35, key_len=19, **HALF),
    case("causal", dropout_p=0.4, query_len=17, key_len=35),
    case("dense", "table", 0.5, query_len=17, key_len=19),
    case(query_len=1, key_len=130),
    case("keys", "full", 0.2, 2, query_len=1, key_len=130),
    case("causal", "table", query_len=5, key_len=70),
    case("window", query_len=1, key_len=130, head_dim=64, key_heads=1),
    case("nothing", query_len=1, key_len=70),
    case("tree", query_len=3, key_len=70),
]


def deterministic_kernel(inputs, backend: str) -> dict[str, torch.Tensor]:
    """`kernel` where torch is asked for deterministic algorithms."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        return kernel(inputs, backend)
    finally:
        torch.use_deterministic_algorithms(before)


FORMS = {"fused": kernel, "deterministic": deterministic_kernel}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case, form):
    check(case, "triton", FORMS[form])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("fused", ["_forward", "_row_terms", "_backward_key"]),
        ("deterministic", ["_forward", "_backward_query", "_backward_key"]),
    ],
)
def test_the_form_of_the_backward_pass(form, expected):
    """One kernel computes every score once, or a pair without atomic additions does it twice."""
    from ptmkernels.ops.attention import triton_backward_launch, triton_call

    ran = []

    def counted(launch):
        def run(kernel, *arguments, **options):
            ran.append(kernel.__name__)
            launch(kernel, *arguments, **options)

        return run

    with (
        patch.object(triton_call, "launch", counted(triton_call.launch)),
        patch.object(triton_backward_launch, "launch", counted(triton_backward_launch.launch)),
    ):
        FORMS[form](build(case(query_len=17, key_len=19), "triton"), "triton")
    assert ran == expected


@pytest.mark.parametrize(
    ("batch", "query_len", "key_len"), [(0, 5, 5), (2, 0, 5), (2, 5, 0), (1, 0, 0)]
)
def test_empty(batch, query_len, key_len):
    sizes = {"batch": batch, "query_len": query_len, "key_len": key_len}
    check(case("none", "full", 0.1, **sizes), "triton")
    check(case("keys", "table", **sizes), "triton")


@pytest.mark.parametrize("scale", [1.0, 0.0, -0.3])
def test_scale(scale):
    query, key, value = (torch.randn(1, 2, 5, 9, device=DEVICE) for _ in range(3))
    query.requires_grad_()
    expected = (query @ key.mT * scale).tril().masked_fill(
        torch.ones(5, 5, device=DEVICE).triu(1).bool(), -torch.inf
    ).softmax(-1) @ value
    mask = AttentionMask.causal(5, device=DEVICE)
    output = masked_attention(query, key, value, mask, scale=scale, backend="triton")
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(o.sin().sum(), query)[0] for o in (output, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("query_len", [1, 35])
def test_dropout_keeps_what_philox_says(query_len):
    """With equal weights and one-hot values the output shows each kept weight."""
    key_len = 47
    query = torch.zeros(2, 3, query_len, key_len, device=DEVICE)
    value = torch.eye(key_len, device=DEVICE).expand(2, 3, -1, -1)
    seed = SEED.to(DEVICE)
    output = masked_attention(
        query, value, value, dropout_p=0.3, seed=seed, scale=1.0, backend="triton"
    )
    keep = dropout_keep(SEED, 0.3, 2, 3, query_len, key_len)
    assert torch.equal(output.cpu() != 0, keep)
    torch.testing.assert_close(output.cpu(), keep / (key_len * 0.7), rtol=1e-5, atol=0)


def test_offsets_beyond_32_bits():
    """Batch rows 2**31 elements apart, in memory that is reserved but for the most part never touched."""
    small = torch.randn(3, 2, 2, 20, 16, dtype=torch.bfloat16, device=DEVICE)
    far = torch.empty(3 * 2**31 + 4096, dtype=torch.bfloat16, device=DEVICE)
    wide = far.as_strided((3, 2, 2, 20, 16), (2**31, 2**30 + 8, 320, 16, 1)).copy_(small)
    expected = masked_attention(*small, backend="triton")
    assert torch.equal(masked_attention(*wide, backend="triton"), expected)
    rows = far.as_strided((2, 2, 20, 16), (320, 640, 2**28, 1)).copy_(small[0])
    assert torch.equal(masked_attention(rows, *small[1:], backend="triton"), expected)


def test_torch_compile():
    mask = AttentionMask.causal(20, device=DEVICE)
    table = torch.randn(8, 2, device=DEVICE, requires_grad=True)
    inputs = [torch.randn(2, 2, 20, 16, device=DEVICE, requires_grad=True) for _ in range(3)]

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


def test_registration():
    inputs = [torch.randn(1, 2, 9, 16, device=DEVICE, requires_grad=True) for _ in range(3)]
    mask = AttentionMask.causal(9, device=DEVICE)
    bias = torch.randn(1, 2, 9, 9, device=DEVICE, requires_grad=True)
    options = AttentionOptions.of(inputs[0], mask, bias, 0.25, 0.0, None)
    torch.library.opcheck(torch.ops.ptmkernels.triton_attention_forward, (*inputs, *options))
    output, lse = torch.ops.ptmkernels.triton_attention_forward(*inputs, *options)
    arguments = [t.detach() for t in (output, *inputs, output, lse)]
    options = [o.detach() if isinstance(o, torch.Tensor) else o for o in options]
    torch.library.opcheck(
        torch.ops.ptmkernels.triton_attention_backward,
        (arguments[0], None, *arguments[1:], *options, 1),
        test_utils=("test_schema", "test_faketensor"),
    )


MASKS = {
    "causal": lambda n: AttentionMask.causal(n),
    "window": lambda n: AttentionMask.window(n, n, 9, 4),
    "keys": lambda n: AttentionMask.keys(torch.arange(n)[None] % 3 > 0),
    "left padding": lambda n: AttentionMask.keys(
        torch.arange(n)[None] >= torch.tensor([[33], [9]])
    ),
    "nothing": lambda n: AttentionMask.keys(torch.zeros(1, n, dtype=torch.bool)),
    "prefix": lambda n: AttentionMask.prefix([20, 3], n),
    "documents": lambda n: AttentionMask.documents(torch.arange(n) // 13),
}


@pytest.mark.parametrize("of_keys", [False, True], ids=["queries", "keys"])
@pytest.mark.parametrize("name", MASKS)
def test_tiles_to_visit(name, of_keys):
    """Every visible pair lies in a visited tile, every pair of a full tile is visible."""
    mask = MASKS[name](67)
    block, other = (4, 8) if of_keys else (8, 4)
    visible = mask.to_dense().mT if of_keys else mask.to_dense()
    ranges = tiles_to_visit(mask, 8, 4, of_keys)
    for b, tile in torch.cartesian_prod(*(torch.arange(n) for n in ranges.shape[:2])).tolist():
        first, full_first, full_last, last = ranges[b, tile].tolist()
        rows = visible[b, tile * block : (tile + 1) * block]
        assert first <= full_first <= full_last <= last
        assert not rows[:, : first * other].any()
        assert not rows[:, last * other :].any()
        assert rows[:, full_first * other : full_last * other].all()
        assert full_first == full_last or full_last * other <= 67


@pytest.mark.parametrize(
    ("mask", "visited", "full"),
    [
        (AttentionMask.documents(torch.arange(128) // 16), 8 * 4, 8 * 4),
        (AttentionMask.causal(128), 136, 120),
        (AttentionMask.window(128, 128, 15, 0), 16 * 3 - 3, 15),
        (AttentionMask.full(128), 256, 256),
    ],
    ids=["documents", "causal", "window", "full"],
)
def test_positional_masks_visit_only_their_area(mask, visited, full):
    """Tiles of 8 x 8 over 128 tokens; of 256 only those are visited that hold a visible pair."""
    first, full_first, full_last, last = tiles_to_visit(mask, 8, 8)[0].unbind(-1)
    assert (last - first).sum() == visited
    assert (full_last - full_first).sum() == full


def tiles_to_visit(mask, m, n, of_keys=False) -> torch.Tensor:
    from ptmkernels.ops.attention.triton_call import prepare
    from ptmkernels.ops.triton_tune import Tile

    query = torch.zeros(mask.batch_size, 1, mask.query_len, 1, device=DEVICE)
    key = torch.zeros(mask.batch_size, 1, mask.key_len, 1, device=DEVICE)
    options = AttentionOptions.of(query, mask.to(DEVICE), None, 1.0, 0.0, None)
    return prepare(query, key, key, options).ranges(Tile(m, n), of_keys)[0].cpu()


def test_a_launch_runs_with_any_tile():
    """The tuner times one launch with several."""
    from ptmkernels.ops.attention import triton_launch
    from ptmkernels.ops.attention.triton_call import prepare
    from ptmkernels.ops.triton_tune import Tile

    query = torch.randn(1, 2, 37, 16, device=DEVICE)
    mask = AttentionMask.causal(37, device=DEVICE)
    call = prepare(query, query, query, AttentionOptions.of(query, mask, None, None, 0.0, None))
    output, lse = torch.empty_like(query), torch.empty(query.shape[:3], device=DEVICE)
    launch = triton_launch._forward(call, output, lse)
    expected = masked_attention(query, query, query, mask, backend="reference")
    for tile in (Tile(16, 32), Tile(32, 16), Tile(32, 32)):
        output.fill_(torch.nan)
        launch.run(tile)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_the_same_bits_again():
    inputs = build(case("causal", "table", **ODD), "triton")
    first, second = (deterministic_kernel(inputs, "triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_float64_is_refused():
    tensor = torch.zeros(1, 1, 2, 4, dtype=torch.float64, device=DEVICE)
    with pytest.raises(RuntimeError, match="float64"):
        masked_attention(tensor, tensor, tensor, backend="triton")


def test_the_package_is_imported_where_there_is_no_triton():
    code = "import sys; sys.modules['triton'] = None; import ptmkernels.ops"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
