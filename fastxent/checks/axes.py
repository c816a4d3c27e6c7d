"""Which axes hold the classes."""

from __future__ import annotations

import operator
from typing import Any

from fastxent.checks.reading import shown
from fastxent.errors import DTypeError, ShapeError
from fastxent.precision import Array

__all__ = ["check_axes", "check_axis"]


def _counted(axis: Any, array: Array, name: str, expected: str) -> int:
    try:
        index = operator.index(axis)
    except TypeError:
        raise DTypeError(f"axis must be {expected}, got {axis!r}") from None
    if not -array.ndim <= index < array.ndim:
        raise ShapeError(
            f"axis {index} is out of range for {name} of {array.ndim} dimension(s), "
            f"{shown(array.shape)}"
        )
    return index % array.ndim


def check_axis(axis: Any, logits: Array, name: str = "logits", may_be_empty: bool = False) -> int:
    """Class axis counted from the front, with at least one class along it or `may_be_empty`."""
    index = _counted(axis, logits, name, "one integer")
    if logits.shape[index] == 0 and not may_be_empty:
        raise ShapeError(f"{name} of {shown(logits.shape)} have no class along axis {index}")
    return index


def check_axes(axis: Any, array: Array, may_be_empty: bool, name: str = "x") -> tuple[int, ...]:
    """Axes counted from the front, each once, of one integer, a tuple of them, or None for all."""
    if axis is None:
        axes = tuple(range(array.ndim))
    else:
        given = axis if isinstance(axis, tuple) else (axis,)
        expected = "an integer, a tuple of integers, or None for all axes"
        axes = tuple(_counted(one, array, name, expected) for one in given)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"axis {axis!r} names an axis of {name}, {shown(array.shape)}, twice")
    empty = [at for at in axes if array.shape[at] == 0]
    if empty and not may_be_empty:
        raise ShapeError(f"{name} of {shown(array.shape)} have no class along axis {empty[0]}")
    return axes
