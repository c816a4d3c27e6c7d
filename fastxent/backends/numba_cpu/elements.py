"""Arrays of any layout and type, a block of elements at a time: contiguous numbers to compute with.

The C++ twin is src_cython/elements.hpp. A kind is a place in KINDS of contract.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fastxent.backends.numba_cpu.jit import inlined, intrinsic, once
from fastxent.backends.numba_cpu.lanes import (
    address_of,
    lane_count,
    load,
    pointer,
    put,
    stack,
    store,
)

__all__ = ["ELEMENT_BLOCK", "direct", "fetch", "write_back"]

ELEMENT_BLOCK = 512
_MOST_DIMS = 64  # NumPy's limit


@intrinsic
def as_float(typing: Any, bits: Any) -> Any:
    """The float32 of these 32 bits."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.trunc(values[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), codegen


@intrinsic
def as_bits(typing: Any, number: Any) -> Any:
    """The 32 bits of a float32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.zext(builder.bitcast(values[0], ir.IntType(32)), ir.IntType(64))

    return types.int64(types.float32), codegen


@inlined
def of_brain(bits: Any) -> Any:
    """Number of a bfloat16, which is the upper half of a float32."""
    return as_float(np.int64(bits) << 16)


@inlined
def of_half(bits: Any) -> Any:
    """Number of a float16: with exponent 0 a multiple of 2^-24, else the exponent's bias moves."""
    sign, rest = (np.int64(bits) & 0x8000) << 16, np.int64(bits) & 0x7FFF
    if rest < 0x0400:
        return as_float(sign | as_bits(np.float32(rest) * np.float32(2.0**-24)))
    bias = (255 - 31) << 23 if rest >= 0x7C00 else (127 - 15) << 23
    return as_float(sign | ((rest << 13) + bias))


@inlined
def brain_of(number: Any) -> Any:
    """Bits of the nearest bfloat16, ties to even; a NaN stays one."""
    bits = as_bits(np.float32(number))
    if (bits & 0x7FFFFFFF) > 0x7F800000:
        return (bits >> 16) | 0x40
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


@inlined
def half_of(number: Any) -> Any:
    """Bits of the nearest float16, ties to even; a NaN stays one."""
    bits = as_bits(np.float32(number))
    rest = bits & 0x7FFFFFFF
    if rest > 0x7F800000:
        result = 0x7E00 | ((rest >> 13) & 0x1FF)
    elif rest >= 0x477FF000:  # 65520 and beyond
        result = np.int64(0x7C00)
    elif rest < 0x38800000:  # below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits
        result = as_bits(as_float(rest) + np.float32(0.5)) - 0x3F000000
    else:
        result = (rest - 0x38000000 + 0xFFF + ((rest >> 13) & 1)) >> 13
    return result | ((bits >> 16) & 0x8000)


@inlined
def read_numbers(place: int, stride: int, size: int, count: int, to: Any, stored: Any) -> None:
    """Convert a run of numbers of the dtype of `stored`, which has so many bytes."""
    zero = to[0]
    step, done = lane_count(zero), 0
    if stride == size:
        while done + step <= count:
            store(to, done, None, load(pointer(place, 0, stored), done, None, 0.0, zero))
            done += step
    while done < count:
        put(to, done, pointer(place + done * stride, 0, stored)[0])
        done += 1


@inlined
def read_integers(place: int, stride: int, size: int, count: int, to: Any, stored: Any) -> Any:
    """The same for integers; which of their bits are set, the lowest left out."""
    read_numbers(place, stride, size, count, to, stored)
    seen = np.int64(0)
    if stride == size:
        numbers = pointer(place, 0, stored)
        for i in range(count):
            seen |= np.int64(numbers[i])
    else:
        for i in range(count):
            seen |= np.int64(pointer(place + i * stride, 0, stored)[0])
    return seen & ~1


@once
def read_run(kind: int, place: int, stride: int, count: int, to: Any) -> Any:
    """Numbers of a run into a buffer; bits of integers that are neither 0 nor 1."""
    if kind == 0:
        read_numbers(place, stride, 4, count, to, np.float32(0))
    elif kind == 1:
        read_numbers(place, stride, 8, count, to, np.float64(0))
    elif kind == 2:
        for i in range(count):
            put(to, i, of_half(pointer(place + i * stride, 0, np.uint16(0))[0]))
    elif kind == 3:
        for i in range(count):
            put(to, i, of_brain(pointer(place + i * stride, 0, np.uint16(0))[0]))
    elif kind == 4:
        return read_integers(place, stride, 1, count, to, np.uint8(0))
    elif kind == 5:
        return read_integers(place, stride, 1, count, to, np.int8(0))
    elif kind == 6:
        return read_integers(place, stride, 2, count, to, np.uint16(0))
    elif kind == 7:
        return read_integers(place, stride, 2, count, to, np.int16(0))
    elif kind == 8:
        return read_integers(place, stride, 4, count, to, np.uint32(0))
    elif kind == 9:
        return read_integers(place, stride, 4, count, to, np.int32(0))
    elif kind == 10:
        return read_integers(place, stride, 8, count, to, np.uint64(0))
    else:
        return read_integers(place, stride, 8, count, to, np.int64(0))
    return np.int64(0)


@once
def write_run(kind: int, place: int, stride: int, count: int, buffer: Any) -> None:
    """Numbers of a buffer, rounded to nearest, into an array of floats."""
    if kind == 0:
        for i in range(count):
            put(pointer(place + i * stride, 0, np.float32(0)), 0, buffer[i])
    elif kind == 1:
        for i in range(count):
            put(pointer(place + i * stride, 0, np.float64(0)), 0, buffer[i])
    elif kind == 2:
        for i in range(count):
            put(pointer(place + i * stride, 0, np.uint16(0)), 0, half_of(buffer[i]))
    else:
        for i in range(count):
            put(pointer(place + i * stride, 0, np.uint16(0)), 0, brain_of(buffer[i]))


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
