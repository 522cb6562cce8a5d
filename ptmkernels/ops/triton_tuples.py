"""A fault of Triton 3.6, mended: constants in tuples within tuples are lost behind a kernel's first loop.

An argument of value 1 is compiled in as a constant. In a tuple of tuples the outer one keeps a type in which
that constant is still None, and what a loop leaves of the outer one is rebuilt from its type. Triton 3.7 is
right.
"""

from __future__ import annotations

import triton
from triton import language
from triton.compiler import code_generator

RIGHT = (3, 7)  # the first release without the fault


def mend() -> None:
    """Give the tuples among a function's arguments the types of their values."""
    if tuple(map(int, triton.__version__.split(".")[:2])) >= RIGHT:
        return
    deserialize = code_generator.ASTFunction.deserialize

    def with_types_of_values(self, function):
        values = deserialize(self, function)
        _renew_type(values)
        return values

    code_generator.ASTFunction.deserialize = with_types_of_values


def _renew_type(value) -> None:
    if isinstance(value, language.tuple):
        for each in value.values:
            _renew_type(each)
        value.type = language.tuple_type([v.type for v in value.values], value.type.fields)
