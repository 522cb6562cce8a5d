"""The checks of the relative and two-stream arguments."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import SymInt, Tensor

from ptmkernels._mask_tensors import readable
from ptmkernels._shapes import broadcasts, has_shape
from ptmkernels.ops.attention.validation import check_dense

INTEGERS = ("query_segment", "key_segment", "query_position")
_SEGMENT = ("segment_key", "query_segment", "key_segment")


def check_relative(
    query: Tensor, key: Tensor, relative_offset: int | None, named: dict[str, Tensor | None]
) -> None:
    """Raises ValueError or TypeError, naming the argument, for what a relative attention cannot take."""
    batch, heads, query_len, head_dim = query.shape
    for name, tensor in named.items():
        if tensor is not None:
            check_like(name, tensor, query)
    for name in ("relative_key", "relative_value"):
        if named.get(name) is not None:
            check_rows(name, named[name], query)
    relative_key, relative_value = named["relative_key"], named.get("relative_value")
    if relative_value is not None and relative_value.shape[2] != relative_key.shape[2]:
        raise ValueError(
            f"relative_value has {relative_value.shape[2]} rows; expected those of relative_key, "
            f"{relative_key.shape[2]}"
        )
    expected = {
        "content_bias": [(heads, head_dim)],
        "position_bias": [(heads, head_dim)],
        "segment_bias": [(heads, head_dim)],
        "segment_key": [(2, heads, head_dim)],
        "query_segment": [(1, query_len), (batch, query_len)],
        "key_segment": [(1, key.shape[2]), (batch, key.shape[2])],
        "query_position": [(1, query_len), (batch, query_len)],
    }
    for name, shapes in expected.items():
        if named[name] is not None:
            check_shape(name, named[name], shapes)
    if len({named[name] is None for name in _SEGMENT}) > 1:
        missing = next(name for name in _SEGMENT if named[name] is None)
        raise ValueError(f"{missing} is None; the segment term needs {', '.join(_SEGMENT)}")
    _check_partners(named)
    if relative_offset is not None:
        _check_offset(relative_offset)
    elif named["query_position"] is not None:
        raise ValueError("relative_offset is None; it must be given together with query_position")


def _check_partners(named: dict[str, Tensor | None]) -> None:
    """What adds nothing alone is a mistake, not a term."""
    for name, partner in (
        ("position_bias", "relative_key"),
        ("query_position", "relative_key"),
        ("segment_bias", "segment_key"),
    ):
        if named[name] is not None and named[partner] is None:
            raise ValueError(f"{partner} is None; {name} alone adds nothing")


def _check_offset(relative_offset: int) -> None:
    if isinstance(relative_offset, bool) or not isinstance(relative_offset, Integral | SymInt):
        raise TypeError(
            f"relative_offset is a {type(relative_offset).__name__}; expected an integer"
        )


def check_like(name: str, tensor: Tensor, query: Tensor, query_name: str = "query") -> None:
    """Raises where `tensor` has another kind, dtype or device than an argument `name` beside `query` has."""
    check_dense(name, tensor)
    if name in INTEGERS:
        _check_integers(name, tensor)
    elif tensor.dtype != query.dtype:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}; expected that of {query_name}, {query.dtype}"
        )
    if tensor.device != query.device:
        raise ValueError(
            f"{name} is on {tensor.device}; expected the device of {query_name}, {query.device}"
        )


def _check_integers(name: str, tensor: Tensor) -> None:
    """Integers that fit into int32, as the kernels take them (looked at on the CPU)."""
    if tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected integers")
    if tensor.dtype != torch.int64 or not (readable(tensor) and tensor.numel()):
        return
    bounds = torch.iinfo(torch.int32)
    for value in map(int, tensor.aminmax()):
        if not bounds.min <= value <= bounds.max:
            raise ValueError(f"{name} holds {value}, which does not fit into int32")


def check_rows(name: str, tensor: Tensor, query: Tensor) -> None:
    batch, heads, _, head_dim = query.shape
    fits = (
        tensor.dim() == 4
        and broadcasts(tensor.shape[0], batch)
        and broadcasts(tensor.shape[1], heads)
        and tensor.shape[2] > 0
        and tensor.shape[3] == head_dim
    )
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected (1 or {batch}, 1 or {heads}, R, {head_dim})"
        )


def check_shape(name: str, tensor: Tensor, shapes: list[tuple]) -> None:
    if not has_shape(tensor, *shapes):
        forms = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {forms}")
