"""Arithmetic on LLVM vectors, written down as arithmetic: what intrinsics emit.

No fast-math flag is ever set: an operation is exactly the one that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llvmlite import ir

__all__ = ["Vector", "broadcast", "call", "constant", "is_single", "shuffle", "suffix"]

_INT32 = ir.IntType(32)


def suffix(kind: Any) -> str:
    """How LLVM writes a type in the names of its intrinsics."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return "f32" if isinstance(kind, ir.FloatType) else "f64"


def call(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def constant(kind: Any, number: float) -> Any:
    """The same number in every lane of this type, which may be a scalar's."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def broadcast(builder: Any, element: Any, count: int) -> Any:
    """A value in each of so many lanes."""
    rest = ir.Constant(ir.VectorType(element.type, count), ir.Undefined)
    first = builder.insert_element(rest, element, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, rest, constant(ir.VectorType(_INT32, count), 0))


def shuffle(builder: Any, a: Any, b: Any, places: Iterable[int]) -> Any:
    """The lanes of `a`, then of `b`, that have these numbers."""
    chosen = list(places)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, len(chosen)), chosen))


def is_single(x: Vector) -> bool:
    """Whether the numbers are float32, not float64."""
    kind = x.value.type
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    return isinstance(element, ir.FloatType)


class Vector:
    """A value of an LLVM vector type, or of its scalar: the operators emit instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def like(self, number: float) -> Vector:
        """The same number in every lane."""
        return Vector(self.builder, constant(self.value.type, number))

    def __add__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, other.value))

    def __neg__(self) -> Vector:
        return Vector(self.builder, self.builder.fneg(self.value))

    def __mul__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fdiv(self.value, other.value))

    def times_plus(self, factor: Vector, term: Vector) -> Vector:
        """self * factor + term, fused where the machine has the instruction."""
        kind = self.value.type
        operands = [self.value, factor.value, term.value]
        name = f"llvm.fmuladd.{suffix(kind)}"
        return Vector(self.builder, call(self.builder, name, kind, operands))

    def or_larger(self, other: Vector) -> Vector:
        """The larger of the two; `other` where either is NaN, which is what one vmaxps does."""
        larger = self.builder.fcmp_ordered(">", self.value, other.value)
        return Vector(self.builder, self.builder.select(larger, self.value, other.value))

    def where_nonzero(self, condition: Vector, otherwise: Vector) -> Vector:
        """self where `condition` is not zero (NaN is not), else `otherwise`."""
        zero = condition.like(0.0).value
        nonzero = self.builder.fcmp_unordered("!=", condition.value, zero)
        return Vector(self.builder, self.builder.select(nonzero, self.value, otherwise.value))

    def where_equal(self, a: Vector, b: Vector, otherwise: Vector) -> Vector:
        """self where `a` and `b` are equal, else `otherwise`."""
        equal = self.builder.fcmp_ordered("==", a.value, b.value)
        return Vector(self.builder, self.builder.select(equal, self.value, otherwise.value))

    def where_less(self, a: Vector, b: Vector, otherwise: Vector) -> Vector:
        """self where `a` is less than `b` (not where either is NaN), else `otherwise`."""
        less = self.builder.fcmp_ordered("<", a.value, b.value)
        return Vector(self.builder, self.builder.select(less, self.value, otherwise.value))

    def bits(self) -> Any:
        """The bits as integers, for the builder's own instructions."""
        kind = self.value.type
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        bits: Any = _INT32 if isinstance(element, ir.FloatType) else ir.IntType(64)
        if isinstance(kind, ir.VectorType):
            bits = ir.VectorType(bits, kind.count)
        return self.builder.bitcast(self.value, bits)

    def with_bits(self, bits: Any) -> Vector:
        """Numbers of the same type from their bits."""
        return Vector(self.builder, self.builder.bitcast(bits, self.value.type))

    def lanes(self, places: Iterable[int]) -> Vector:
        """These lanes, in this order."""
        return Vector(self.builder, shuffle(self.builder, self.value, self.value, places))

    def folded(self, combine: Callable[[Vector, Vector], Vector]) -> Any:
        """One number from all lanes by halves: lane i with lane i + count/2, and so on."""
        whole = self
        while (half := whole.value.type.count // 2) > 0:
            whole = combine(whole.lanes(range(half)), whole.lanes(range(half, 2 * half)))
        return self.builder.extract_element(whole.value, ir.Constant(_INT32, 0))
