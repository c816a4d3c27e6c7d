"""Where a row of a matrix lies, and how its numbers do; the C++ twin is src_cython/matrix.hpp.

A matrix is a record of Fields; a kind is a place in KINDS of the contract.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import KINDS
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import pointer

__all__ = [
    "BRAIN",
    "BYTE",
    "DOUBLE",
    "FLOAT",
    "HALF",
    "fill_classes",
    "item_size",
    "lie_in_lanes",
    "lies_as_computed",
    "row_of",
]

FLOAT, DOUBLE, HALF, BRAIN, BYTE = map(
    KINDS.index, ("float32", "float64", "float16", "bfloat16", "uint8")
)

# The bits of a NaN.
_NAN_HALF, _NAN_BRAIN = np.uint16(0x7E00), np.uint16(0x7FC0)


@inlined
def item_size(kind: int) -> Any:
    """Bytes of a number of this kind."""
    if kind == FLOAT:
        return 4
    if kind == DOUBLE:
        return 8
    return 1 if kind == BYTE else 2


@inlined
def lies_as_computed(matrix: Any, compute_size: int) -> Any:
    """Whether classes lie side by side as numbers of the compute dtype, of so many bytes."""
    kind = FLOAT if compute_size == 4 else DOUBLE
    return matrix.kind == kind and matrix.class_stride == compute_size


@inlined
def row_of(matrix: Any, row: int) -> Any:
    """Address of the first class of a row."""
    last = matrix.levels - 1
    place = matrix.data
    for level in range(last):
        rest = row // matrix.size[level]
        place += (row - rest * matrix.size[level]) * matrix.stride[level]
        row = rest
    return place + row * matrix.stride[last]


@inlined
def lie_in_lanes(matrix: Any, row: int, count: int) -> Any:
    """Whether so many rows lie side by side, each a number further, and not the classes."""
    size = item_size(matrix.kind)
    if matrix.class_stride == size or matrix.stride[0] != size:
        return False
    return matrix.levels == 1 or row % matrix.size[0] + count <= matrix.size[0]


@inlined
def fill_numbers(to: int, stride: int, size: int, classes: int, number: Any) -> None:
    """The same number, a stride apart; those side by side become a loop of vectors, or memset."""
    if stride == size:
        numbers = pointer(to, 0, number)
        for k in range(classes):
            numbers[k] = number
    else:
        for k in range(classes):
            pointer(to + k * stride, 0, number)[0] = number


@once
def fill_classes(matrix: Any, row: int, classes: int, number: float) -> None:
    """0 or NaN for every class of a row of numbers that are written."""
    to, stride, size = row_of(matrix, row), matrix.class_stride, item_size(matrix.kind)
    if matrix.kind == FLOAT:
        fill_numbers(to, stride, size, classes, np.float32(number))
    elif matrix.kind == DOUBLE:
        fill_numbers(to, stride, size, classes, np.float64(number))
    elif number == 0.0:
        fill_numbers(to, stride, size, classes, np.uint16(0))
    else:
        nan = _NAN_HALF if matrix.kind == HALF else _NAN_BRAIN
        fill_numbers(to, stride, size, classes, nan)
