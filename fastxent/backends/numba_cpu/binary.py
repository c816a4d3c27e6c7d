"""Loss and gradient of elements that are each a choice of two, in one pass: the verb binary.

The C++ twin is src_cython/binary.hpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.contract import CHUNK_ELEMENTS
from fastxent.backends.numba_cpu.arithmetic import (
    eight_lanes,
    emitted,
    fma,
    fms,
    maximum,
    splat,
    where_nonzero,
    widened,
)
from fastxent.backends.numba_cpu.body import Body
from fastxent.backends.numba_cpu.elementary import exp_of_negative
from fastxent.backends.numba_cpu.elements import ELEMENT_BLOCK, direct, fetch, write_back
from fastxent.backends.numba_cpu.fields import binary_at
from fastxent.backends.numba_cpu.jit import inlined, once, serial
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, stack, store
from fastxent.backends.numba_cpu.long_sum import value_of, value_of_lanes, with_number
from fastxent.backends.numba_cpu.vector import Vector, constant, is_single

__all__ = ["BINARY", "binary_summary"]


# log(1 + e) = 2 atanh(s) = 2 s + s^3 Q(s^2) with s = e / (2 + e), which is at most 1/3; Q fitted on
# Chebyshev nodes: truncated at 0.01 ULP (float32, 5 terms; 4 leave 0.26) and 0.04 (float64, 10).
_Q_FLOAT32 = (2.32243292e-1, 2.17065758e-1, 2.8592358e-1, 3.99997063e-1, 6.66666673e-1)
_Q_FLOAT64 = (
    *(1.6164045611943532e-1, 8.8007384861446739e-2, 1.2001072809590713e-1),
    *(1.3314144209654936e-1, 1.5385570064958623e-1, 1.8181789436132858e-1),
    *(2.2222222717427863e-1, 2.8571428567108757e-1, 4.0000000000014583e-1),
    6.6666666666666659e-1,
)


@emitted
def log1p_of_unit(e: Vector) -> Vector:
    """log(1 + e) of 0 <= e <= 1, or NaN."""
    polynomial = _Q_FLOAT32 if is_single(e) else _Q_FLOAT64
    s = e / (e + e.like(2.0))
    z = s * s
    q = e.like(polynomial[0])
    for coefficient in polynomial[1:]:
        q = q.times_plus(z, e.like(coefficient))
    return (s * z).times_plus(q, s + s)


@emitted
def minus_size(x: Vector) -> Vector:
    """-|x|."""
    bits = x.bits()
    return x.with_bits(x.builder.or_(bits, constant(bits.type, _sign_of(x))))


@emitted
def where_minus(x: Vector, value: Vector, otherwise: Vector) -> Vector:
    """`value` where the sign of x is set, else `otherwise`."""
    bits = x.bits()
    is_set = x.builder.icmp_signed("<", bits, constant(bits.type, 0))
    return Vector(x.builder, x.builder.select(is_set, value.value, otherwise.value))


@emitted
def plus_where_minus(x: Vector, value: Vector) -> Vector:
    """`value` where the sign of x is set, else -value."""
    builder, bits = x.builder, x.bits()
    flip = builder.and_(builder.not_(bits), constant(bits.type, _sign_of(x)))
    return value.with_bits(builder.xor(value.bits(), flip))


def _sign_of(x: Vector) -> int:
    return 1 << (31 if is_single(x) else 63)


class Block(NamedTuple):
    """The operands of a block: numbers, or a constant that fills 64 bytes and has step 0."""

    logits: Any
    target: Any
    ones: Any
    ones_step: Any
    factor: Any
    factor_step: Any
    upstream: Any
    upstream_step: Any
    gain: Any
    background: Any
    loss: Any
    grad: Any
    proba: Any
    hess: Any


@inlined
def loss_of_lanes(p: Any, b: Block, k: int, some: Any, plain: Any, zero: Any) -> Any:
    """Loss of some elements; their gradient is stored.

    What masses on 1 and on 0 make of a logit x, from e = exp(-|x|), which cannot overflow; `linear`
    is that on 0 where x has no sign, else that on 1, and `other` the other one:
        loss = (positive + negative) * log(1 + e) - linear * -|x|
        grad = (other * e - linear) / (1 + e) where x has a sign, else minus that
    A side without mass counts for nothing, be its logarithm infinite. With `plain` nothing is
    weighed or smoothed: the mass of each element is 1. sigma(x) is 1 or e over 1 + e.
    """
    none, one = splat(0.0, zero), splat(1.0, zero)
    y = load(b.target, k, some, zero, zero)
    if plain is None:
        x = load(b.logits, k, some, zero, zero)
        ones = load(b.ones, k * b.ones_step, some, zero, zero)
        positive = ones * fma(b.gain, y, b.background)
        negative = fma(b.gain, one - y, b.background)
        # a factor of 0 past the end: there is no loss
        factor = load(b.factor, k * b.factor_step, some, zero, zero)
    else:
        # -inf past the end: there is no loss at 0
        x = load(b.logits, k, some, -np.inf, zero)
        positive, negative, factor = y, one - y, one
    minus = minus_size(x)
    e = exp_of_negative(minus)
    linear = where_minus(x, positive, negative)
    rest = where_nonzero(linear, linear * minus, none)
    log = log1p_of_unit(e)
    loss = factor * fms(positive + negative, log, rest) if plain is None else log - rest
    if p.grad != 0 or p.proba != 0 or p.hess != 0:
        other = where_minus(x, negative, positive)
        side = plus_where_minus(x, fms(other, e, linear))
        upstream = load(b.upstream, k * b.upstream_step, some, zero, zero)
        scale = factor * upstream
        if p.grad != 0:
            store(b.grad, k, some, scale * side / (one + e))
        if p.proba != 0:
            store(b.proba, k, some, where_minus(x, e, one) / (one + e))
        if p.hess != 0:
            share = where_minus(x, e, one) / (one + e) * (where_minus(x, one, e) / (one + e))
            if p.hess_is_distance != 0:
                share = none - minus_size(side / (one + e))
            floor, hess_factor = splat(p.hess_floor, zero), splat(p.hess_factor, zero)
            store(b.hess, k, some, maximum(floor, share * (scale * hess_factor)))
    if p.loss != 0:
        store(b.loss, k, some, loss)
    return widened(loss)


@inlined
def plus_lanes(total: Any, loss: Any, zero: Any) -> Any:
    """The sum with the losses of some elements, of which there may be twice as many as lanes."""
    total = total + eight_lanes(loss, 0)
    return total + eight_lanes(loss, 8) if lane_count(zero) == 16 else total


@once
def block_of(p: Any, b: Block, count: int, plain: Any, zero: Any) -> Any:
    """Sum of the losses of a block: four chains of lanes, as for_lanes in lanes.hpp has them."""
    step = lane_count(zero)
    first, second, third, fourth = (
        splat(0.0, 0.0),
        splat(0.0, 0.0),
        splat(0.0, 0.0),
        splat(0.0, 0.0),
    )
    k = 0
    while k + 4 * step <= count:
        first = plus_lanes(first, loss_of_lanes(p, b, k, None, plain, zero), zero)
        k += step
        second = plus_lanes(second, loss_of_lanes(p, b, k, None, plain, zero), zero)
        k += step
        third = plus_lanes(third, loss_of_lanes(p, b, k, None, plain, zero), zero)
        k += step
        fourth = plus_lanes(fourth, loss_of_lanes(p, b, k, None, plain, zero), zero)
        k += step
    while k + step <= count:
        first = plus_lanes(first, loss_of_lanes(p, b, k, None, plain, zero), zero)
        k += step
    if k < count:
        first = plus_lanes(first, loss_of_lanes(p, b, k, count - k, plain, zero), zero)
    return (first + second) + (third + fourth)


@inlined
def begin_factor(array: int, constant: float, buffer: Any, zero: Any) -> Any:
    """A factor that is the same everywhere fills the beginning of its buffer; its step."""
    if array != 0:
        return 1
    store(buffer, 0, None, splat(constant, zero))
    return 0


@inlined
def factor_in(p: Any, array: int, strides: int, begin: int, count: int, buffer: Any) -> Any:
    """Pointer to a factor's numbers, or to the constant."""
    if array == 0:
        return buffer
    place, _ = fetch(p, array, p.compute_kind, strides, begin, count, buffer)
    return pointer(place, 0, buffer[0])


