"""Attention under fake tensors, torch.compile, torch.export and opcheck."""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention, t5_buckets
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions
from tests.backends import KERNELS, device_of, normal
from tests.ops.attention_cases import MASKS, Case, build

BACKENDS = [*KERNELS, "reference"]
OPS = {"cpu": "", "cuda": "", "triton": "triton_"}


def op(backend, direction):
    return getattr(torch.ops.ptmkernels, f"{OPS[backend]}attention_{direction}").default


CASES = [
    Case(query_len=5, key_len=5, head_dim=8),
    Case("keys", "full", 0.2, 2, query_len=5, key_len=7, head_dim=8),
    Case("tree", "table", 0.2, 1, query_len=5, key_len=7, head_dim=8, strided=True),
    Case("dense_heads", "keys", query_len=5, key_len=7, head_dim=8, dtype=torch.bfloat16),
    Case("nothing", "expanded", query_len=5, key_len=7, head_dim=8, dtype=torch.float16),
]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck(case, backend):
    inputs = build(case, backend)
    bias = inputs.options["bias"]
    options = AttentionOptions.of(
        inputs.query, inputs.mask, bias, None, inputs.dropout_p, inputs.seed
    )
    tensors = (inputs.query, inputs.key, inputs.value)
    torch.library.opcheck(op(backend, "forward"), (*tensors, *options))
    output, lse = op(backend, "forward")(*tensors, *options)
    detached = [t.detach() for t in (*tensors, output, lse)]
    frozen = [t.detach() if isinstance(t, torch.Tensor) else t for t in options]
    grad, grad_lse = inputs.grads
    wanted = 0 if bias is None else 1 << DIFFERENTIABLE.index("bias")
    if isinstance(bias, BucketedBias):
        wanted = 1 << DIFFERENTIABLE.index("bias_table")
    for given, asked in ((grad_lse, wanted), (None, 0)):
        torch.library.opcheck(op(backend, "backward"), (grad, given, *detached, *frozen, asked))


def attend(query, key, value, keys, table, dropout_p, backend):
    length = query.shape[2]
    mask = AttentionMask.causal(length, key.shape[2]) & AttentionMask.keys(keys, length)
    bias = BucketedBias.t5(table, length, key.shape[2])
    output = masked_attention(
        query, key, value, mask, bias=bias, dropout_p=dropout_p, backend=backend
    )
    return output.sin()


def arguments(length, backend="cpu"):
    tensors = [normal(2, 2, length, 8, backend=backend, seed=i).requires_grad_() for i in range(3)]
    table = normal(8, 2, backend=backend, seed=4).requires_grad_()
    keys = torch.ones(2, length, dtype=torch.bool, device=device_of(backend))
    keys[1, length // 2 :] = False
    return [*tensors, keys, table]


def values_and_gradients(function, inputs, *rest):
    torch.manual_seed(6)
    output = function(*inputs, *rest)
    leaves = [t for t in inputs if t.requires_grad]
    return [output.detach(), *torch.autograd.grad(output.sum(), leaves)]


@pytest.fixture(autouse=True)
def _forget_compiled_functions():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("backend", "lengths", "dropout_p"),
    [*((b, (5, 6, 9), 0.3) for b in KERNELS), (None, (5,), 0.0), ("reference", (5,), 0.0)],
)
def test_compile_whole_graph(backend, lengths, dropout_p):
    compiled = torch.compile(attend, fullgraph=True, dynamic=len(lengths) > 1, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in lengths:
            inputs = arguments(length, backend or "cpu")
            actual = values_and_gradients(compiled, inputs, dropout_p, backend)
            expected = values_and_gradients(attend, inputs, dropout_p, backend)
            for one, two in zip(actual, expected, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", KERNELS)
def test_compile_with_inductor(backend):
    """Its generator is another one: with a seed given, the bits are the same."""

    def function(query, key, value, seed):
        return masked_attention(
            query * 2, key, value, dropout_p=0.3, seed=seed, scale=0.7, backend=backend
        ).sin()

    inputs = arguments(7, backend)[:3]
    seed = torch.tensor([3], device=inputs[0].device)
    actual = values_and_gradients(torch.compile(function, fullgraph=True), inputs, seed)
    expected = values_and_gradients(function, inputs, seed)
    for one, two in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_scale_that_changes_compiles():
    compiled = torch.compile(
        lambda t, scale: masked_attention(t, t, t, scale=scale), fullgraph=True, backend="aot_eager"
    )
    tensor = torch.randn(1, 2, 5, 8)
    for scale in (0.1, 0.2, 0.3, 1):
        expected = masked_attention(tensor, tensor, tensor, scale=scale)
        torch.testing.assert_close(compiled(tensor, scale), expected, rtol=1e-5, atol=1e-6)


def test_masks_as_arguments_of_a_compiled_function():
    compiled = torch.compile(
        lambda t, mask: masked_attention(t, t, t, mask), fullgraph=True, backend="aot_eager"
    )
    tensor = torch.randn(2, 4, 9, 8)
    for name in ("causal", "keys", "tree", "dense_heads"):
        mask = MASKS[name](2, 9, 9)
        expected = masked_attention(tensor, tensor, tensor, mask)
        torch.testing.assert_close(compiled(tensor, mask), expected, rtol=1e-5, atol=1e-6)


class WithTensorsOfItsOwn(torch.nn.Module):
    """Parameters and buffers have plain sizes where those of the inputs are traced."""

    def __init__(self, bias, allowed):
        super().__init__()
        self.bias = torch.nn.Parameter(bias)
        self.register_buffer("allowed", allowed)

    def forward(self, tensor):
        return masked_attention(
            tensor, tensor, tensor, AttentionMask.dense(self.allowed), bias=self.bias
        )


@pytest.mark.parametrize("bias", [(2, 7, 7), (3, 1, 1, 7)], ids=str)
def test_tensors_of_a_module_beside_traced_sizes(bias):
    module = WithTensorsOfItsOwn(torch.randn(bias), torch.rand(3, 2, 7, 7) < 0.7)
    tensor = torch.randn(3, 2, 7, 8)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tensor), module(tensor), rtol=1e-5, atol=1e-6)


