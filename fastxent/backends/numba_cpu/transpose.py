"""Between rows in memory and a tile, in which the lanes are rows and one class follows the other.

Rows are taken in pieces of up to 16 bytes: four floats of each of 16 rows fill four registers on
AVX-512, and 8 shuffles within 16 bytes turn them into four classes of 16 rows. No piece reads or
writes beyond its row. The C++ twin is src_cython/transpose.hpp.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fastxent.backends.numba_cpu.jit import inlined, intrinsic_of_literals
from fastxent.backends.numba_cpu.lanes import Lanes, lane_count, load
from fastxent.backends.numba_cpu.vector import shuffle

__all__ = ["gather", "scatter", "scatter_classes"]

_INT64 = ir.IntType(64)


def _concatenated(builder: Any, vectors: list[Any]) -> Any:
    """One vector of a power of two of them, all of one type."""
    while len(vectors) > 1:
        both = range(2 * vectors[0].type.count)
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [shuffle(builder, a, b, both) for a, b in pairs]
    return vectors[0]


def _transposed(builder: Any, vectors: list[Any], size: int) -> list[Any]:
    """As many vectors as a piece has numbers: within each 16 bytes, rows become columns."""

    def unpacked(a: Any, b: Any, first: int, width: int) -> Any:
        """Numbers `first` to first + width - 1 of each piece of `a`, each followed by that of `b`.

        They are taken `width` numbers at a time where `size` allows for it.
        """
        count = a.type.count
        places: list[int] = []
        for piece in range(0, count, size):
            for unit in range(piece + first, piece + first + size // 2, width):
                places += range(unit, unit + width)
                places += range(count + unit, count + unit + width)
        return shuffle(builder, a, b, places)

    if size == 2:
        a, b = vectors
        return [unpacked(a, b, 0, 1), unpacked(a, b, 1, 1)]
    a, b, c, d = vectors
    low, high = unpacked(a, b, 0, 1), unpacked(a, b, 2, 1)
    other_low, other_high = unpacked(c, d, 0, 1), unpacked(c, d, 2, 1)
    return [
        unpacked(low, other_low, 0, 2),
        unpacked(low, other_low, 2, 2),
        unpacked(high, other_high, 0, 2),
        unpacked(high, other_high, 2, 2),
    ]


class _Pieces:
    """Pieces of rows whose addresses lie in memory."""

    def __init__(self, context: Any, builder: Any, stored: Any, rows: Any, k: Any) -> None:
        self.builder, self.rows, self.k = builder, rows, k
        self.element = context.get_value_type(stored)

    def place(self, row: int, first: int, count: int) -> Any:
        """Pointer to `count` numbers of a row."""
        builder = self.builder
        address = builder.load(builder.gep(self.rows, [ir.Constant(_INT64, row)]))
        numbers = builder.inttoptr(address, self.element.as_pointer())
        begin = builder.gep(numbers, [builder.add(self.k, ir.Constant(_INT64, first))])
        return builder.bitcast(begin, ir.VectorType(self.element, count).as_pointer())

    def load(self, row: int, first: int, count: int) -> Any:
        """Numbers of a row."""
        return self.builder.load(self.place(row, first, count), align=1)

    def store(self, row: int, first: int, vector: Any) -> None:
        """Write numbers of a row."""
        place = self.place(row, first, vector.type.count)
        self.builder.store(vector, place, align=1)


@intrinsic_of_literals
def gather_classes(typing: Any, rows: Any, k: Any, count: Any, numbers: Any, zero: Any) -> Any:
    """Put classes k to k + count - 1 (1, 2 or 4) of all rows into a tile's numbers."""
    lanes = Lanes(zero)
    n, size = count.literal_value, 128 // lanes.dtype.bitwidth

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pieces = _Pieces(context, builder, zero, values[0], values[1])
        vector = ir.VectorType(context.get_value_type(zero), lanes.count)
        for first in range(0, n, size):
            width = min(size, n - first)
            joined = []
            for j in range(size):
                parts = [pieces.load(row, first, width) for row in range(j, lanes.count, size)]
                # what a narrow piece lacks may be anything: repeat its numbers
                whole = [i % width for i in range(size)]
                parts = [
                    shuffle(builder, part, part, whole) if width < size else part for part in parts
                ]
                joined.append(_concatenated(builder, parts))
            for j, lane in enumerate(_transposed(builder, joined, size)[:width]):
                index = builder.add(values[1], ir.Constant(_INT64, first + j))
                index = builder.mul(index, ir.Constant(_INT64, lanes.count))
                place = builder.bitcast(builder.gep(values[3], [index]), vector.as_pointer())
                builder.store(lane, place, align=1)
        return context.get_dummy_value()

    return types.void(rows, k, count, numbers, zero), codegen


@intrinsic_of_literals
def scatter_classes(
    typing: Any, rows: Any, k: Any, count: Any, a: Any, b: Any, c: Any, d: Any
) -> Any:
    """Write classes k to k + count - 1 (1, 2 or 4) of all rows: the first of these lanes."""
    lanes, n = a, count.literal_value
    size = 128 // lanes.dtype.bitwidth

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pieces = _Pieces(context, builder, lanes.dtype, values[0], values[1])
        classes = values[3:]
        for first in range(0, n, size):
            width = min(size, n - first)
            if width == 1:
                for row in range(lanes.count):
                    number = shuffle(builder, classes[first], classes[first], [row])
                    pieces.store(row, first, number)
                continue
            some = list(classes[first : first + width]) * (size // width)
            for j, vector in enumerate(_transposed(builder, some, size)):
                for chunk, row in enumerate(range(j, lanes.count, size)):
                    begin = chunk * size
                    part = shuffle(builder, vector, vector, range(begin, begin + width))
                    pieces.store(row, first, part)
        return context.get_dummy_value()

    return types.void(rows, k, count, a, b, c, d), codegen


@inlined
def gather(rows: Any, classes: int, numbers: Any, zero: Any) -> None:
    """Rows, given by their addresses, class by class."""
    fours = classes & ~3
    for k in range(0, fours, 4):
        gather_classes(rows, k, 4, numbers, zero)
    if classes & 2:
        gather_classes(rows, fours, 2, numbers, zero)
    if classes & 1:
        gather_classes(rows, classes - 1, 1, numbers, zero)


@inlined
def class_of(numbers: Any, k: int, zero: Any) -> Any:
    """Lanes of class k."""
    return load(numbers, k * lane_count(zero), None, 0.0, zero)


@inlined
def scatter(rows: Any, classes: int, numbers: Any, zero: Any) -> None:
    """The other way round."""
    fours = classes & ~3
    for k in range(0, fours, 4):
        a, b = class_of(numbers, k, zero), class_of(numbers, k + 1, zero)
        c, d = class_of(numbers, k + 2, zero), class_of(numbers, k + 3, zero)
        scatter_classes(rows, k, 4, a, b, c, d)
    if classes & 2:
        a, b = class_of(numbers, fours, zero), class_of(numbers, fours + 1, zero)
        scatter_classes(rows, fours, 2, a, b, b, b)
    if classes & 1:
        a = class_of(numbers, classes - 1, zero)
        scatter_classes(rows, classes - 1, 1, a, a, a, a)
