"""Every combination of options runs our kernel: counted, not believed."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ptmkernels.ops import masked_attention
from tests.backends import KERNELS, normal
from tests.ops.attention_cases import (
    DTYPES,
    HEAD_DIMS,
    HEADS,
    MASKS,
    Case,
    Inputs,
    build,
)

# What may run beside the kernel: views, copies to a unit stride or another dtype, and the gradients of
# those. None of it computes attention.
HARMLESS = {
    "_to_copy", "_unsafe_view", "alias", "clone", "copy_", "detach", "empty", "empty_like", "expand",
    "new_empty", "permute", "select", "slice", "slice_backward", "squeeze", "sum", "transpose",
    "unsqueeze", "view", "aminmax", "_local_scalar_dense",  # the last two: the bounds of an argument
}  # fmt: skip
KINDS_OF_BIAS = ("none", "full", "keys", "table")  # the others are strides of these
KERNEL = {"attention_forward": 1, "attention_backward": 1}


class Counter(TorchDispatchMode):
    """Counts the operators that run, by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def counted(inputs: Inputs, backend: str) -> dict[str, int]:
    """What ran, but for what is harmless."""
    options, leaves = inputs.options, list(inputs.leaves.values())
    with Counter() as counter:
        output = masked_attention(
            inputs.query, inputs.key, inputs.value, inputs.mask, **options, backend=backend
        )
        torch.autograd.grad(output, leaves, inputs.grads[0])
    return {name: count for name, count in counter.counts.items() if name not in HARMLESS}


@pytest.mark.parametrize("backend", KERNELS)
def test_without_a_gradient_the_same_kernel_runs(backend):
    inputs = build(Case("keys", "table", 0.2), backend)
    arguments = (inputs.query, inputs.key, inputs.value, inputs.mask)
    expected = masked_attention(*arguments, **inputs.options, backend=backend)
    with torch.no_grad(), Counter() as counter:
        output = masked_attention(*arguments, **inputs.options, backend=backend)
    assert counter.counts["attention_forward"] == 1
    assert torch.equal(output, expected)
    assert not output.requires_grad


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_combination_runs_the_kernel(head_dim, backend):
    for dtype, key_heads in itertools.product(DTYPES, (HEADS, 1)):
        case = Case(
            dtype=dtype, key_heads=key_heads, head_dim=head_dim, query_len=3, key_len=5, batch=2
        )
        plain = build(case, backend)
        masks = {name: build(case.with_(mask=name), backend).mask for name in MASKS}
        biases = {name: build(case.with_(bias=name), backend) for name in KINDS_OF_BIAS}
        for mask, bias, dropout_p in itertools.product(MASKS, KINDS_OF_BIAS, (0.0, 0.5)):
            inputs = replace(
                plain,
                mask=masks[mask],
                leaf=biases[bias].leaf,
                as_bias=biases[bias].as_bias,
                dropout_p=dropout_p,
            )
            assert counted(inputs, backend) == KERNEL, (case, mask, bias, dropout_p)


@pytest.mark.parametrize("backend", KERNELS)
def test_strided_and_odd_sizes_run_the_kernel(backend):
    for query_len, key_len, batch in ((63, 63, 2), (1, 130, 1), (5, 0, 2), (0, 5, 2), (5, 5, 0)):
        case = Case(query_len=query_len, key_len=key_len, batch=batch, strided=True)
        assert counted(build(case, backend), backend) == KERNEL, case


@pytest.mark.parametrize("backend", KERNELS)
def test_the_kernel_is_the_default(backend, monkeypatch):
    monkeypatch.delenv("PTMKERNELS_BACKEND", raising=False)
    query = normal(1, 2, 5, 8, backend=backend)
    with Counter() as counter:
        masked_attention(query, query, query)
    assert counter.counts == {"attention_forward": 1}


def test_the_counter_sees_the_reference():
    with Counter() as counter:
        query = torch.ones(1, 1, 2, 4)
        masked_attention(query, query, query, backend="reference")
    assert {"bmm", "exp"} <= set(counter.counts)
