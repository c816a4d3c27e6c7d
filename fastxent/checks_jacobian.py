"""The door of the Jacobian products: the checks that checks.py does not have."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.errors import DTypeError, OutputError, ShapeError
from fastxent.layout import same_memory
from fastxent.precision import Array

__all__ = ["check_axes", "check_floats", "check_grad", "check_out", "kind_of"]

_KINDS = ("float16", "bfloat16", "float32", "float64")

# As in checks.py: how hard NumPy may search for a common element.
_OVERLAP_WORK: Any = 10_000


@functools.cache  # NumPy makes a dtype's name anew each time, in 2 us
def kind_of(dtype: np.dtype[Any]) -> str | None:
    """Name of a dtype that can be computed with, in any byte order; None for another."""
    return dtype.name if dtype.name in _KINDS else None


def check_floats(value: Any, name: str) -> Array:
    """Real floating array of at least one dimension, in half precision too."""
    if type(value) is np.ndarray and value.ndim and kind_of(value.dtype) is not None:
        return value
    return checks.check_logits(value, name)


def check_grad(value: Any, name: str, first: Array, first_name: str) -> Array:
    """Array of the shape and dtype of the first input."""
    grad = check_floats(value, name)
    if grad.shape != first.shape:
        raise ShapeError(
            f"{name} needs the shape of {first_name}, {first.shape}; it has shape {grad.shape}"
        )
    kind, other = kind_of(first.dtype), kind_of(grad.dtype)
    if kind != other:
        raise DTypeError(
            f"{first_name} has dtype {kind} and {name} {other}: nothing is "
            f"converted silently; pass {name}.astype({first_name}.dtype)"
        )
    return grad


def check_axes(axis: Any, first: Array, name: str) -> tuple[int, ...]:
    """Class axes counted from the front, with at least one class along them; None is all."""
    if axis is None:
        given: Any = tuple(range(first.ndim))
    else:
        given = axis if isinstance(axis, tuple) else (axis,)
    try:
        numbers = [operator.index(one) for one in given]
    except TypeError:
        raise DTypeError(f"axis must be an integer, a tuple of them or None, got {axis!r}") from None
    if not numbers:
        raise ShapeError("axis is an empty tuple: name at least one class axis")
    axes = tuple(checks.check_axis(number, first, name) for number in numbers)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"axis {axis!r} names an axis twice")
    return axes


def _overlap(first: Array, second: Array) -> bool:
    try:
        return bool(np.shares_memory(first, second, max_work=_OVERLAP_WORK))
    except np.exceptions.TooHardError:
        return True


def check_out(out: Any, inputs: dict[str, Array], dtype: np.dtype[Any]) -> Array | None:
    """Array that can be written to: one of the inputs exactly, or apart from all of them."""
    if out is None:
        return None
    first, *_ = inputs.values()
    if isinstance(out, np.ndarray) and out.shape == first.shape and out.dtype == dtype:
        for name, one in inputs.items():
            if out is not one and not _overlap(out, one):
                continue
            if not same_memory(out, one):
                raise OutputError(
                    f"out overlaps {name} without being the same array: pass out={name} to write "
                    "over it, or an array of its own"
                )
            first = one
    return checks.check_out(out, first, {}, first.shape, dtype)