@inlined
def destination(
    p: Any, array: int, kind: int, strides: int, begin: int, count: int, buffer: Any
) -> Any:
    """Pointer to where numbers go as they are, or to the buffer; and whether it is the buffer."""
    if array == 0:
        return buffer, False
    place = direct(p, array, kind, strides, begin, count)
    if place != 0:
        return pointer(place, 0, buffer[0]), False
    return buffer, True


@once
def binary_chunk(p: Any, chunk: int, zero: Any) -> None:
    """Elements of one chunk; their loss, and whether a target is bad."""
    own_logits, own_target = stack(ELEMENT_BLOCK, zero), stack(ELEMENT_BLOCK, zero)
    own_ones, own_factor = stack(ELEMENT_BLOCK, zero), stack(ELEMENT_BLOCK, zero)
    own_upstream, own_loss = stack(ELEMENT_BLOCK, zero), stack(ELEMENT_BLOCK, zero)
    own_grad, own_proba = stack(ELEMENT_BLOCK, zero), stack(ELEMENT_BLOCK, zero)
    own_hess = stack(ELEMENT_BLOCK, zero)
    ones_step = begin_factor(p.ones, p.ones_constant, own_ones, zero)
    factor_step = begin_factor(p.factor, p.factor_constant, own_factor, zero)
    upstream_step = begin_factor(p.upstream, p.upstream_constant, own_upstream, zero)
    computes = p.total != 0 or p.loss != 0 or p.grad != 0 or p.proba != 0 or p.hess != 0
    plain = (p.ones == 0 and p.factor == 0 and p.gain == 1.0 and p.background == 0.0) and (
        p.ones_constant == 1.0 and p.factor_constant == 1.0
    )
    total = splat(0.0, 0.0), splat(0.0, 0.0)
    bad = np.int64(0)
    end = min((chunk + 1) * CHUNK_ELEMENTS, p.elements)
    for begin in range(chunk * CHUNK_ELEMENTS, end, ELEMENT_BLOCK):
        count = min(ELEMENT_BLOCK, end - begin)
        target, seen = fetch(p, p.target, p.target_kind, p.target_strides, begin, count, own_target)
        bad |= seen
        if not computes:
            continue
        logits, _ = fetch(p, p.logits, p.logits_kind, p.logits_strides, begin, count, own_logits)
        loss, loss_waits = destination(
            p, p.loss, p.compute_kind, p.loss_strides, begin, count, own_loss
        )
        grad, grad_waits = destination(
            p, p.grad, p.logits_kind, p.grad_strides, begin, count, own_grad
        )
        proba, proba_waits = destination(
            p, p.proba, p.logits_kind, p.proba_strides, begin, count, own_proba
        )
        hess, hess_waits = destination(
            p, p.hess, p.logits_kind, p.hess_strides, begin, count, own_hess
        )
        block = Block(
            pointer(logits, 0, zero),
            pointer(target, 0, zero),
            factor_in(p, p.ones, p.ones_strides, begin, count, own_ones),
            ones_step,
            factor_in(p, p.factor, p.factor_strides, begin, count, own_factor),
            factor_step,
            factor_in(p, p.upstream, p.upstream_strides, begin, count, own_upstream),
            upstream_step,
            splat(p.gain, zero),
            splat(p.background, zero),
            loss,
            grad,
            proba,
            hess,
        )
        if plain:
            total = with_number(total, block_of(p, block, count, 0.0, zero))
        else:
            total = with_number(total, block_of(p, block, count, None, zero))
        if loss_waits:
            write_back(p, p.loss, p.compute_kind, p.loss_strides, begin, count, own_loss)
        if grad_waits:
            write_back(p, p.grad, p.logits_kind, p.grad_strides, begin, count, own_grad)
        if proba_waits:
            write_back(p, p.proba, p.logits_kind, p.proba_strides, begin, count, own_proba)
        if hess_waits:
            write_back(p, p.hess, p.logits_kind, p.hess_strides, begin, count, own_hess)
    pointer(p.found, 2 * chunk, 0.0)[0] = value_of_lanes(total)
    pointer(p.found, 2 * chunk + 1, np.int64(0))[0] = bad


@inlined
def summary(p: Any) -> Any:
    """Add up the chunks in their order; whether a target is bad."""
    total, bad = (0.0, 0.0), np.int64(0)
    for chunk in range(p.chunks):
        total = with_number(total, pointer(p.found, 2 * chunk, 0.0)[0])
        bad |= pointer(p.found, 2 * chunk + 1, np.int64(0))[0]
    if p.total != 0:
        pointer(p.total, 0, 0.0)[0] = value_of(total)
    return bad != 0


@Body
def BINARY(zero: Any) -> Callable[..., Any]:
    """Elements of a chunk."""

    def binary(place: int, other: int, chunk: int, scratch: int) -> Any:
        binary_chunk(binary_at(place), chunk, zero)
        return 0.0

    return binary


@serial
def binary_summary(place: int) -> Any:
    """Put the sum of all losses; whether a target is bad."""
    return summary(binary_at(place))
