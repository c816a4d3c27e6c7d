"""The door of the Jacobian products: the checks that checks.py does not have."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.errors import DTypeError, OutputError, ShapeError
from fastxent.layout import same_memory
from fastxent.precision import Array

__all__ = ["check_axes", "check_floats", "check_grad", "check_out"]

_HALF = ("float16", "bfloat16")

# As in checks.py: how hard NumPy may search for a common element.
_OVERLAP_WORK: Any = 10_000


def check_floats(value: Any, name: str) -> Array:
    """Real floating array of at least one dimension, in half precision too."""
    if isinstance(value, np.ndarray) and value.dtype.name in _HALF:
        if value.ndim == 0:
            raise ShapeError(f"{name} is a scalar: expected an array with at least the class axis")
        return value
    return checks.check_logits(value, name)


def check_grad(value: Any, name: str, first: Array, first_name: str) -> Array:
    """Array of the shape and dtype of the first input."""
    grad = check_floats(value, name)
    if grad.shape != first.shape:
        raise ShapeError(
            f"{name} needs the shape of {first_name}, {first.shape}; it has shape {grad.shape}"
        )
    if grad.dtype.name != first.dtype.name:
        raise DTypeError(
            f"{first_name} has dtype {first.dtype.name} and {name} {grad.dtype.name}: nothing is "
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
    if isinstance(out, np.ndarray):
        for name, one in inputs.items():
            if out.dtype == dtype and not same_memory(out, one) and _overlap(out, one):
                raise OutputError(
                    f"out overlaps {name} without being the same array: pass out={name} to write "
                    "over it, or an array of its own"
                )
    same = next((one for one in inputs.values() if out is one), first)
    return checks.check_out(out, same, {}, first.shape, dtype)
