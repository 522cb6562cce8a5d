"""Calls of `relative_attention`: the terms and options that the tests combine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ptmkernels.ops import BucketedBias, relative_attention
from tests.backends import device_of
from tests.ops.attention_cases import HEADS, MASKS

TERMS = ("content_bias", "position_bias", "segment", "relative_value")


@dataclass(frozen=True)
class RelativeCase:
    """One call.

    Args:
        rows: "xl" (R = S), "xlnet" (R = L + S) or "clip" (R = 2 * 4 + 1).
        shared: the relative keys and values have one batch row and "b" or "bh": also one head.
        terms: those of ``TERMS`` that are there.
        position: "" (row i), "rising" by at most one from row to row, "sorted" or "any".
    """

    rows: str = "xlnet"
    shared: str = "b"
    terms: tuple[str, ...] = TERMS[:3]
    position: str = ""
    mask: str = "none"
    bias: str = "none"
    dropout_p: float = 0.0
    key_heads: int = HEADS
    dtype: torch.dtype = torch.float32
    head_dim: int = 26
    query_len: int = 37
    key_len: int = 63
    batch: int = 2
    strided: bool = False
    heads: int = HEADS

    def __str__(self):
        return "-".join(
            str(getattr(self, name)).replace("torch.", "") for name in self.__dataclass_fields__
        )

    def with_(self, **changes):
        return replace(self, **changes)


def build(case: RelativeCase, backend: str = "cpu") -> tuple[dict, dict]:
    """The leaves, by name, and the other arguments; the same in every run and on every device."""
    device = device_of(backend)
    generator = torch.Generator().manual_seed(case.query_len * case.head_dim + case.key_len)

    def normal(*shape):
        if case.strided:  # a step in the last dimension
            wide = torch.randn((*shape[:-1], 2 * shape[-1]), generator=generator)
            return wide[..., ::2].to(device, case.dtype)
        return torch.randn(shape, generator=generator).to(device, case.dtype)

    b, n, m, d = case.batch, case.query_len, case.key_len, case.head_dim
    rows, offset = {"xl": (m, n - 1), "xlnet": (n + m, n), "clip": (9, 4)}[case.rows]
    table = (1 if case.shared else b, 1 if case.shared == "bh" else case.heads, max(rows, 1), d)
    leaves = {
        "query": normal(b, case.heads, n, d),
        "key": normal(b, case.key_heads, m, d),
        "value": normal(b, case.key_heads, m, d),
        "relative_key": normal(*table),
    }
    leaves |= {name: normal(case.heads, d) for name in TERMS[:2] if name in case.terms}
    if "relative_value" in case.terms:
        leaves["relative_value"] = normal(*table)
    rest = {"relative_offset": offset, "dropout_p": case.dropout_p}
    if "segment" in case.terms:
        leaves |= {"segment_bias": normal(case.heads, d), "segment_key": normal(2, case.heads, d)}
        rest["query_segment"] = (torch.arange(n)[None] // 5 % 3).to(device)
        rest["key_segment"] = (torch.arange(m)[None] // torch.tensor([[7], [11]])[:b] % 3).to(
            device
        )
    if case.position:
        rest["query_position"] = positions(case.position, b, n, generator).to(device)
    if case.bias == "table":
        leaves["bias"] = normal(8, case.heads)
    elif case.bias != "none":
        leaves["bias"] = normal(*{"full": (b, case.heads, n, m), "keys": (b, 1, 1, m)}[case.bias])
    rest["mask"] = MASKS[case.mask](b, n, m)
    if rest["mask"] is not None:
        rest["mask"] = rest["mask"].to(device)
    rest["seed"] = torch.tensor([-987654321987654321], device=device)
    return {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}, rest


def positions(kind: str, batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """(B, L) positions of a kind that `RelativeCase` names."""
    if kind == "rising":
        return (torch.rand(batch, length, generator=generator) < 0.8).long().cumsum(1)
    found = torch.randint(0, max(length, 1) * 3, (batch, length), generator=generator)
    return found.sort().values if kind == "sorted" else found


def call(leaves: dict, rest: dict, backend: str | None, with_grads: bool = True) -> dict:
    """Output, log-sum-exp and every gradient, by name."""
    given = dict(leaves)
    if "bias" in given and given["bias"].dim() == 2:
        lengths = given["query"].shape[2], given["key"].shape[2]
        given["bias"] = BucketedBias.t5(given["bias"], *lengths, max_distance=20)
    output, lse = relative_attention(**given, **rest, backend=backend, return_lse=True)
    found = {"output": output.detach(), "lse": lse.detach()}
    if with_grads:
        generator = torch.Generator().manual_seed(11)
        upstream = [
            torch.randn(t.shape, generator=generator).to(t.device, t.dtype) for t in (output, lse)
        ]
        grads = torch.autograd.grad([output, lse], list(leaves.values()), upstream)
        found |= {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return found


def widened(leaves: dict, dtype: torch.dtype) -> dict:
    return {name: leaf.detach().to(dtype).requires_grad_() for name, leaf in leaves.items()}
