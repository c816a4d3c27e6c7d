"""exp, tanh and log on lanes, in the ranges that a softmax needs; the C++ twin is elementary.hpp.

exp(x) = 2^k * exp(r) with k = round(x / ln 2) and |r| <= ln(2) / 2 (Cody and Waite, "Software
Manual for the Elementary Functions", 1980). Adding `magic` rounds to an integer and leaves
k + bias in the low bits, which a shift turns into the number 2^k. exp(r) = 1 + r * P(r), P fitted
on Chebyshev nodes: truncated at 0.09 ULP (float32, 6 terms; 5 leave 1.7) and 0.05 (float64, 11).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from llvmlite import ir

from fastxent.backends.numba_cpu.arithmetic import emitted
from fastxent.backends.numba_cpu.vector import Vector, constant

__all__ = ["at_least_lowest", "exp_of_negative", "log_of_sum", "tanh_of"]


class _Constants(NamedTuple):
    lowest: float  # below it k is -bias and the bits of 2^k are 0
    magic: float
    mantissa: int
    ln2_high: float
    ln2_low: float
    polynomial: tuple[float, ...]  # highest power first


_FLOAT32 = _Constants(
    lowest=-88.0,
    magic=1.5 * 2**23 + 127,
    mantissa=23,
    ln2_high=0.693359375,
    ln2_low=-2.12194440e-4,
    polynomial=(1.39336858e-3, 8.3691841e-3, 4.1666463e-2, 1.66665167e-1, 0.5, 1.0),
)

_FLOAT64 = _Constants(
    lowest=-709.0,
    magic=1.5 * 2**52 + 1023,
    mantissa=52,
    ln2_high=6.93147180369123816490e-01,
    ln2_low=1.90821492927058770002e-10,
    polynomial=(
        2.5105259538448494e-08,
        2.7626426376580335e-07,
        2.7557255297969643e-06,
        2.4801504180837137e-05,
        1.9841269874901259e-04,
        1.3888888932619635e-03,
        8.3333333333261116e-03,
        4.1666666666572767e-02,
        1.6666666666666666e-01,
        5.0000000000000056e-01,
        1.0,
    ),
)


def _constants_of(x: Vector) -> _Constants:
    kind = x.value.type
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    return _FLOAT32 if isinstance(element, ir.FloatType) else _FLOAT64


def _exp_parts(x: Vector) -> tuple[Vector, Vector, Vector]:
    """2^k, P(r) and r: exp(x) is 2^k * (1 + r * P(r))."""
    c = _constants_of(x)
    x = x.like(c.lowest).or_larger(x)
    magic = x.like(c.magic)
    shifted = x.times_plus(x.like(1.4426950408889634), magic)
    k = shifted - magic
    r = k.times_plus(x.like(-c.ln2_high), x)
    r = k.times_plus(x.like(-c.ln2_low), r)
    p = x.like(c.polynomial[0])
    for coefficient in c.polynomial[1:]:
        p = p.times_plus(r, x.like(coefficient))
    bits = shifted.bits()
    power = x.with_bits(x.builder.shl(bits, constant(bits.type, c.mantissa)))
    return power, p, r


@emitted
def exp_of_negative(x: Vector) -> Vector:
    """exp of x <= 0: exactly 1 at 0, exactly 0 at -inf and where k is -bias; NaN of NaN.

    Nothing else may be passed: there is no upper bound.
    """
    power, p, r = _exp_parts(x)
    return p.times_plus(r, x.like(1.0)) * power


@emitted
def tanh_of(x: Vector) -> Vector:
    """tanh of any number, from exp(-2|x|) - 1, which keeps its digits near 0."""
    below = x + x
    above = x.like(0.0) - below
    power, p, r = _exp_parts(below.where_less(below, above, above))
    less_one = (p * r).times_plus(power, power - x.like(1.0))
    size = less_one / (less_one + x.like(2.0))  # -tanh|x|
    return size.where_less(below, above, x.like(0.0) - size)


@emitted
def at_least_lowest(x: Vector) -> Vector:
    """x, or the number below which exp is 0 if that is larger; x where it is NaN."""
    return x.like(_constants_of(x).lowest).or_larger(x)


_ONE, _ROOT_HALF = 0x3FF0000000000000, 0x3FE6A09E667F3BCD  # the bits of 1 and of sqrt(1/2)


@emitted
def log_of_sum(x: Vector) -> Vector:
    """log of float64 numbers that are normal, 0 (which gives -inf) or NaN: below 1 ULP.

    log(x) = k * ln 2 + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and log(1 + f) from the
    series of atanh(f / (2 + f)): the method and the coefficients of fdlibm (Sun Microsystems, 1993,
    e_log.c).
    """
    builder, bits = x.builder, x.bits()

    def whole(number: int) -> Any:
        return constant(bits.type, number)

    moved = builder.add(bits, whole(_ONE - _ROOT_HALF))
    fraction = builder.add(builder.and_(moved, whole((1 << 52) - 1)), whole(_ROOT_HALF))
    f = x.with_bits(fraction) - x.like(1.0)
    # an exponent of 0 to 2047 becomes a double by its bits: AVX2 has no conversion for 64 bits
    exponent = builder.or_(builder.ashr(moved, whole(52)), whole(0x4330000000000000))
    k = x.with_bits(exponent) - x.like(4503599627370496.0 + 1023.0)
    s = f / (f + x.like(2.0))
    z = s * s
    w = z * z
    even = w.times_plus(x.like(1.531383769920937332e-01), x.like(2.222219843214978396e-01))
    even = w.times_plus(even, x.like(3.999999999940941908e-01)) * w
    odd = w.times_plus(x.like(1.479819860511658591e-01), x.like(1.818357216161805012e-01))
    odd = w.times_plus(odd, x.like(2.857142874366239149e-01))
    odd = w.times_plus(odd, x.like(6.666666666666735130e-01)) * z
    half_square = f * f * x.like(0.5)
    low = k * x.like(_FLOAT64.ln2_low)
    near_one = s.times_plus(half_square + (odd + even), low) - half_square + f
    log = k.times_plus(x.like(_FLOAT64.ln2_high), near_one)
    # x * 0 hands a NaN on
    return (log + x * x.like(0.0)).where_nonzero(x, x.like(-math.inf))
