"""How arrays lie in memory, together: dimensions that all of them have, and tables for kernels.

Kernels for any strides read sizes and strides from a table of int64 numbers, strides in elements,
the outermost dimension first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

from fastxent import checks
from fastxent.device_array import DeviceArray

__all__ = ["Layout", "Pieces", "element_table", "is_same_piece", "pieces_of", "row_table"]

# Leading dimensions that the kernels of rows count through.
_LEADING = 4

_UNREACHED = 1 << 62


class Layout(NamedTuple):
    """What a plan depends on of an array: all of it but where in memory it is.

    Attributes
    ----------
    address : int
        Bytes from a multiple of 16.
    itemsize : int
    shape, strides : tuple of int
        As those of the array.
    """

    address: int
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Any) -> Layout:
        """That of an array on a GPU."""
        return cls(array.address & 15, array.itemsize, array.shape, array.strides)


class Pieces(NamedTuple):
    """Arrays cut alike, so that the rows of each piece have one distance.

    Attributes
    ----------
    rows : int
        Of each piece.
    layouts : tuple of Layout
        Of each array in any of the pieces: their addresses have all bits that one of them has.
    offsets : tuple
        For each piece, in the order of the rows, how many bytes further each array begins.
    """

    rows: int
    layouts: tuple[Layout, ...]
    offsets: tuple[tuple[int, ...], ...]


def pieces_of(layouts: Sequence[Layout], most: int) -> Pieces | None:
    """Cut arrays at all but the innermost of their leading dimensions; None for too many pieces."""
    if 0 in layouts[0].shape:
        return None
    sizes = _common_sizes([layout.shape[:-1] for layout in layouts])
    outer, rows = sizes[:-1], sizes[-1] if sizes else 1
    if math.prod(outer) > most:
        return None
    steps = [_split(layout.shape[:-1], layout.strides[:-1], sizes) for layout in layouts]
    within = []
    for layout, split in zip(layouts, steps, strict=True):
        address = layout.address
        for step in split[:-1]:
            address |= step & 15
        strides = (split[-1] if split else 0, layout.strides[-1])
        shape = (rows, layout.shape[-1])
        within.append(Layout(address, layout.itemsize, shape, strides))
    offsets = tuple(
        tuple(sum(i * step for i, step in zip(at, split[:-1], strict=True)) for split in steps)
        for at in product(*map(range, outer))
    )
    return Pieces(rows, tuple(within), offsets)


def _common_sizes(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Sizes of the coarsest dimensions that every shape is made of: all have as many entries."""
    inner = set()
    for shape in shapes:
        below = 1
        for size in reversed(shape):
            below *= size
            inner.add(below)
    bounds = sorted(inner | {1})
    return tuple(outer // below for below, outer in pairwise(bounds))[::-1]


def _split(shape: Sequence[int], strides: Sequence[int], sizes: tuple[int, ...]) -> list[int]:
    """Strides of the same entries after dimensions are split into these sizes."""
    found: list[int] = []
    place = len(sizes) - 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        covered = 1
        while covered < size:
            found.insert(0, step * covered)
            covered *= sizes[place]
            place -= 1
    return found


def row_table(arrays: Sequence[DeviceArray | None]) -> tuple[int, ...]:
    """Four sizes of the leading dimensions; four strides and that of the classes of each array.

    That of the first one is 0: no kernel needs it, and batches of any size share a table.
    """
    given = [array for array in arrays if array is not None]
    sizes = _common_sizes([array.shape[:-1] for array in given])
    if len(sizes) > _LEADING:
        checks.raise_backend(
            f"backend 'cuda' cannot run: the rows of the arrays lie in {len(sizes)} dimensions "
            f"that do not merge, and its kernels count through {_LEADING}; make one contiguous"
        )
    missing = [0] * (_LEADING - len(sizes))
    numbers = [*sizes, *(1 for _ in missing)]
    numbers[0] = 0
    for array in arrays:
        if array is None:
            numbers += [0] * (_LEADING + 1)
            continue
        *steps, class_step = (step // array.itemsize for step in array.strides)
        numbers += [*_split(array.shape[:-1], steps, sizes), *missing, class_step]
    return tuple(numbers)


def element_table(arrays: Sequence[Any], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of all dimensions, then as many strides of each array; absent ones have 0.

    The first size is one that no index reaches: batches of any size share a table.
    """
    numbers = [_UNREACHED, *sizes[1:]] if sizes else []
    for array in arrays:
        if isinstance(array, DeviceArray):
            numbers += [step // array.itemsize for step in array.strides]
        else:
            numbers += [0] * len(sizes)
    return tuple(numbers)


def is_same_piece(arrays: Sequence[DeviceArray]) -> bool:
    """Whether arrays of one shape fill their memory without gaps, each in the same order."""
    first = arrays[0]
    steps = [
        tuple(step for size, step in zip(array.shape, array.strides, strict=True) if size > 1)
        for array in arrays
    ]
    if any(other != steps[0] for other in steps):
        return False
    sizes = [size for size in first.shape if size > 1]
    expected = first.itemsize
    for step, size in sorted(zip(steps[0], sizes, strict=True)):
        if step != expected:
            return False
        expected *= size
    return True
