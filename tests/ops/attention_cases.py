"""Inputs of `masked_attention` by name, and the exact and the low-precision formula for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import BucketedBias, masked_attention
from ptmkernels.ops.attention import reference
from ptmkernels.ops.attention.options import AttentionOptions
from tests.backends import device_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEAD_DIMS = (1, 25, 26, 41, 64, 75, 80, 128, 256)
HEADS = 4
KEY_HEADS = (4, 2, 1)
BIASES = ("none", "full", "heads", "keys", "scalar", "expanded", "strided", "hiding", "table")


def _bernoulli(shape, p, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < p


def _runs(batch, length, seed):
    return _bernoulli((batch, length), 0.15, seed).cumsum(1)


def _tree(batch, query_len, key_len):
    branch = torch.arange(key_len) % 7
    trunk = branch % 3 == 0
    low = torch.where(trunk, branch + 1, branch)
    high = torch.where(branch == 3, 0, torch.where(trunk, branch + 2, branch))
    whole = AttentionMask.tree(trunk, low, high)
    full = AttentionMask.full(query_len, key_len)
    return AttentionMask(
        full.key_rank,
        full.query_low,
        full.query_high,
        branches=whole.branches.expand(batch, -1, -1),
    )


def _order(batch, query_len, key_len, stream):
    length = min(query_len, key_len)
    generator = torch.Generator().manual_seed(5)
    rank = torch.randint(0, max(length, 1), (batch, length), generator=generator)
    index = torch.arange(query_len) % length if length else torch.arange(query_len)
    mask = AttentionMask.permutation(
        rank, _bernoulli((batch, length), 0.3, 6), stream, key_len - length, index
    )
    return mask


# Every mask is made for B = 2, any L and S; those of one token a row need L <= S.
MASKS = {
    "none": lambda b, n, m: None,
    "full": lambda b, n, m: AttentionMask.full(n, m),
    "keys": lambda b, n, m: AttentionMask.keys(_bernoulli((b, m), 0.6, 1), n),
    "causal": lambda b, n, m: AttentionMask.causal(n, m),
    "right_to_left": lambda b, n, m: AttentionMask.right_to_left(n, m),
    "prefix": lambda b, n, m: _last_queries(AttentionMask.prefix([m // 3, 0][:b], m), n),
    "documents": lambda b, n, m: _last_queries(AttentionMask.documents(_runs(b, m, 2)), n),
    "causal_documents": lambda b, n, m: _last_queries(
        AttentionMask.documents(_runs(b, m, 3), causal=True), n
    ),
    "window": lambda b, n, m: AttentionMask.window(n, m, 5, 3),
    "recurrence": lambda b, n, m: AttentionMask.recurrence(n, max(m - n, 0), 9),
    "content": lambda b, n, m: _order(b, n, m, "content"),
    "query": lambda b, n, m: _order(b, n, m, "query"),
    "tree": _tree,
    "dense": lambda b, n, m: AttentionMask.dense(_bernoulli((b, n, m), 0.5, 4)),
    "dense_heads": lambda b, n, m: AttentionMask.dense(_bernoulli((1, HEADS, n, m), 0.5, 5)),
    "several": lambda b, n, m: (
        (
            AttentionMask.causal(n, m)
            & AttentionMask.keys(_bernoulli((b, m), 0.7, 7))
            & AttentionMask.dense(_bernoulli((1, n, m), 0.8, 8))
        )
        if n == m
        else AttentionMask.causal(n, m) & AttentionMask.keys(_bernoulli((b, m), 0.7, 7), n)
    ),
    "nothing": lambda b, n, m: AttentionMask.keys(torch.zeros(b, m, dtype=torch.bool), n),
}


def _last_queries(mask, query_len):
    """The last L queries of a mask whose L is S."""
    start = mask.key_len - query_len
    low, high = mask.query_low[:, start:], mask.query_high[:, start:]
    return AttentionMask(mask.key_rank, low, high)


@dataclass(frozen=True)
class Case:
    """One call: names of its mask and bias, and its sizes."""

    mask: str = "none"
    bias: str = "none"
    dropout_p: float = 0.0
    key_heads: int = HEADS
    dtype: torch.dtype = torch.float32
    head_dim: int = 26
    query_len: int = 63
    key_len: int = 63
    batch: int = 2
    strided: bool = False

    def __str__(self):
        return (
            f"{self.mask}-{self.bias}-p{self.dropout_p}-{self.key_heads}of{HEADS}-"
            f"{str(self.dtype)[6:]}-D{self.head_dim}-L{self.query_len}-S{self.key_len}-"
            f"B{self.batch}{'-strided' if self.strided else ''}"
        )

    def with_(self, **changes):
        return replace(self, **changes)


@dataclass
class Inputs:
    """Tensors of a case. `leaf` gets the gradient of the bias; `as_bias` makes of it what is passed."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: AttentionMask | None
    leaf: torch.Tensor | None
    as_bias: Callable[[torch.Tensor | None], torch.Tensor | BucketedBias | None]
    dropout_p: float
    seed: torch.Tensor
    grads: tuple[torch.Tensor, torch.Tensor]

    @property
    def leaves(self) -> dict[str, torch.Tensor]:
        named = {"query": self.query, "key": self.key, "value": self.value, "bias": self.leaf}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def options(self) -> dict:
        """The keywords of the call."""
        return {"bias": self.as_bias(self.leaf), "dropout_p": self.dropout_p, "seed": self.seed}

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another dtype, as leaves of their own."""
        leaves = {n: t.detach().to(dtype).requires_grad_() for n, t in self.leaves.items()}
        return replace(self, leaf=leaves.pop("bias", None), **leaves)


def _tensors(case, generator):
    """Query, key, value: contiguous, or of strides as projections have, with a step in every one."""
    result = []
    for heads, length in (
        (HEADS, case.query_len),
        (case.key_heads, case.key_len),
        (case.key_heads, case.key_len),
    ):
        size = (case.batch, heads, length, case.head_dim)
        if case.strided:
            size = (length, case.batch, case.head_dim, heads + 1)
            drawn = torch.randn(size, generator=generator).to(case.dtype)
            result.append(drawn.permute(1, 3, 0, 2)[:, 1:])
        else:
            result.append(torch.randn(size, generator=generator).to(case.dtype))
    return result


def _bias(case, generator):
    """The leaf that gets the gradient, and how the bias that is passed comes from it."""
    b, n, m = case.batch, case.query_len, case.key_len
    shapes = {
        "full": (b, HEADS, n, m),
        "heads": (HEADS, n, m),
        "keys": (b, 1, 1, m),
        "scalar": (),
        "expanded": (1, HEADS, 1, m),
        "strided": (b, HEADS, m, n),
        "hiding": (b, 1, n, m),
        "table": (8, HEADS),
    }
    if case.bias == "none":
        return None, lambda leaf: None
    leaf = torch.randn(shapes[case.bias], generator=generator)
    if case.bias == "hiding":
        leaf = torch.where(torch.rand(leaf.shape, generator=generator) < 0.3, -torch.inf, leaf)
        leaf[:, :, n // 2] = -torch.inf
    leaf = leaf.to(torch.float32 if case.bias in ("keys", "table") else case.dtype)
    ways = {
        "table": lambda leaf: BucketedBias.t5(leaf, n, m, max_distance=20),
        "expanded": lambda leaf: leaf.expand(b, HEADS, n, m),
        "strided": lambda leaf: leaf.transpose(-1, -2),
    }
    return leaf, ways.get(case.bias, lambda leaf: leaf)


def build(case: Case, backend: str = "cpu") -> Inputs:
    """The tensors of a case, the same in every run and on every device."""
    device = device_of(backend)
    generator = torch.Generator().manual_seed(len(str(case)) + case.query_len * case.head_dim)
    query, key, value = _tensors(case, generator)
    leaf, as_bias = _bias(case, generator)
    grad = torch.randn(query.shape, generator=generator).to(case.dtype)
    grad_lse = torch.randn(query.shape[:3], generator=generator)
    mask = MASKS[case.mask](case.batch, case.query_len, case.key_len)
    seed = torch.tensor([-123456789012345678], device=device)
    grads = grad.to(device), grad_lse.to(device)
    mask = None if mask is None else mask.to(device)
    leaves = [
        None if t is None else t.to(device).detach().requires_grad_()
        for t in (query, key, value, leaf)
    ]
    return Inputs(*leaves[:3], mask, leaves[3], as_bias, case.dropout_p, seed, grads)


def kernel(inputs: Inputs, backend: str) -> dict[str, torch.Tensor]:
    """What a backend makes of a case: output, log-sum-exp and every gradient, by name."""
    output, lse = masked_attention(
        *(inputs.query, inputs.key, inputs.value, inputs.mask),
        **inputs.options,
        backend=backend,
        return_lse=True,
    )
    return results(inputs, output, lse)


def formula(inputs: Inputs, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The formula of attention run in `dtype`: each intermediate result and its gradient rounded to it.

    Returns what :func:`kernel` does, and how large the terms are of the gradients whose terms cancel: of
    dS = P (dP - sum_d dO O) + P dlse and of what is a sum of it.
    """
    wide = torch.promote_types(dtype, torch.float32)  # products in 16 bits are slow on most CPUs
    inputs = inputs.to(wide)
    bias = inputs.as_bias(inputs.leaf)
    options = AttentionOptions.of(
        inputs.query, inputs.mask, bias, None, inputs.dropout_p, inputs.seed
    )

    def rounded(tensor):
        return tensor.to(dtype).to(wide)

    scores = rounded(reference.scores(inputs.query, inputs.key, options))
    weights, lse = reference.softmax(scores)
    value = reference._for_heads(inputs.value, inputs.query)
    output = rounded(rounded(reference.dropped(rounded(weights), options)) @ value)
    named = results(inputs, output, lse, retain_graph=True)
    grad, grad_lse = (g.to(wide) for g in inputs.grads)
    product = (grad @ value.mT).abs() + (grad * output).sum(-1, keepdim=True).abs()
    terms = reference.dropped(weights, options) * product + weights * grad_lse.abs()[..., None]
    key = reference._for_heads(inputs.key, inputs.query)
    sums = {
        "grad_query": options.scale * terms @ key.abs(),
        "grad_key": options.scale * terms.mT @ inputs.query.abs(),
    }
    if inputs.leaf is not None:
        (sums["grad_bias"],) = torch.autograd.grad(scores, inputs.leaf, terms)
    sizes = {name: t.max().item() for name, t in sums.items() if t.numel()}
    return named, sizes


def results(inputs: Inputs, output, lse, retain_graph=False) -> dict[str, torch.Tensor]:
    """Output, log-sum-exp and the gradient of every leaf of a case, by name."""
    upstream = [g.to(t.dtype) for g, t in zip(inputs.grads, (output, lse), strict=True)]
    leaves = inputs.leaves
    grads = torch.autograd.grad(
        [output, lse], list(leaves.values()), upstream, retain_graph=retain_graph
    )
    named = {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {"output": output.detach(), "lse": lse.detach(), **named}
