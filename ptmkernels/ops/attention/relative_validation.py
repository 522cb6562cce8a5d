"""The checks of the relative and two-stream arguments."""

from __future__ import annotations

from numbers import Integral

from torch import SymInt, Tensor

_INTEGER = ("query_segment", "key_segment", "query_position")
_SEGMENT = ("segment_key", "query_segment", "key_segment")


def check_relative(
    query: Tensor, key: Tensor, relative_offset: int | None, named: dict[str, Tensor | None]
) -> None:
    """Raises ValueError or TypeError, naming the argument, for what a relative attention cannot take."""
    batch, heads, query_len, head_dim = query.shape
    for name, tensor in named.items():
        if tensor is not None:
            _check_tensor(name, tensor, query)
    for name in ("relative_key", "relative_value"):
        if named.get(name) is not None:
            _check_rows(name, named[name], (batch, heads, head_dim))
    relative_key, relative_value = named["relative_key"], named.get("relative_value")
    if relative_value is not None and relative_value.shape[2] != relative_key.shape[2]:
        raise ValueError(
            f"relative_value has {relative_value.shape[2]} rows; expected those of relative_key, "
            f"{relative_key.shape[2]}"
        )
    _check_shapes(
        named,
        {
            "content_bias": [(heads, head_dim)],
            "position_bias": [(heads, head_dim)],
            "segment_bias": [(heads, head_dim)],
            "segment_key": [(2, heads, head_dim)],
            "query_segment": [(1, query_len), (batch, query_len)],
            "key_segment": [(1, key.shape[2]), (batch, key.shape[2])],
            "query_position": [(1, query_len), (batch, query_len)],
        },
    )
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


def _check_tensor(name: str, tensor: Tensor, query: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a tensor")
    if name in _INTEGER:
        if tensor.is_floating_point() or tensor.is_complex():
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected integers")
    elif tensor.dtype != query.dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected that of query, {query.dtype}")
    if tensor.device != query.device:
        raise ValueError(
            f"{name} is on {tensor.device}; expected the device of query, {query.device}"
        )


def _check_rows(name: str, tensor: Tensor, sizes: tuple[int, int, int]) -> None:
    batch, heads, head_dim = sizes
    fits = (
        tensor.dim() == 4
        and tensor.shape[0] in (1, batch)
        and tensor.shape[1] in (1, heads)
        and tensor.shape[2] > 0
        and tensor.shape[3] == head_dim
    )
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected (1 or {batch}, 1 or {heads}, R, {head_dim})"
        )


def _check_shapes(named: dict[str, Tensor | None], expected: dict[str, list[tuple]]) -> None:
    for name, shapes in expected.items():
        tensor = named[name]
        if tensor is not None and tuple(tensor.shape) not in shapes:
            forms = " or ".join(map(str, dict.fromkeys(shapes)))
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {forms}")
