"""Bits and arithmetic of the simulated machine: conversions, maxima and the fast power of two."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    *("float_of_bits", "bits_of_float", "double_of_words", "words_of_double"),
    *("float_of_half", "half_of_float", "pack_half", "pack_bfloat"),
    *("max_half_pair", "max_bfloat_pair", "renewed"),
    *("exp2", "reciprocal", "max_f32", "max_f64"),
]

_WORD = 0xFFFFFFFF

_slot = np.zeros(1, np.float64)
_slot_f32, _slot_f16 = _slot.view(np.float32), _slot.view(np.float16)
_slot_u32, _slot_u16 = memoryview(_slot).cast("B").cast("I"), memoryview(_slot).cast("B").cast("H")
with np.errstate(all="ignore"):
    _HALVES = list(np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32))


def float_of_bits(bits: int) -> Any:
    _slot_u32[0] = bits & _WORD
    return _slot_f32[0]


def bits_of_float(value: Any) -> int:
    _slot_f32[0] = value
    return _slot_u32[0]


def double_of_words(low: int, high: int) -> Any:
    _slot_u32[0] = low & _WORD
    _slot_u32[1] = high & _WORD
    return _slot[0]


def words_of_double(value: Any) -> tuple[int, int]:
    _slot[0] = value
    return _slot_u32[0], _slot_u32[1]


def float_of_half(half: int) -> Any:
    return _HALVES[half & 0xFFFF]


def half_of_float(value: Any) -> int:
    _slot_f16[0] = np.float32(value)
    return _slot_u16[0]


def pack_half(low: Any, high: Any) -> int:
    _slot_f16[0] = np.float32(low)
    _slot_f16[1] = np.float32(high)
    return _slot_u32[0]


def _bfloat(value: Any) -> int:
    if value != value:
        return 0x7FFF
    _slot_f32[0] = value
    bits = _slot_u32[0]
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


def pack_bfloat(low: Any, high: Any) -> int:
    return _bfloat(low) | _bfloat(high) << 16


def max_half_pair(a: int, b: int) -> int:
    return _max_pair(a, b, 0x7C00)


def max_bfloat_pair(a: int, b: int) -> int:
    return _max_pair(a, b, 0x7F80)


def _max_pair(a: int, b: int, infinity: int) -> int:
    """The larger of two pairs of halves whose bits order them, -0 and +0 aside: NaN if both are."""

    def larger(x: int, y: int) -> int:
        if x & 0x7FFF > infinity or y & 0x7FFF > infinity:
            number = y if x & 0x7FFF > infinity else x
            return 0x7FFF if number & 0x7FFF > infinity else number
        return max(x, y, key=lambda bits: -(bits & 0x7FFF) if bits & 0x8000 else bits)

    return larger(a & 0xFFFF, b & 0xFFFF) | larger(a >> 16, b >> 16) << 16


def renewed(word: int) -> int:
    return word & _WORD


_ERROR = 2.0**-22  # two units in the last place, as the PTX manual allows
_ZERO, _ONE = np.float32(0), np.float32(1)
_INFINITY, _NAN = np.float32(np.inf), np.float32(np.nan)


def exp2(value: Any) -> Any:
    """As far from the truth as the instruction may be, one way or the other."""
    if type(value) is not np.float32:
        value = np.float32(value)
    exponent = float(value)
    if exponent < -126.0:
        return _ZERO
    if exponent >= 128.0:
        return _INFINITY
    if abs(exponent) < 2.0**-126:
        return _ONE
    if exponent != exponent:
        return _NAN
    error = _ERROR if int(exponent * 1048573.0) & 1 else -_ERROR
    result = math.exp2(exponent) * (1.0 + error)
    # a product with a Python float is rounded once, and faster than numpy.float32(...)
    return _ONE * result if result >= 2.0**-126 else _ZERO


def reciprocal(value: Any) -> Any:
    """With the upper half of the bits alone, as the instruction gives it."""
    number = float(np.float64(value))
    if abs(number) < 2.0**-1022:
        return np.float64(math.copysign(math.inf, number))
    _slot[0] = 1.0 / number
    _slot_u32[0] = 0
    return _slot[0]


def max_f32(a: Any, b: Any) -> Any:
    if type(a) is not np.float32 or type(b) is not np.float32:
        a, b = np.float32(a), np.float32(b)
    return a if a >= b or b != b else b


def max_f64(a: Any, b: Any) -> Any:
    if type(a) is not np.float64 or type(b) is not np.float64:
        a, b = np.float64(a), np.float64(b)
    return a if a >= b or b != b else b
