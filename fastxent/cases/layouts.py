"""How arrays lie in memory: the same numbers (but for the broadcast ones) in other places.

What lies between the numbers is NaN, or True, so that a kernel that reads it shows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PADDING = 3
FRAME = 64  # elements before and behind: a whole vector of any dtype


def _in_wide(array: Array, wide_shape: tuple[int, ...], part: tuple[slice, ...]) -> Array:
    wide = np.empty(wide_shape, array.dtype)
    wide.fill(np.iinfo(array.dtype).max if array.dtype.kind in "iu" else np.nan)
    every: tuple[Any, ...] = (*part, ...)  # with an ellipsis even no dimensions give a view
    view: Array = wide[every]
    view[...] = array
    return view


def _reversed(array: Array, axes: list[int]) -> Array:
    back = tuple(
        slice(None, None, -1) if axis in axes else slice(None) for axis in range(array.ndim)
    )
    return array[back].copy()[back]


def _rows(array: Array, class_axis: int | None) -> list[int]:
    return [axis for axis in range(array.ndim) if axis != class_axis]


def framed(array: Array) -> Array:
    """The same array within a larger one: what is written before or behind it shows."""
    size = (array.size + 2 * FRAME) * array.itemsize
    memory = np.full(size, 0xA5, np.uint8).view(array.dtype)
    view = memory[FRAME : FRAME + array.size].reshape(array.shape)
    view[...] = array
    return view


def fortran(array: Array, class_axis: int | None) -> Array:
    """The first index next to each other."""
    return np.asarray(array, order="F")  # np.asfortranarray makes a scalar an array of one


def reversed_rows(array: Array, class_axis: int | None) -> Array:
    """Negative strides from row to row."""
    return _reversed(array, _rows(array, class_axis))


def reversed_classes(array: Array, class_axis: int | None) -> Array:
    """A negative stride from class to class."""
    return array if class_axis is None else _reversed(array, [class_axis])


def stepped(array: Array, class_axis: int | None) -> Array:
    """Every other place along every axis."""
    wide = tuple(2 * length for length in array.shape)
    return _in_wide(array, wide, tuple(slice(None, None, 2) for _ in array.shape))


def broadcast_rows(array: Array, class_axis: int | None) -> Array:
    """All rows the first one: strides of 0."""
    rows = _rows(array, class_axis)
    first = array[tuple(slice(1) if axis in rows else slice(None) for axis in range(array.ndim))]
    return np.broadcast_to(first, array.shape)


def broadcast_classes(array: Array, class_axis: int | None) -> Array:
    """All classes the first one: a stride of 0."""
    if class_axis is None:
        return array
    first = array[tuple(slice(1 if axis == class_axis else None) for axis in range(array.ndim))]
    return np.broadcast_to(first, array.shape)


def padded(array: Array, class_axis: int | None) -> Array:
    """More classes in memory than are used."""
    if class_axis is None:
        return array
    wide = list(array.shape)
    wide[class_axis] += PADDING
    return _in_wide(array, tuple(wide), tuple(slice(length) for length in array.shape))


def unaligned(array: Array, class_axis: int | None) -> Array:
    """Elements at odd addresses."""
    view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array: Array, class_axis: int | None) -> Array:
    """An array that must not be written to."""
    array = array.copy()
    array.setflags(write=False)
    return array


LAYOUTS: dict[str, Callable[[Array, int | None], Array]] = {
    "C": lambda array, class_axis: array,
    "F": fortran,
    "reversed rows": reversed_rows,
    "reversed classes": reversed_classes,
    "stepped": stepped,
    "broadcast rows": broadcast_rows,
    "broadcast classes": broadcast_classes,
    "padded": padded,
    "unaligned": unaligned,
    "read-only": read_only,
}
