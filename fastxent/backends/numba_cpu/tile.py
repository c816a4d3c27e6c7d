"""The arithmetic of many rows at once: a row in each lane, and the formulas of row.py.

The C++ twin is src_cython/tile.hpp. A tile is memory with a set of lanes for each class: z of as
many rows as there are lanes, their exponentials, their masses.
"""

# ruff: noqa: SIM102 (Numba leaves out what stands behind a bare `is not None`: see kernels.py)

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.contract import TILE_CLASSES
from fastxent.backends.numba_cpu.arithmetic import (
    fma,
    like,
    maximum,
    splat,
    splat_wide,
    where_equal,
    where_nonzero,
    widened,
)
from fastxent.backends.numba_cpu.elementary import at_least_lowest, exp_of_negative
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, prefetch, stack, store
from fastxent.backends.numba_cpu.long_sum import value_of_each, with_number
from fastxent.backends.numba_cpu.row import grad_of
from fastxent.backends.numba_cpu.target import mass_at
from fastxent.backends.numba_cpu.transform import slope_of
from fastxent.backends.numba_cpu.transpose import scatter_classes

__all__ = [
    "Ahead",
    "Closing",
    "TileSums",
    "put_at_labels",
    "tile_argmax",
    "tile_close",
    "tile_forward",
    "tile_grad",
    "tile_log_proba",
    "tile_spread",
]


# Classes whose masses are added up in the compute dtype before they join a sum in double, which
# takes six instructions for every 16 floats. Exponentials join one by one: a loss of 1e-9 is what
# is left of 1.
_CHAIN = 8

# Where a tile has more classes than TILE_CLASSES, the sums in double are compensated after so many:
# in float64 one chain of 1,030 was 120 roundings off.
_PIECE = 32


class TileSums(NamedTuple):
    """Of each row, lane by lane; see finish.RowNumbers."""

    max: Any
    # added up in double: a row's numbers meet in one lane, where those of a long row keep to 16
    sum: Any
    mass: Any
    dot: Any
    at_label: Any
    exp_at_label: Any
    mass_at_label: Any


class Ahead(NamedTuple):
    """What is fetched while a tile is computed: addresses, and bytes from class to class."""

    read: Any
    read_step: Any
    write: Any
    write_step: Any


@inlined
def shift_of_rows(top: Any) -> Any:
    """As shift_of: nothing is taken relative to -inf."""
    return where_equal(top, like(top, -np.inf), like(top, 0.0), top)


@inlined
def at_labels(numbers: Any, step: int, labels: Any, of_lane: int, zero: Any) -> Any:
    """What lies at the labels, in lane r or at the beginning of a class; 0 where there is none.

    Number by number, not by comparing each class with all labels.
    """
    found = stack(16, zero)
    for r in range(lane_count(zero)):
        label = labels[r]
        found[r] = numbers[label * step + r * of_lane] if label >= 0 else zero
    return load(found, 0, None, 0.0, zero)


@inlined
def tile_forward(
    p: Any, z: Any, exps: Any, target: Any, labels: Any, ahead: Ahead, massed: Any, of_soft: Any,
    prepared: Any, zero: Any,
) -> TileSums:  # fmt: skip
    """Exponentials, and the sums of each row."""
    step, classes, nothing = lane_count(zero), p.classes, splat(0.0, zero)
    top = splat(-np.inf, zero)
    for k in range(classes):
        top = maximum(load(z, k * step, None, 0.0, zero), top)
    shift = shift_of_rows(top)
    none = splat_wide(0.0, zero)
    total = mass = dot = none
    totals = masses = dots = none, none
    at_label = exp_at_label = mass_at_label = nothing
    if of_soft is None:
        at_label = at_labels(z, step, labels, 1, zero)
    piece = classes if classes <= TILE_CLASSES else _PIECE
    for begin in range(0, classes, piece):
        total = mass = dot = none
        end = min(classes, begin + piece)
        for first in range(begin, end, _CHAIN):
            some_mass = some_dot = nothing
            for k in range(first, min(end, first + _CHAIN)):
                # a tile reads and writes in bursts, and memory would wait while this loop computes
                # (40000x100: 65 ns a row instead of 119)
                prefetch(pointer(ahead.read + k * ahead.read_step, 0, zero), 0, 0)
                prefetch(pointer(ahead.write + k * ahead.write_step, 0, zero), 0, 1)
                shifted = load(z, k * step, None, 0.0, zero) - shift
                e = exp_of_negative(shifted)
                store(exps, k * step, None, e)
                total = total + widened(e)
                if massed is not None:
                    t = mass_at(target, k, None, zero)
                    some_mass = some_mass + t
                    # no mass, no loss: 0 * -inf must not become NaN
                    some_dot = where_nonzero(t, fma(t, shifted, some_dot), some_dot)
            if massed is not None:
                mass, dot = mass + widened(some_mass), dot + widened(some_dot)
        if prepared is not None:
            if classes > TILE_CLASSES:
                totals = with_number(totals, total)
                if massed is not None:
                    masses, dots = with_number(masses, mass), with_number(dots, dot)
    if prepared is not None:
        if classes > TILE_CLASSES:
            total, mass, dot = value_of_each(totals), value_of_each(masses), value_of_each(dots)
    if of_soft is None:
        exp_at_label = at_labels(exps, step, labels, 1, zero)
        if massed is not None:
            background = pointer(p.background, 0, zero)
            mass_at_label = at_labels(background, p.background_step, labels, 0, zero)
    return TileSums(top, total, mass, dot, at_label, exp_at_label, mass_at_label)


