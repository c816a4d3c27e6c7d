"""The door of the binary loss: its messages for bad arguments, beside those of checks.py."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from fastxent.checks import _as_array, _shown
from fastxent.errors import DTypeError, LabelError, OptionError, ShapeError
from fastxent.precision import Array

__all__ = [
    "check_binary_logits",
    "check_binary_target",
    "check_element_factor",
    "check_element_upstream",
    "raise_bad_binary_target",
]

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_binary_logits(value: Any) -> Array:
    """Real floating array of any shape, in a dtype that can be computed with."""
    logits = _as_array(value, "logits")
    if logits.dtype.name not in _FLOATS:
        cure = "logits must be real floating-point numbers: float16, bfloat16, float32 or float64"
        if logits.dtype.kind in "iub":
            cure = "integers and booleans are not converted silently: logits.astype('float32')"
        raise DTypeError(f"logits has dtype {logits.dtype}: {cure}")
    return logits


def check_binary_target(value: Any, logits: Array) -> Array:
    """Probabilities of the 1, or integers or booleans that are 0 or 1, of the logits' shape."""
    target = _as_array(value, "target")
    if target.dtype.kind not in "iub" and target.dtype.name not in _FLOATS:
        raise DTypeError(
            f"target has dtype {target.dtype}: expected floating-point numbers (float16, bfloat16, "
            "float32 or float64), or integers or booleans that are 0 or 1"
        )
    if target.shape != logits.shape:
        raise ShapeError(
            f"target needs the logits' shape {logits.shape}, one target for each logit; it has "
            f"{_shown(target.shape)}"
        )
    return target


def raise_bad_binary_target(target: Array) -> NoReturn:
    """Name the first integer target that is neither 0 nor 1, and its place."""
    place = tuple(int(i) for i in np.argwhere((target != 0) & (target != 1))[0])
    where = f"target[{', '.join(map(str, place))}]" if place else "target"
    raise LabelError(
        f"{where} is {target[place]}: integer targets are 0 or 1; pass probabilities as "
        "floating-point numbers"
    )


def _reals(value: Any, name: str, dtype: np.dtype[Any]) -> Array:
    array = _as_array(value, name)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise DTypeError(f"{name} has dtype {array.dtype}: expected real numbers")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return array.astype(dtype, copy=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def check_element_factor(
    value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> float | Array:
    """Factor of the elements, in the compute dtype: a float, or a view of the logits' shape."""
    if value is None:
        return 1.0
    array = _reals(value, name, dtype)
    if array.size and not (array.min() >= 0 and array.max() < np.inf):
        place = tuple(int(i) for i in np.argwhere(~((array >= 0) & (array < np.inf)))[0])
        where = f"{name}[{', '.join(map(str, place))}]" if place else name
        raise OptionError(
            f"{where} is {array[place]}: weights must be finite in {dtype} and not negative"
        )
    if array.ndim == 0:
        return float(array)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ShapeError(
            f"{name} of {_shown(array.shape)} cannot be broadcast to the logits' shape {shape}"
        ) from None


def check_element_upstream(
    value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> float | Array:
    """Upstream gradient: a float, or an array of the logits' shape in the compute dtype."""
    if value is None:
        return 1.0
    if _is_number(value):
        return float(value)
    array = _reals(value, "grad_output", dtype)
    if array.ndim == 0:
        return float(array)
    if array.shape != shape:
        raise ShapeError(
            f"grad_output must be a scalar or have the logits' shape {shape}; it has "
            f"{_shown(array.shape)}"
        )
    return array
