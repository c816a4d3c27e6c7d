"""Arrays of any layout and type, a block of elements at a time: contiguous numbers to compute with.

The C++ twin is src_cython/elements.hpp. A kind is a place in KINDS of contract.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import KINDS
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import (
    address_of,
    lane_count,
    load,
    pointer,
    put,
    stack,
    store,
)
from fastxent.backends.numba_cpu.matrix import BRAIN, BYTE, DOUBLE, FLOAT, HALF
from fastxent.backends.numba_cpu.transform import collect, distribute, rounded_to

__all__ = ["ELEMENT_BLOCK", "direct", "fetch", "write_back"]

ELEMENT_BLOCK = 512
_MOST_DIMS = 64  # NumPy's limit
_INT8, _UINT16, _INT16, _UINT32, _INT32, _UINT64 = map(
    KINDS.index, ("int8", "uint16", "int16", "uint32", "int32", "uint64")
)


@inlined
def read_numbers(place: int, stride: int, size: int, count: int, to: Any, stored: Any) -> None:
    """Convert a run of at most a block of numbers, stored as `stored` is, in so many bytes."""
    zero = to[0]
    step, source = lane_count(zero), pointer(place, 0, stored)
    if stride != size:
        source = stack(ELEMENT_BLOCK, stored)
        collect(place, stride, count, address_of(source), stored)
    whole = count - count % step
    for k in range(0, whole, step):
        store(to, k, None, load(source, k, None, 0.0, zero))
    if whole < count:
        store(to, whole, count - whole, load(source, whole, count - whole, 0.0, zero))


@inlined
def write_numbers(place: int, stride: int, size: int, count: int, buffer: Any, stored: Any) -> None:
    """The other way round, rounded to the nearest."""
    zero = buffer[0]
    if stride == size:
        rounded_to(buffer, 1.0, count, pointer(place, 0, stored), zero)
        return
    block = stack(ELEMENT_BLOCK, stored)
    rounded_to(buffer, 1.0, count, block, zero)
    distribute(block, count, place, stride, stored)


@inlined
def read_integers(place: int, stride: int, size: int, count: int, to: Any, stored: Any) -> Any:
    """Convert a run of integers; which of their bits are set, the lowest left out."""
    seen = np.int64(0)
    if stride == size:
        numbers = pointer(place, 0, stored)
        for i in range(count):
            seen |= np.int64(numbers[i])
            put(to, i, numbers[i])
    else:
        for i in range(count):
            number = pointer(place + i * stride, 0, stored)[0]
            seen |= np.int64(number)
            put(to, i, number)
    return seen & ~1


@once
def read_run(kind: int, place: int, stride: int, count: int, to: Any) -> Any:
    """Numbers of a run into a buffer; bits of integers that are neither 0 nor 1."""
    if kind == FLOAT:
        read_numbers(place, stride, 4, count, to, np.float32(0))
    elif kind == DOUBLE:
        read_numbers(place, stride, 8, count, to, np.float64(0))
    elif kind == HALF:
        read_numbers(place, stride, 2, count, to, np.int16(0))
    elif kind == BRAIN:
        read_numbers(place, stride, 2, count, to, np.uint16(0))
    elif kind == BYTE:
        return read_integers(place, stride, 1, count, to, np.uint8(0))
    elif kind == _INT8:
        return read_integers(place, stride, 1, count, to, np.int8(0))
    elif kind == _UINT16:
        return read_integers(place, stride, 2, count, to, np.uint16(0))
    elif kind == _INT16:
        return read_integers(place, stride, 2, count, to, np.int16(0))
    elif kind == _UINT32:
        return read_integers(place, stride, 4, count, to, np.uint32(0))
    elif kind == _INT32:
        return read_integers(place, stride, 4, count, to, np.int32(0))
    elif kind == _UINT64:
        return read_integers(place, stride, 8, count, to, np.uint64(0))
    else:
        return read_integers(place, stride, 8, count, to, np.int64(0))
    return np.int64(0)


@once
def write_run(kind: int, place: int, stride: int, count: int, buffer: Any) -> None:
    """Numbers of a buffer, rounded to nearest, into an array of floats."""
    if kind == FLOAT:
        write_numbers(place, stride, 4, count, buffer, np.float32(0))
    elif kind == DOUBLE:
        write_numbers(place, stride, 8, count, buffer, np.float64(0))
    elif kind == HALF:
        write_numbers(place, stride, 2, count, buffer, np.int16(0))
    else:
        write_numbers(place, stride, 2, count, buffer, np.uint16(0))


@once
def offset_of(dims: int, shape: int, strides: int, index: int, at: Any) -> Any:
    """Byte offset of the element with this number in C order, and its coordinates into `at`."""
    offset, rest = 0, index
    for d in range(dims - 1, -1, -1):
        size = pointer(shape, d, np.int64(0))[0]
        at[d] = rest % size
        rest //= size
        offset += at[d] * pointer(strides, d, np.int64(0))[0]
    return offset


@once
def runs(
    p: Any, array: int, kind: int, strides: int, begin: int, count: int, buffer: Any, reads: Any
) -> Any:
    """Read a range into the buffer, or write it back, run by run of the innermost stride."""
    at = stack(_MOST_DIMS, np.int64(0))
    last, done, seen = p.dims - 1, 0, np.int64(0)
    offset = offset_of(p.dims, p.shape, strides, begin, at)
    stride = pointer(strides, last, np.int64(0))[0]
    while done < count:
        run = min(pointer(p.shape, last, np.int64(0))[0] - at[last], count - done)
        part = pointer(buffer, done, buffer[0])
        if reads:
            seen |= read_run(kind, array + offset, stride, run, part)
        else:
            write_run(kind, array + offset, stride, run, part)
        done += run
        at[last] += run
        offset += run * stride
        d = last
        while d > 0 and at[d] == pointer(p.shape, d, np.int64(0))[0]:
            outer = pointer(strides, d - 1, np.int64(0))[0]
            offset += outer - at[d] * pointer(strides, d, np.int64(0))[0]
            at[d] = 0
            d -= 1
            at[d] += 1
    return seen


@once
def direct(p: Any, array: int, kind: int, strides: int, begin: int, count: int) -> Any:
    """Address of a range that lies in memory as contiguous numbers of the compute dtype, or 0."""
    last = p.dims - 1
    size = pointer(p.shape, last, np.int64(0))[0]
    stride = pointer(strides, last, np.int64(0))[0]
    if kind != p.compute_kind or (size > 1 and stride != 4 + 4 * p.compute_kind):
        return np.int64(0)
    if last == 0:
        return array + begin * stride
    if begin % size + count > size:
        return np.int64(0)
    at = stack(_MOST_DIMS, np.int64(0))
    return array + offset_of(p.dims, p.shape, strides, begin, at)


@once
def fetch(
    p: Any, array: int, kind: int, strides: int, begin: int, count: int, buffer: Any
) -> tuple[Any, Any]:
    """Address of the numbers of a range, where they lie or in the buffer; and the bits seen."""
    place = direct(p, array, kind, strides, begin, count)
    if place != 0:
        return place, np.int64(0)
    return address_of(buffer), runs(p, array, kind, strides, begin, count, buffer, True)


@inlined
def write_back(
    p: Any, array: int, kind: int, strides: int, begin: int, count: int, buffer: Any
) -> None:
    """Write the numbers of a buffer to a range."""
    runs(p, array, kind, strides, begin, count, buffer, False)