@once
def tile_spread(z: Any, exps: Any, classes: int, tops: Any, to: Any, zero: Any) -> None:
    """Sum of exp(z - m) * (z - m) of each row; `tops` has the maxima."""
    step = lane_count(zero)
    shift = shift_of_rows(load(tops, 0, None, 0.0, zero))
    none = splat_wide(0.0, zero)
    spreads = none, none
    for begin in range(0, classes, _PIECE):
        spread = none
        for k in range(begin, min(classes, begin + _PIECE)):
            shifted = at_least_lowest(load(z, k * step, None, 0.0, zero) - shift)
            spread = spread + widened(load(exps, k * step, None, 0.0, zero) * shifted)
        spreads = with_number(spreads, spread)
    store(to, 0, None, value_of_each(spreads))


@once
def tile_argmax(z: Any, classes: int, tops: Any, to: Any, zero: Any) -> None:
    """The first class that holds the maximum of each row; 0 where nothing but NaN is there."""
    step, top = lane_count(zero), load(tops, 0, None, 0.0, zero)
    found = splat(0.0, zero)
    for k in range(classes - 1, -1, -1):
        found = where_equal(load(z, k * step, None, 0.0, zero), top, splat(k, zero), found)
    store(to, 0, None, found)


class Closing(NamedTuple):
    """What a gradient is made of, lane by lane.

    It is scale * (factor * exp - t), or factor * exp where there is no such t.
    """

    factor: Any
    scale: Any
    target: Any


@inlined
def grad_at(exps: Any, k: int, what: Closing, massed: Any, zero: Any) -> Any:
    """Gradient with respect to z, of class k but for the label."""
    e = load(exps, k * lane_count(zero), None, 0.0, zero)
    if massed is not None:
        return grad_of(e, what.factor, mass_at(what.target, k, None, zero), what.scale)
    return e * what.factor


@inlined
def tile_grad(
    p: Any, z: Any, exps: Any, what: Closing, to: int, stride: int, massed: Any, element: Any,
    zero: Any,
) -> None:  # fmt: skip
    """Gradients from exponentials, so many bytes a class, to numbers like `element`."""
    step, capped = lane_count(zero), p.softcap != 0.0
    inverse_cap = splat(1.0 / p.softcap, zero)
    for k in range(p.classes):
        grad = grad_at(exps, k, what, massed, zero)
        if capped:
            grad = grad * slope_of(load(z, k * step, None, 0.0, zero), inverse_cap)
        store(pointer(to + k * stride, 0, element), 0, None, grad)


@inlined
def put_at_labels(
    to: int, stride: int, labels: Any, at_label: Any, element: Any, zero: Any
) -> None:
    """Write gradients at the labels of rows that lie in the lanes, after all others."""
    numbers = stack(16, element)
    store(numbers, 0, None, at_label)
    for r in range(lane_count(zero)):
        if labels[r] >= 0:
            pointer(to + labels[r] * stride, r, element)[0] = numbers[r]


@inlined
def tile_log_proba(
    p: Any, z: Any, top: Any, log_sum: Any, gain: int, scale: Any, to: Any, zero: Any
) -> None:
    """scale * gain * ((z - m) - log s); a gain at the address 0 is 1."""
    step = lane_count(zero)
    for k in range(p.classes):
        value = load(z, k * step, None, 0.0, zero) - top - log_sum
        if gain != 0:
            value = value * splat(pointer(gain, k * p.gain_step, zero)[0], zero)
        store(to, k * step, None, value * scale)


@inlined
def written(z: Any, k: int, what: Closing, is_grad: Any, massed: Any, zero: Any) -> Any:
    """Gradient of class k, or its logarithmic probability: `factor` is m then, `scale` log s."""
    if is_grad is None:
        return load(z, k * lane_count(zero), None, 0.0, zero) - what.factor - what.scale
    return grad_at(z, k, what, massed, zero)


@inlined
def tile_close(
    rows: Any, z: Any, classes: int, what: Closing, is_grad: Any, massed: Any, zero: Any
) -> None:
    """Write the rows, given by their addresses."""
    fours = classes & ~3
    for k in range(0, fours, 4):
        a = written(z, k, what, is_grad, massed, zero)
        b = written(z, k + 1, what, is_grad, massed, zero)
        c = written(z, k + 2, what, is_grad, massed, zero)
        d = written(z, k + 3, what, is_grad, massed, zero)
        scatter_classes(rows, k, 4, a, b, c, d)
    if classes & 2:
        a = written(z, fours, what, is_grad, massed, zero)
        b = written(z, fours + 1, what, is_grad, massed, zero)
        scatter_classes(rows, fours, 2, a, b, b, b)
    if classes & 1:
        a = written(z, classes - 1, what, is_grad, massed, zero)
        scatter_classes(rows, classes - 1, 1, a, a, a, a)