def test_errors_inside_a_compiled_function_are_the_same():
    compiled = torch.compile(
        lambda t: masked_attention(t, t, t[:, :, :3, :4]), fullgraph=True, backend="eager"
    )
    with pytest.raises(Exception, match="value has shape"):
        compiled(torch.randn(1, 2, 5, 8))


class Attention(torch.nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.table = torch.nn.Parameter(normal(8, 2, backend=backend, seed=4))
        self.backend = backend

    def forward(self, query, key, value, keys):
        return attend(query, key, value, keys, self.table, 0.0, self.backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_shapes(strict, backend):
    module = Attention(backend)
    length, batch = torch.export.Dim("length", min=2, max=64), torch.export.Dim("batch", max=16)
    shapes = {n: {0: batch, 2: length} for n in ("query", "key", "value")}
    exported = torch.export.export(
        module,
        tuple(arguments(5, backend)[:4]),
        dynamic_shapes={**shapes, "keys": {0: batch, 1: length}},
        strict=strict,
    )
    names = {str(node.target) for node in exported.graph.nodes}
    ours = f"ptmkernels.{OPS.get(backend)}attention_forward.default"
    assert (ours in names) == (backend != "reference")
    inputs = [t.detach() for t in arguments(11, backend)[:4]]
    torch.testing.assert_close(exported.module()(*inputs), module(*inputs), rtol=1e-5, atol=1e-6)


class UnderAMask(torch.nn.Module):
    def forward(self, tensor, mask):
        return masked_attention(tensor, tensor, tensor, mask)


def test_a_mask_as_an_input_of_an_exported_program():
    length = torch.export.Dim("length", min=2, max=64)
    exported = torch.export.export(
        UnderAMask(),
        (torch.randn(2, 2, 5, 8), AttentionMask.causal(5)),
        dynamic_shapes={"tensor": {2: length}, "mask": [{1: length}] * 3 + [None] * 2},
    )
    inputs = torch.randn(2, 2, 9, 8), AttentionMask.causal(9)
    expected = UnderAMask()(*inputs)
    torch.testing.assert_close(exported.module()(*inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", [*BACKENDS, None])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_fake_tensors(dropout_p, backend):
    with torch._subclasses.FakeTensorMode():
        inputs = arguments(7, "cpu" if backend is None else backend)
        output = attend(*inputs, dropout_p, backend)
        assert output.shape == (2, 2, 7, 8)
        output.sum().backward()
        assert inputs[0].grad.shape == inputs[0].shape
        assert inputs[4].grad.shape == inputs[4].shape


def test_meta_tensors():
    query = torch.randn(2, 4, 9, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    mask = AttentionMask.causal(9, device="meta")
    output, lse = masked_attention(query, query, query, mask, dropout_p=0.1, return_lse=True)
    assert (output.shape, output.dtype, output.device.type) == (query.shape, query.dtype, "meta")
    assert (lse.shape, lse.dtype) == (query.shape[:3], torch.float32)
    output.sum().backward()
    assert query.grad.shape == query.shape
    with pytest.raises(RuntimeError, match="cpu: it serves tensors on the CPU"):
        masked_attention(query, query, query, backend="cpu")


def test_t5_buckets_compile():
    compiled = torch.compile(t5_buckets, fullgraph=True, backend="aot_eager")
    distance = torch.arange(-300, 300)
    assert torch.equal(compiled(distance), t5_buckets(distance))
