"""From logits as they are stored to z, and from results to how they are stored.

Kernels know the compute dtype only: a block of a row is prepared for them while it lies in L1. What
is not contiguous is copied first, bits as they are, next to each other. The C++ twin is
src_cython/transform.hpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arithmetic import (
    fma,
    largest,
    like,
    maximum,
    splat,
    where_equal,
)
from fastxent.backends.numba_cpu.elementary import tanh_of
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import address_of, lane_count, load, pointer, stack, store
from fastxent.backends.numba_cpu.matrix import BRAIN, BYTE, DOUBLE, HALF, item_size

__all__ = [
    "collect",
    "deliver",
    "distribute",
    "number_of",
    "numbers_of",
    "prepare",
    "prepare_mass",
    "put_number",
    "rounded_to",
    "slope",
    "slope_of",
    "transform",
]


@inlined
def copied(x: Any, ignored: Any, other: Any) -> Any:
    """The lanes as they are."""
    return x


@inlined
def scaled(x: Any, inner: Any, cap: Any) -> Any:
    """logit_scale * x."""
    return inner * x


@inlined
def bound(x: Any, inner: Any, cap: Any) -> Any:
    """softcap * tanh(logit_scale * x / softcap), where -inf stays -inf.

    A class that is masked has no mass to gain.
    """
    return where_equal(x, like(x, -np.inf), x, cap * tanh_of(inner * x))


@inlined
def changed(source: Any, n: int, to: Any, change: Any, inner: Any, cap: Any, zero: Any) -> Any:
    """n numbers, each changed, to `to`; give the largest, which NaN never is."""
    step = lane_count(zero)
    whole, fours = n - n % step, n - n % (4 * step)
    a = b = c = d = splat(-np.inf, zero)
    for k in range(0, fours, 4 * step):
        x = change(load(source, k, None, 0.0, zero), inner, cap)
        store(to, k, None, x)
        a = maximum(x, a)
        x = change(load(source, k + step, None, 0.0, zero), inner, cap)
        store(to, k + step, None, x)
        b = maximum(x, b)
        x = change(load(source, k + 2 * step, None, 0.0, zero), inner, cap)
        store(to, k + 2 * step, None, x)
        c = maximum(x, c)
        x = change(load(source, k + 3 * step, None, 0.0, zero), inner, cap)
        store(to, k + 3 * step, None, x)
        d = maximum(x, d)
    for k in range(fours, whole, step):
        x = change(load(source, k, None, 0.0, zero), inner, cap)
        store(to, k, None, x)
        a = maximum(x, a)
    if whole < n:
        some = n - whole
        x = change(load(source, whole, some, -np.inf, zero), inner, cap)
        store(to, whole, some, x)
        a = maximum(x, a)
    return np.float64(largest(maximum(maximum(a, b), maximum(c, d))))


@once
def converted(source: int, kind: int, n: int, to: Any, element: Any, of_any: Any, zero: Any) -> Any:
    """n numbers, side by side, in the compute dtype; give the largest.

    `element` is one of the dtype in which they are stored, where `of_any` is None; else the kind
    tells, and all are compiled.
    """
    none = splat(0.0, zero)
    if of_any is not None:
        if kind == BRAIN:
            return changed(pointer(source, 0, np.uint16(0)), n, to, copied, none, none, zero)
        if kind == HALF:
            return changed(pointer(source, 0, np.int16(0)), n, to, copied, none, none, zero)
        if kind == BYTE:
            return changed(pointer(source, 0, np.uint8(0)), n, to, copied, none, none, zero)
        if kind == DOUBLE:
            return changed(pointer(source, 0, 0.0), n, to, copied, none, none, zero)
        numbers = pointer(source, 0, np.float32(0))
        return changed(numbers, n, to, copied, none, none, zero)
    return changed(pointer(source, 0, element), n, to, copied, none, none, zero)


@once
def transform(p: Any, source: Any, n: int, z: Any, zero: Any) -> Any:
    """z from n logits, which may lie in its place; give the largest."""
    if p.softcap != 0.0:
        inner, cap = splat(p.logit_scale / p.softcap, zero), splat(p.softcap, zero)
        return changed(source, n, z, bound, inner, cap, zero)
    inner = splat(p.logit_scale, zero)
    return changed(source, n, z, scaled, inner, inner, zero)


@inlined
def collect(source: int, stride: int, n: int, to: Any, element: Any) -> None:
    """n numbers that lie a stride apart, side by side."""
    numbers = pointer(to, 0, element)
    for k in range(n):
        numbers[k] = pointer(source + k * stride, 0, element)[0]


@inlined
def distribute(source: Any, n: int, to: int, stride: int, element: Any) -> None:
    """n numbers from side by side to places a stride apart."""
    numbers = pointer(source, 0, element)
    for k in range(n):
        pointer(to + k * stride, 0, element)[0] = numbers[k]


@once
def collected(
    source: int, kind: int, stride: int, n: int, to: Any, element: Any, of_any: Any
) -> None:
    """collect; see converted."""
    if of_any is not None:
        size = item_size(kind)
        if size == 2:
            collect(source, stride, n, to, np.uint16(0))
        elif size == 1:
            collect(source, stride, n, to, np.uint8(0))
        elif size == 8:
            collect(source, stride, n, to, np.uint64(0))
        else:
            collect(source, stride, n, to, np.uint32(0))
        return
    collect(source, stride, n, to, element)


@once
def distributed(
    source: Any, kind: int, n: int, to: int, stride: int, element: Any, of_any: Any
) -> None:
    """distribute; see converted."""
    if of_any is not None:
        size = item_size(kind)
        if size == 2:
            distribute(source, n, to, stride, np.uint16(0))
        elif size == 8:
            distribute(source, n, to, stride, np.uint64(0))
        else:
            distribute(source, n, to, stride, np.uint32(0))
        return
    distribute(source, n, to, stride, element)


@once
def numbers_of(
    matrix: Any, row: int, begin: int, n: int, to: Any, element: Any, of_any: Any, zero: Any
) -> Any:
    """n numbers of a row, which begins at the address `row`, from class `begin` on; the largest."""
    kind, stride = matrix.kind, matrix.class_stride
    source = row + begin * stride
    if stride == item_size(kind):
        return converted(source, kind, n, to, element, of_any, zero)
    block, top = stack(BLOCK, 0.0), -np.inf
    for first in range(0, n, BLOCK):
        some = min(n - first, BLOCK)
        collected(source + first * stride, kind, stride, some, block, element, of_any)
        there = pointer(to, first, zero)
        here = converted(address_of(block), kind, some, there, element, of_any, zero)
        top = here if here > top else top
    return top


@once
def prepare(p: Any, row: int, begin: int, n: int, to: Any, element: Any, zero: Any) -> Any:
    """z of the classes from `begin` on of a row of logits, and their maximum."""
    transforms, stride = p.softcap != 0.0 or p.logit_scale != 1.0, p.logits.class_stride
    if transforms and stride == item_size(p.logits.kind):
        return transform(p, pointer(row + begin * stride, 0, element), n, to, zero)
    top = numbers_of(p.logits, row, begin, n, to, element, None, zero)
    return transform(p, to, n, to, zero) if transforms else top


@inlined
def number_of(p: Any, row: int, k: int, element: Any, zero: Any) -> Any:
    """z of one class."""
    place = stack(16, zero)
    prepare(p, row, k, 1, place, element, zero)
    return np.float64(place[0])


@once
def prepare_mass(p: Any, row: int, begin: int, n: int, to: Any, zero: Any) -> None:
    """t = background + gain * q of the classes from `begin` on of a row of probabilities."""
    numbers_of(p.soft, row, begin, n, to, zero, 0.0, zero)
    if p.gain == 0:
        return
    step = lane_count(zero)
    gain_step, background_step = p.gain_step, p.background_step
    gain = pointer(p.gain, begin * gain_step, zero)
    background = pointer(p.background, begin * background_step, zero)
    whole = n - n % step
    for k in range(0, whole, step):
        factor = load(gain, k * gain_step, None, 0.0, zero)
        term = load(background, k * background_step, None, 0.0, zero)
        store(to, k, None, fma(factor, load(to, k, None, 0.0, zero), term))
    if whole < n:
        some = n - whole
        factor = load(gain, whole * gain_step, some, 0.0, zero)
        term = load(background, whole * background_step, some, 0.0, zero)
        store(to, whole, some, fma(factor, load(to, whole, some, 0.0, zero), term))


@inlined
def rounded_to(source: Any, factor: float, n: int, to: Any, zero: Any) -> None:
    """`factor` times n numbers, side by side, to numbers of another dtype."""
    step, factors = lane_count(zero), splat(factor, zero)
    whole = n - n % step
    for k in range(0, whole, step):
        store(to, k, None, load(source, k, None, 0.0, zero) * factors)
    if whole < n:
        some = n - whole
        store(to, whole, some, load(source, whole, some, 0.0, zero) * factors)


@once
def rounded(
    source: Any, factor: float, n: int, to: int, kind: int, element: Any, of_any: Any, zero: Any
) -> None:
    """`factor` times n numbers, side by side, to numbers as they are stored; see converted."""
    if of_any is not None:
        if kind == BRAIN:
            rounded_to(source, factor, n, pointer(to, 0, np.uint16(0)), zero)
        elif kind == HALF:
            rounded_to(source, factor, n, pointer(to, 0, np.int16(0)), zero)
        elif kind == DOUBLE:
            rounded_to(source, factor, n, pointer(to, 0, 0.0), zero)
        else:
            rounded_to(source, factor, n, pointer(to, 0, np.float32(0)), zero)
        return
    rounded_to(source, factor, n, pointer(to, 0, element), zero)


@once
def deliver(
    source: Any, factor: float, n: int, matrix: Any, row: int, begin: int, element: Any,
    of_any: Any, zero: Any,
) -> None:  # fmt: skip
    """`factor` times n numbers to the classes from `begin` on of a row; see converted."""
    kind, stride = matrix.kind, matrix.class_stride
    to = row + begin * stride
    if stride == item_size(kind):
        rounded(source, factor, n, to, kind, element, of_any, zero)
        return
    block = stack(BLOCK, 0.0)
    for first in range(0, n, BLOCK):
        some = min(n - first, BLOCK)
        numbers = pointer(source, first, zero)
        rounded(numbers, factor, some, address_of(block), kind, element, of_any, zero)
        distributed(block, kind, some, to + first * stride, stride, element, of_any)


@inlined
def put_number(row: int, stride: int, k: int, number: float, element: Any, zero: Any) -> None:
    """Write one number of a row.

    Not as the first of some lanes: LLVM 20 makes one store of 32 bits of a masked store of lanes of
    16 bits whose mask is constant, and so writes over the number behind.
    """
    block = stack(16, element)
    store(block, 0, None, splat(number, zero))
    distribute(block, 1, row + k * stride, stride, element)


@inlined
def slope_of(z: Any, inverse_cap: Any) -> Any:
    """dz / (logit_scale dx) under a soft cap, which is 0 at -inf."""
    share = z * inverse_cap
    return maximum(like(z, 1.0) - share * share, like(z, 0.0))


@once
def slope(p: Any, grad: Any, z: Any, n: int, zero: Any) -> None:
    """The gradient with respect to z becomes that with respect to the logits."""
    step, inverse_cap = lane_count(zero), splat(1.0 / p.softcap, zero)
    whole = n - n % step
    for k in range(0, whole, step):
        factor = slope_of(load(z, k, None, 0.0, zero), inverse_cap)
        store(grad, k, None, load(grad, k, None, 0.0, zero) * factor)
    if whole < n:
        some = n - whole
        factor = slope_of(load(z, whole, some, 0.0, zero), inverse_cap)
        store(grad, whole, some, load(grad, whole, some, 0.0, zero) * factor)
