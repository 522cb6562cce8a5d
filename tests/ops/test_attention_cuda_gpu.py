"""What only a GPU can show of the CUDA attention kernels: streams, graphs, devices, the sanitizer."""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import masked_attention
from tests.backends import KERNELS
from tests.ops import test_relative_attention
from tests.ops.attention_cases import Case
from tests.ops.relative_cases import TERMS, RelativeCase
from tests.ops.test_masked_attention import check, three

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in KERNELS, reason="needs a GPU and the CUDA library"),
]
HALF = {"dtype": torch.bfloat16, "batch": 1}
# Few and small: compute-sanitizer makes a kernel some hundred times slower.
SANITIZED = [
    Case("causal", "table", 0.1, 2, head_dim=64, query_len=70, key_len=70, **HALF),
    Case("keys", "full", 0.1, 2, head_dim=41, query_len=35, key_len=70, **HALF),
    Case("tree", "keys", head_dim=128, query_len=35, key_len=35, **HALF),
    Case("window", head_dim=256, query_len=35, key_len=35, **HALF),
    Case("dense", "hiding", head_dim=26, query_len=35, key_len=70, batch=1),
    Case("keys", "table", 0.1, query_len=1, key_len=300, head_dim=64, **HALF),
]
RELATIVE = {"terms": TERMS, "head_dim": 64, "query_len": 70, "key_len": 70, **HALF}
SANITIZED_RELATIVE = [
    RelativeCase("xlnet", "b", position="any", bias="table", dropout_p=0.1, **RELATIVE),
    RelativeCase("clip", "bh", mask="causal", bias="full", key_heads=2, **RELATIVE),
    RelativeCase("xl", "", **RELATIVE | {"head_dim": 200, "query_len": 20, "key_len": 35}),
    RelativeCase("xl", "", **RELATIVE | {"dtype": torch.float32, "query_len": 1}),
]


@pytest.mark.parametrize("case", SANITIZED, ids=str)
def test_sanitizer(case):
    check(case, "cuda")


@pytest.mark.parametrize("case", SANITIZED_RELATIVE, ids=str)
def test_sanitizer_relative(case):
    test_relative_attention.check(case, "cuda")


def attend(tensors):
    mask = AttentionMask.causal(tensors[0].shape[2], device="cuda")
    return masked_attention(*tensors, mask, backend="cuda")


def test_the_current_stream_is_used():
    tensors = three("cuda", 1, 2, 512, 64, dtype=torch.bfloat16)
    expected = attend(tensors)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late = [t + 0 for t in tensors]
        output = attend(late)
    assert not stream.query()
    stream.synchronize()
    assert torch.equal(output, expected)


def test_graph_capture():
    tensors = three("cuda", 2, 2, 70, 64, dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.ones_like(tensors[0])

    def step():
        output = attend(tensors)
        return [output, *torch.autograd.grad(output, tensors, upstream)]

    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for tensor in tensors:
            tensor.mul_(0.5)
    graph.replay()
    for one, two in zip(captured, step(), strict=True):
        assert torch.equal(one, two)


def test_float32_follows_the_precision_of_matrix_products():
    tensors = three("cuda", 1, 2, 65, 64)
    matmul = torch.backends.cuda.matmul
    before, outputs = matmul.fp32_precision, []
    try:
        for precision in ("ieee", "tf32"):
            matmul.fp32_precision = precision
            outputs.append(masked_attention(*tensors, backend="cuda"))
    finally:
        matmul.fp32_precision = before
    assert 1e-6 < (outputs[0] - outputs[1]).abs().max() < 1e-2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_tensors_is_used():
    tensors = [t.to("cuda:1") for t in three("cuda", 1, 2, 70, 64)]
    output = masked_attention(*tensors, backend="cuda")
    assert output.device == torch.device("cuda:1")
    expected = masked_attention(*tensors, backend="reference")
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
