"""Operations on lanes: each is exactly the one that is written, in the order that is written."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import overload

from fastxent.backends.numba_cpu.jit import intrinsic, intrinsic_of_literals
from fastxent.backends.numba_cpu.lanes import Lanes
from fastxent.backends.numba_cpu.vector import Vector, broadcast

__all__ = [
    "eight_lanes",
    "emitted",
    "first_lane",
    "fma",
    "fms",
    "largest",
    "like",
    "maximum",
    "narrowed",
    "splat",
    "splat_wide",
    "sum_lanes",
    "where_equal",
    "where_nonzero",
    "widened",
]


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
_on_lanes(operator.truediv)


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


@emitted
def where_equal(a: Vector, b: Vector, value: Vector, otherwise: Vector) -> Vector:
    """`value` where `a` and `b` are equal, else `otherwise`."""
    return value.where_equal(a, b, otherwise)


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
def first_lane(typing: Any, lanes: Any) -> Any:
    """The number in the first lane."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.extract_element(values[0], ir.Constant(ir.IntType(32), 0))

    return lanes.dtype(lanes), codegen


@intrinsic
def splat(typing: Any, number: Any, zero: Any) -> Any:
    """The same number, rounded to the dtype of `zero`, in every lane."""
    lanes = Lanes(zero)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element = context.cast(builder, values[0], number, zero)
        return broadcast(builder, element, lanes.count)

    return lanes(number, zero), codegen


@intrinsic
def like(typing: Any, lanes: Any, number: Any) -> Any:
    """The same number in as many lanes as `lanes` has."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element = context.cast(builder, values[1], number, lanes.dtype)
        return broadcast(builder, element, lanes.count)

    return lanes(lanes, number), codegen


# The lanes of a tile in double precision: as many doubles, in as many registers as that takes.


@intrinsic
def splat_wide(typing: Any, number: Any, zero: Any) -> Any:
    """A float64 number in as many lanes as there are of the dtype of `zero`."""
    wide = Lanes(types.float64, Lanes(zero).count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return broadcast(builder, values[0], wide.count)

    return wide(types.float64, zero), codegen


@intrinsic
def widened(typing: Any, lanes: Any) -> Any:
    """Lanes in double precision."""
    wide = Lanes(types.float64, lanes.count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if lanes.dtype == types.float64:
            return values[0]
        return builder.fpext(values[0], context.get_value_type(wide))

    return wide(lanes), codegen


@intrinsic
def narrowed(typing: Any, wide: Any, zero: Any) -> Any:
    """Lanes of doubles rounded to the dtype of `zero`."""
    lanes = Lanes(zero, wide.count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if zero == types.float64:
            return values[0]
        return builder.fptrunc(values[0], context.get_value_type(lanes))

    return lanes(wide, zero), codegen


@intrinsic_of_literals
def eight_lanes(typing: Any, wide: Any, begin: Any) -> Any:
    """Eight lanes of doubles: from lane `begin` on, or the last ones."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first = min(begin.literal_value, wide.count - 8)
        return Vector(builder, values[0]).lanes(range(first, first + 8)).value

    return Lanes(types.float64)(wide, begin), codegen
