"""How lanes are stored: as what is computed with, or as half precision, or as bytes for 0 and 1.

Numba has no type for half precision on CPUs. Elements of int16 stand for float16, those of uint16
for bfloat16, by their bits. The C++ twin is src_cython/storage.hpp.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types

from fastxent.backends.numba_cpu.vector import constant

__all__ = ["converted", "width_of"]

_INT16, _INT32 = ir.IntType(16), ir.IntType(32)


def width_of(stored: Any) -> int:
    """Bytes of an element."""
    width: int = stored.bitwidth // 8
    return width


def _has_half(context: Any) -> bool:
    """Whether LLVM finds instructions for float16: else it would call a library."""
    if platform.machine() not in ("x86_64", "AMD64", "i686"):
        return True
    features = context.codegen().magic_tuple()[2]
    return "+f16c" in features or "+avx512f" in features


def _like(vector: Any, element: Any) -> Any:
    return ir.VectorType(element, vector.type.count)


def _from_half(context: Any, builder: Any, bits: Any) -> Any:
    """float32 from float16.

    A half of exponent 0 is a multiple of 2^-24; else its exponent moves from bias 15 to 127,
    infinities and NaN to the largest.
    """
    floats, wide = _like(bits, ir.FloatType()), _like(bits, _INT32)
    if _has_half(context):
        return builder.fpext(builder.bitcast(bits, _like(bits, ir.HalfType())), floats)

    def number(value: int) -> Any:
        return constant(wide, value)

    bits = builder.zext(bits, wide)
    sign = builder.shl(builder.and_(bits, number(0x8000)), number(16))
    rest = builder.and_(bits, number(0x7FFF))
    small = builder.fmul(builder.uitofp(rest, floats), constant(floats, 2.0**-24))
    is_largest = builder.icmp_unsigned(">=", rest, number(0x7C00))
    bias = builder.select(is_largest, number((255 - 31) << 23), number((127 - 15) << 23))
    normal = builder.add(builder.shl(rest, number(13)), bias)
    is_small = builder.icmp_unsigned("<", rest, number(0x0400))
    size = builder.select(is_small, builder.bitcast(small, wide), normal)
    return builder.bitcast(builder.or_(sign, size), floats)


def _to_half(context: Any, builder: Any, value: Any) -> Any:
    """To the nearest, ties to even; a NaN stays one."""
    halves, wide = _like(value, _INT16), _like(value, _INT32)
    if _has_half(context):
        return builder.bitcast(builder.fptrunc(value, _like(value, ir.HalfType())), halves)

    def number(value: int) -> Any:
        return constant(wide, value)

    bits = builder.bitcast(value, wide)
    rest = builder.and_(bits, number(0x7FFFFFFF))
    # below 2^-14 adding 0.5 leaves the multiple of 2^-24 in the low bits
    raised = builder.fadd(builder.bitcast(rest, value.type), constant(value.type, 0.5))
    small = builder.sub(builder.bitcast(raised, wide), number(0x3F000000))
    odd = builder.and_(builder.lshr(rest, number(13)), number(1))
    rounded = builder.add(builder.sub(rest, number(0x38000000 - 0xFFF)), odd)
    normal = builder.lshr(rounded, number(13))
    nan = builder.or_(builder.and_(builder.lshr(rest, number(13)), number(0x1FF)), number(0x7E00))
    result = builder.select(builder.icmp_unsigned("<", rest, number(0x38800000)), small, normal)
    # 65520 and beyond
    beyond = builder.icmp_unsigned(">=", rest, number(0x477FF000))
    result = builder.select(beyond, number(0x7C00), result)
    is_nan = builder.icmp_unsigned(">", rest, number(0x7F800000))
    result = builder.select(is_nan, nan, result)
    sign = builder.and_(builder.lshr(bits, number(16)), number(0x8000))
    return builder.trunc(builder.or_(result, sign), halves)


def _to_brain(builder: Any, value: Any) -> Any:
    """To the nearest, ties to even; a NaN stays one."""
    wide = _like(value, _INT32)
    bits = builder.bitcast(value, wide)
    odd = builder.and_(builder.lshr(bits, constant(wide, 16)), constant(wide, 1))
    up = builder.add(builder.add(bits, odd), constant(wide, 0x7FFF))
    is_nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(is_nan, builder.or_(bits, constant(wide, 0x400000)), up)
    return builder.trunc(builder.lshr(rounded, constant(wide, 16)), _like(value, _INT16))


def converted(context: Any, builder: Any, vector: Any, source: Any, target: Any) -> Any:
    """Lanes of elements of one type as those of another, where both can be stored."""
    if source == target:
        return vector
    if isinstance(source, types.Integer):
        if source == types.int16:
            vector = _from_half(context, builder, vector)
        elif source == types.uint16:
            bits = builder.zext(vector, _like(vector, _INT32))
            bits = builder.shl(bits, constant(bits.type, 16))
            vector = builder.bitcast(bits, _like(vector, ir.FloatType()))
        else:
            vector = builder.uitofp(vector, _like(vector, ir.FloatType()))
        return converted(context, builder, vector, types.float32, target)
    if isinstance(target, types.Integer):
        vector = converted(context, builder, vector, source, types.float32)
        half = target == types.int16
        return _to_half(context, builder, vector) if half else _to_brain(builder, vector)
    kind = _like(vector, context.get_value_type(target))
    wider = target.bitwidth > source.bitwidth
    return builder.fpext(vector, kind) if wider else builder.fptrunc(vector, kind)
