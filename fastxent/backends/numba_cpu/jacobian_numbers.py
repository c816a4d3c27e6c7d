"""Numbers of the Jacobian products as they are stored; the C++ twin is jacobian_numbers.hpp.

What a pointer points at tells how: float32 and float64 are themselves, int16 stands for the bits of
IEEE's binary16 and uint16 for those of bfloat16, both computed with in float32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fastxent.backends.numba_cpu.jit import intrinsic
from fastxent.backends.numba_cpu.lanes import Lanes
from fastxent.backends.numba_cpu.vector import broadcast, call, constant, suffix

__all__ = ["peek", "poke", "read", "write"]


def _bits_to_numbers(builder: Any, bits: Any, stored: Any, target: Any) -> Any:
    """Lanes of the compute dtype from what is stored."""
    if stored.bitwidth > 16:
        return bits
    if stored.signed:
        half = builder.bitcast(bits, ir.VectorType(ir.HalfType(), target.count))
        return builder.fpext(half, target)
    words = ir.VectorType(ir.IntType(32), target.count)
    return builder.bitcast(builder.shl(builder.zext(bits, words), constant(words, 16)), target)


def _numbers_to_bits(builder: Any, numbers: Any, stored: Any) -> Any:
    """What is stored of lanes: rounded to the nearest, ties to even; a NaN stays one."""
    if stored.bitwidth > 16:
        return numbers
    count = numbers.type.count
    narrow = ir.VectorType(ir.IntType(16), count)
    if stored.signed:
        half = builder.fptrunc(numbers, ir.VectorType(ir.HalfType(), count))
        return builder.bitcast(half, narrow)
    words = ir.VectorType(ir.IntType(32), count)
    bits = builder.bitcast(numbers, words)
    upper = builder.lshr(bits, constant(words, 16))
    odd = builder.and_(upper, constant(words, 1))
    rounded = builder.add(builder.add(bits, constant(words, 0x7FFF)), odd)
    rounded = builder.lshr(rounded, constant(words, 16))
    quiet = builder.or_(upper, constant(words, 0x40))
    is_number = builder.fcmp_ordered("ord", numbers, numbers)
    return builder.trunc(builder.select(is_number, rounded, quiet), narrow)


def _first_lanes(builder: Any, count: int, some: Any) -> Any:
    """Mask of the first `some` lanes."""
    limit = broadcast(builder, builder.trunc(some, ir.IntType(32)), count)
    return builder.icmp_signed("<", ir.Constant(limit.type, list(range(count))), limit)


@intrinsic
def read(typing: Any, array: Any, index: Any, some: Any, zero: Any) -> Any:
    """Lanes from `index` on, in the dtype of `zero`: all, or the first `some` and then 0."""
    lanes, stored = Lanes(zero), array.dtype

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(stored), lanes.count)
        place = builder.bitcast(builder.gep(values[0], [values[1]]), vector.as_pointer())
        size = stored.bitwidth // 8
        if isinstance(some, types.NoneType):
            bits = builder.load(place, align=size)
        else:
            mask = _first_lanes(builder, lanes.count, values[2])
            align = ir.Constant(ir.IntType(32), size)
            name = f"llvm.masked.load.{suffix(vector)}.p0"
            bits = call(builder, name, vector, [place, align, mask, ir.Constant(vector, None)])
        return _bits_to_numbers(builder, bits, stored, context.get_value_type(lanes))

    return lanes(array, index, some, zero), codegen


@intrinsic
def write(typing: Any, array: Any, index: Any, some: Any, lanes: Any) -> Any:
    """Store lanes from `index` on: all, or the first `some`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = _numbers_to_bits(builder, values[3], array.dtype)
        vector = bits.type
        place = builder.bitcast(builder.gep(values[0], [values[1]]), vector.as_pointer())
        size = array.dtype.bitwidth // 8
        if isinstance(some, types.NoneType):
            builder.store(bits, place, align=size)
        else:
            mask = _first_lanes(builder, lanes.count, values[2])
            align = ir.Constant(ir.IntType(32), size)
            name = f"llvm.masked.store.{suffix(vector)}.p0"
            call(builder, name, ir.VoidType(), [bits, place, align, mask])
        return context.get_dummy_value()

    return types.void(array, index, some, lanes), codegen


@intrinsic
def peek(typing: Any, address: Any, stored: Any) -> Any:
    """A stored number at any address."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_value_type(stored)
        return builder.load(builder.inttoptr(values[0], kind.as_pointer()), align=1)

    return stored(address, stored), codegen


@intrinsic
def poke(typing: Any, address: Any, stored: Any) -> Any:
    """Store a number at any address."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], values[1].type.as_pointer())
        builder.store(values[1], place, align=1)
        return context.get_dummy_value()

    return types.void(address, stored), codegen
