"""Where an element lies in memory, from its number and a table of sizes and strides."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.machine import load_i64

__all__ = ["class_stride", "coordinates", "quotient", "row_offset"]

int64: Any = np.int64
uint32: Any = np.uint32

_LEADING = 4  # dimensions before that of the classes
_MOST = 0xFFFFFFFF


@register_jitable
def quotient(number: Any, size: Any) -> Any:
    """`number` // `size` of what is not negative: in 32 bits where they are enough.

    The machine divides neither; 64 bits take it a call of a subroutine. A larger `size` than 32
    bits hold is as good as the largest that they do, of smaller numbers than that.
    """
    if number < _MOST:
        return int64(uint32(number) // uint32(min(size, _MOST)))
    return number // size


@register_jitable
def coordinates(layout: Any, row: Any) -> Any:
    """Indices of a row in the leading dimensions of a table of rows.

    The table has the sizes of the leading dimensions, then for each array its strides there and
    that of the classes.
    """
    rest = quotient(row, load_i64(layout + 24))
    last = row - rest * load_i64(layout + 24)
    before = quotient(rest, load_i64(layout + 16))
    third = rest - before * load_i64(layout + 16)
    first = quotient(before, load_i64(layout + 8))
    return first, before - first * load_i64(layout + 8), third, last


@register_jitable
def row_offset(layout: Any, array: Any, indices: Any) -> Any:
    """Elements from the first one of an array, named by its number, to the first of a row."""
    strides = layout + 8 * (_LEADING + (_LEADING + 1) * array)
    return (
        indices[0] * load_i64(strides)
        + indices[1] * load_i64(strides + 8)
        + indices[2] * load_i64(strides + 16)
        + indices[3] * load_i64(strides + 24)
    )


@register_jitable
def class_stride(layout: Any, array: Any) -> Any:
    """Elements from class to class."""
    return load_i64(layout + 8 * (_LEADING + (_LEADING + 1) * array + _LEADING))
