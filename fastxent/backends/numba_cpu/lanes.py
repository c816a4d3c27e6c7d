"""64 bytes of numbers as one value: 16 floats or 8 doubles, whatever the machine's own width.

LLVM splits the value where registers are narrower. Every machine computes with the same lanes in
the same order, so sums have the same bits on all CPUs that have a fused multiply-add, and nothing
depends on what the auto-vectoriser makes of a loop. The C++ twin is src_cython/lanes.hpp.

A dummy number `zero` of the compute dtype tells the functions which lanes to make.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, overload, register_model

from fastxent.backends.numba_cpu.jit import intrinsic, numba
from fastxent.backends.numba_cpu.vector import Vector, broadcast, call, suffix

__all__ = [
    "emitted",
    "fetch_add",
    "fma",
    "fms",
    "lane_count",
    "largest",
    "load",
    "maximum",
    "pointer",
    "put",
    "splat",
    "store",
    "sum_lanes",
    "where_nonzero",
]


class Lanes(types.Type):
    """Numba's type of 64 bytes of `dtype`."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.count = 64 * 8 // dtype.bitwidth
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        element = manager.lookup(lanes.dtype).get_value_type()
        vector = ir.VectorType(element, lanes.count)
        super().__init__(manager, lanes, vector)  # type: ignore[no-untyped-call]


def emitted(function: Callable[..., Vector]) -> Any:
    """Intrinsic on lanes, or on single numbers, from the function that writes its arithmetic."""

    def typed(typing: Any, *operands: Any) -> Any:
        kind = operands[0]
        if not isinstance(kind, Lanes | types.Float) or any(o != kind for o in operands):
            return None

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return function(*(Vector(builder, value) for value in values)).value

        return kind(*operands), codegen

    # Numba asks for the operands by name
    named = inspect.signature(function).parameters.values()
    first = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    typed.__signature__ = inspect.Signature([first, *named])  # type: ignore[attr-defined]
    typed.__name__, typed.__doc__ = function.__name__, function.__doc__
    return intrinsic(typed)


def _on_lanes(symbol: Any) -> None:
    """Give lanes an arithmetic operator."""

    @emitted
    def operation(a: Vector, b: Vector) -> Vector:
        result: Vector = symbol(a, b)
        return result

    def on_lanes(a: Any, b: Any) -> Any:
        return operation(a, b)

    @overload(symbol)
    def _overloaded(a: Any, b: Any) -> Any:
        return on_lanes if isinstance(a, Lanes) and a == b else None


_on_lanes(operator.add)
_on_lanes(operator.sub)
_on_lanes(operator.mul)


@emitted
def fma(a: Vector, b: Vector, c: Vector) -> Vector:
    """a * b + c, fused where the machine has the instruction."""
    return a.times_plus(b, c)


@emitted
def fms(a: Vector, b: Vector, c: Vector) -> Vector:
    """a * b - c, fused likewise."""
    return a.times_plus(b, -c)


@emitted
def maximum(a: Vector, b: Vector) -> Vector:
    """The larger of the two; `b` where either is NaN."""
    return a.or_larger(b)


@emitted
def where_nonzero(condition: Vector, value: Vector, otherwise: Vector) -> Vector:
    """`value` where `condition` is not zero (NaN is not), else `otherwise`."""
    return value.where_nonzero(condition, otherwise)


@intrinsic
def sum_lanes(typing: Any, lanes: Any) -> Any:
    """Sum in float64 by halves: lane i and lane i + count/2, and so on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (wide,) = values
        if lanes.dtype == types.float32:
            wide = builder.fpext(wide, ir.VectorType(ir.DoubleType(), lanes.count))
        return Vector(builder, wide).folded(operator.add)

    return types.float64(lanes), codegen


@intrinsic
def largest(typing: Any, lanes: Any) -> Any:
    """Largest of the lanes, none of which is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return Vector(builder, values[0]).folded(Vector.or_larger)

    return lanes.dtype(lanes), codegen


@intrinsic
def lane_count(typing: Any, zero: Any) -> Any:
    """How many lanes there are of this dtype."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.get_constant(types.intp, Lanes(zero).count)

    return types.intp(zero), codegen


@intrinsic
def splat(typing: Any, number: Any, zero: Any) -> Any:
    """The same number, rounded to the dtype of `zero`, in every lane."""
    lanes = Lanes(zero)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element = context.cast(builder, values[0], number, zero)
        return broadcast(builder, element, lanes.count)

    return lanes(number, zero), codegen


@intrinsic
def pointer(typing: Any, address: Any, index: Any, element: Any) -> Any:
    """Pointer to element `index` of the array at an address, or pointer, of `element`s."""
    kind = numba.types.CPointer(element)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        base = values[0]
        if isinstance(address, types.Integer):
            base = builder.inttoptr(base, context.get_value_type(kind))
        return builder.gep(base, [values[1]])

    return kind(address, index, element), codegen


@intrinsic
def put(typing: Any, to: Any, index: Any, number: Any) -> Any:
    """Store one number, rounded to the array's dtype."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.gep(values[0], [values[1]])
        builder.store(context.cast(builder, values[2], number, to.dtype), place)
        return context.get_dummy_value()

    return types.void(to, index, number), codegen


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
    the other lanes hold `fill`.
    """
    lanes, stored = Lanes(zero), array.dtype

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(stored), lanes.count)
        place = _place(builder, vector, values[0], values[1])
        size = stored.bitwidth // 8
        if isinstance(some, types.NoneType):
            value = builder.load(place, align=size)
        else:
            element = context.cast(builder, values[3], fill, stored)
            rest = broadcast(builder, element, lanes.count)
            mask = _first_lanes(builder, lanes.count, values[2])
            name = f"llvm.masked.load.{suffix(vector)}.p0"
            align = ir.Constant(ir.IntType(32), size)
            value = call(builder, name, vector, [place, align, mask, rest])
        target = context.get_value_type(lanes)
        if isinstance(stored, types.Integer):
            return builder.uitofp(value, target)
        if stored.bitwidth < zero.bitwidth:
            return builder.fpext(value, target)
        return builder.fptrunc(value, target) if stored.bitwidth > zero.bitwidth else value

    return lanes(array, index, some, fill, zero), codegen


@intrinsic
def store(typing: Any, array: Any, index: Any, some: Any, lanes: Any) -> Any:
    """Store lanes from `index` on: all, or the first `some`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = values[3].type
        place = _place(builder, vector, values[0], values[1])
        size = lanes.dtype.bitwidth // 8
        if isinstance(some, types.NoneType):
            builder.store(values[3], place, align=size)
        else:
            mask = _first_lanes(builder, lanes.count, values[2])
            name = f"llvm.masked.store.{suffix(vector)}.p0"
            align = ir.Constant(ir.IntType(32), size)
            call(builder, name, ir.VoidType(), [values[3], place, align, mask])
        return context.get_dummy_value()

    return types.void(array, index, some, lanes), codegen


@intrinsic
def fetch_add(typing: Any, counter: Any, step: Any) -> Any:
    """Add to a counter that threads share; gives what it held before."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", values[0], values[1], "monotonic")

    return types.int64(counter, types.int64), codegen
