"""64 bytes of numbers as one value: 16 floats or 8 doubles, whatever the machine's own width.

LLVM splits the value where registers are narrower. Every machine computes with the same lanes in
the same order, so sums have the same bits on all CPUs that have a fused multiply-add, and nothing
depends on what the auto-vectoriser makes of a loop. This file has the type, and what moves lanes
and numbers between registers and memory; arithmetic.py has the operations. The C++ twin is
src_cython/lanes.hpp.

A dummy number `zero` of the compute dtype tells the functions which lanes to make.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from fastxent.backends.numba_cpu.jit import intrinsic, intrinsic_of_literals, numba
from fastxent.backends.numba_cpu.storage import converted
from fastxent.backends.numba_cpu.vector import broadcast, call, suffix

__all__ = [
    "Lanes",
    "address_of",
    "fetch_add",
    "get",
    "lane_count",
    "load",
    "load_wide",
    "pointer",
    "prefetch",
    "put",
    "stack",
    "store",
]


class Lanes(types.Type):
    """Numba's type of `count` lanes of `dtype`: 64 bytes of them, if nothing else is said."""

    def __init__(self, dtype: Any, count: int = 0) -> None:
        self.dtype = dtype
        self.count = count or 64 * 8 // dtype.bitwidth
        super().__init__(name=f"Lanes({dtype}, {self.count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        element = manager.lookup(lanes.dtype).get_value_type()
        vector = ir.VectorType(element, lanes.count)
        super().__init__(manager, lanes, vector)  # type: ignore[no-untyped-call]


@intrinsic
def lane_count(typing: Any, zero: Any) -> Any:
    """How many lanes there are of this dtype."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.get_constant(types.intp, Lanes(zero).count)

    return types.intp(zero), codegen


@intrinsic
def pointer(typing: Any, address: Any, index: Any, element: Any) -> Any:
    """Pointer to element `index` of the array at an address, or pointer, of `element`s.

    An element of None is a byte of an array that is not there.
    """
    kind = numba.types.CPointer(types.uint8 if isinstance(element, types.NoneType) else element)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        base = values[0]
        if isinstance(address, types.Integer):
            base = builder.inttoptr(base, context.get_value_type(kind))
        else:
            base = builder.bitcast(base, context.get_value_type(kind))
        return builder.gep(base, [values[1]])

    return kind(address, index, element), codegen


@intrinsic
def address_of(typing: Any, array: Any) -> Any:
    """Address that a pointer holds."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ptrtoint(values[0], ir.IntType(64))

    return types.int64(array), codegen


@intrinsic_of_literals
def stack(typing: Any, count: Any, element: Any) -> Any:
    """Pointer to uninitialised memory for `count` elements, until the caller returns."""
    if not isinstance(count, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_value_type(element)
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(kind, count.literal_value))
        memory.align = 64
        return builder.bitcast(memory, kind.as_pointer())

    return numba.types.CPointer(element)(count, element), codegen


@intrinsic
def put(typing: Any, to: Any, index: Any, number: Any) -> Any:
    """Store one number, rounded to the array's dtype."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.gep(values[0], [values[1]])
        builder.store(context.cast(builder, values[2], number, to.dtype), place, align=1)
        return context.get_dummy_value()

    return types.void(to, index, number), codegen


@intrinsic
def get(typing: Any, array: Any, index: Any) -> Any:
    """One number, wherever it lies."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.gep(values[0], [values[1]]), align=1)

    return array.dtype(array, index), codegen


def _place(builder: Any, vector: Any, array: Any, index: Any) -> Any:
    """Pointer to the vector that begins at element `index`."""
    return builder.bitcast(builder.gep(array, [index]), vector.as_pointer())


def _first_lanes(builder: Any, count: int, some: Any) -> Any:
    """Mask of the first `some` lanes."""
    limit = broadcast(builder, builder.trunc(some, ir.IntType(32)), count)
    return builder.icmp_signed("<", ir.Constant(limit.type, list(range(count))), limit)


@intrinsic
def load(typing: Any, array: Any, index: Any, some: Any, fill: Any, zero: Any) -> Any:
    """Lanes from `index` on, converted to the dtype of `zero`.

    `some` is None, or how many lanes are elements of the array: nothing beyond them is read and
    the other lanes hold `fill`. Here as elsewhere lanes may lie anywhere, unaligned too.
    """
    lanes, stored = Lanes(zero), array.dtype

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(stored), lanes.count)
        place = _place(builder, vector, values[0], values[1])
        if isinstance(some, types.NoneType):
            return converted(context, builder, builder.load(place, align=1), stored, zero)
        rest = broadcast(builder, context.cast(builder, values[3], fill, zero), lanes.count)
        mask = _first_lanes(builder, lanes.count, values[2])
        name = f"llvm.masked.load.{suffix(vector)}.p0"
        missing = rest if stored == zero else ir.Constant(vector, None)
        arguments = [place, ir.Constant(ir.IntType(32), 1), mask, missing]
        value = call(builder, name, vector, arguments)
        if stored == zero:
            return value
        return builder.select(mask, converted(context, builder, value, stored, zero), rest)

    return lanes(array, index, some, fill, zero), codegen


@intrinsic
def load_wide(typing: Any, array: Any, zero: Any) -> Any:
    """As many doubles from the beginning of an array as there are lanes of the dtype of `zero`."""
    wide = Lanes(types.float64, Lanes(zero).count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = context.get_value_type(wide)
        return builder.load(builder.bitcast(values[0], vector.as_pointer()), align=8)

    return wide(array, zero), codegen


@intrinsic
def store(typing: Any, array: Any, index: Any, some: Any, lanes: Any) -> Any:
    """Store lanes from `index` on, rounded to the array's dtype: all, or the first `some`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = converted(context, builder, values[3], lanes.dtype, array.dtype)
        vector = value.type
        place = _place(builder, vector, values[0], values[1])
        if isinstance(some, types.NoneType):
            builder.store(value, place, align=1)
        else:
            mask = _first_lanes(builder, lanes.count, values[2])
            name = f"llvm.masked.store.{suffix(vector)}.p0"
            align = ir.Constant(ir.IntType(32), 1)
            call(builder, name, ir.VoidType(), [value, place, align, mask])
        return context.get_dummy_value()

    return types.void(array, index, some, lanes), codegen


@intrinsic_of_literals
def prefetch(typing: Any, array: Any, index: Any, write: Any) -> Any:
    """Begin to bring the cache line of an element near, to be written if `write` is 1, not 0."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.bitcast(builder.gep(values[0], [values[1]]), ir.IntType(8).as_pointer())
        numbers = [write.literal_value, 2, 1]  # into the second level of the data cache
        arguments = [place, *(ir.Constant(ir.IntType(32), number) for number in numbers)]
        call(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, index, write), codegen


@intrinsic
def fetch_add(typing: Any, counter: Any, step: Any) -> Any:
    """Add to a counter that threads share; gives what it held before."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", values[0], values[1], "monotonic")

    return types.int64(counter, types.int64), codegen
