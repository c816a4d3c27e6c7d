"""Reading what the caller gave as an array or a number; the words that the messages share."""

from __future__ import annotations

import operator
from typing import Any, cast

import numpy as np

from fastxent.device_array import DeviceArray
from fastxent.errors import DTypeError
from fastxent.interchange import library_of
from fastxent.precision import Array, kind_of, readable

__all__ = ["as_array", "integer", "number", "reals", "shown"]


def as_array(value: Any, name: str) -> Array:
    """Plain NumPy array of what was given, without a copy where it lies in the CPU's memory."""
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return value.view(np.ndarray) if type(value) is not np.ndarray else value
    if isinstance(value, DeviceArray):
        # it has what the checks and fastxent.layout ask of an array
        return cast("Array", value)
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is a masked array and its mask would be lost: drop rows with ignore_index, "
            f"drop classes with logits of -inf, and pass {name}.data"
        )
    try:
        library = library_of(value)
        if library is not None:
            reason = library.why_not(value, name)
            if reason is None:
                return library.read(value)
        elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        else:
            return np.asarray(value)
    except (ValueError, TypeError, BufferError, OverflowError, RuntimeError) as error:
        raise DTypeError(f"{name} cannot be read as an array: {error}") from error
    raise DTypeError(f"{name} cannot be read as an array: {reason}")


def shown(shape: tuple[int, ...]) -> str:
    """A shape, as messages name it."""
    return "a scalar" if shape == () else f"shape {shape}"


def integer(value: Any, name: str) -> int:
    """One integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise DTypeError(f"{name} must be an integer, got {value!r}") from None


def _is_real(array: Array) -> bool:
    return array.dtype.kind in "fiub" or kind_of(array.dtype) is not None


def number(value: Any, name: str) -> float:
    """One real number."""
    if isinstance(value, float):
        return value
    array = as_array(value, name)
    if array.shape != () or not _is_real(array):
        raise DTypeError(f"{name} must be one real number, got {value!r}")
    return float(readable(array))


def reals(value: Any, name: str) -> Array:
    """Real numbers of any dtype as float64, contiguous and aligned."""
    array = as_array(value, name)
    if not _is_real(array):
        raise DTypeError(f"{name} has dtype {array.dtype}: expected real numbers")
    return np.require(readable(array), np.float64, ["C_CONTIGUOUS", "ALIGNED"])
