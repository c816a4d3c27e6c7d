"""Targets and factors of the binary loss, one an element."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from fastxent.checks.reading import as_array, shown
from fastxent.errors import DTypeError, LabelError, OptionError, ShapeError
from fastxent.precision import Array, kind_of, readable

__all__ = [
    "check_binary_target",
    "check_element_factor",
    "check_element_upstream",
    "raise_bad_binary_target",
]


def check_binary_target(value: Any, logits: Array, storage: str | None = None) -> Array:
    """Probabilities of the 1, or integers or booleans that are 0 or 1, of the logits' shape."""
    target = as_array(value, "target")
    if target.dtype.kind not in "iu" and kind_of(target.dtype, storage) is None:
        raise DTypeError(
            f"target has dtype {target.dtype}: expected float16, bfloat16, float32 or float64 "
            "(probabilities), or integers or booleans that are 0 or 1"
        )
    if target.shape != logits.shape:
        raise ShapeError(
            f"target needs {shown(logits.shape)}, that of the logits: one target for each; it has "
            f"{shown(target.shape)}"
        )
    return target


def raise_bad_binary_target(target: Array) -> NoReturn:
    """Name the first integer target that is neither 0 nor 1, and its place."""
    place = tuple(int(i) for i in np.argwhere((target != 0) & (target != 1))[0])
    raise LabelError(
        f"{_at('target', place)} is {target[place]}: integer targets are 0 or 1; pass "
        "probabilities as floating-point numbers"
    )


def _at(name: str, place: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, place))}]" if place else name


def _reals(value: Any, name: str, dtype: np.dtype[Any]) -> Array:
    array = as_array(value, name)
    if array.dtype.kind not in "iu" and kind_of(array.dtype) is None:
        raise DTypeError(f"{name} has dtype {array.dtype}: expected real numbers")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return readable(array).astype(dtype, copy=False)


def check_element_factor(
    value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> float | Array:
    """Factor of each element's loss: a float, or a view of the logits' shape, in this dtype."""
    if value is None:
        return 1.0
    array = _reals(value, name, dtype)
    # NaN goes through both: two passes without a temporary array
    if array.size and not (array.min() >= 0 and array.max() < np.inf):
        place = tuple(int(i) for i in np.argwhere(~((array >= 0) & (array < np.inf)))[0])
        given = readable(as_array(value, name))[place]
        raise OptionError(
            f"{_at(name, place)} is {given}: weights must be finite in {dtype} and not negative"
        )
    if array.size == 1:
        return float(array.item())
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ShapeError(
            f"{name} of {shown(array.shape)} cannot be broadcast to the logits' {shown(shape)}"
        ) from None


def check_element_upstream(
    value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> float | Array:
    """Upstream gradient: a float, or an array of the logits' shape in this dtype."""
    if value is None:
        return 1.0
    array = _reals(value, "grad_output", dtype)
    if array.ndim == 0:
        return float(array)
    if array.shape != shape:
        raise ShapeError(
            f"grad_output must be a scalar or have {shown(shape)}, that of the logits; it has "
            f"{shown(array.shape)}"
        )
    return array
