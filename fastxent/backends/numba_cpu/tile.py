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
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, prefetch, store
from fastxent.backends.numba_cpu.long_sum import value_of_each, with_number
from fastxent.backends.numba_cpu.row import grad_of
from fastxent.backends.numba_cpu.target import mass_at
from fastxent.backends.numba_cpu.transform import slope_of
from fastxent.backends.numba_cpu.transpose import scatter_classes

__all__ = [
    "Ahead",
    "Closing",
    "TileSums",
    "tile_argmax",
    "tile_close",
    "tile_forward",
    "tile_grad",
    "tile_log_proba",
    "tile_spread",
]


# Where a tile has more classes than TILE_CLASSES, so many are added up in one chain: in float64 one
# of 100 was 15 roundings off.
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
def tile_forward(
    z: Any, exps: Any, classes: int, target: Any, label: Any, ahead: Ahead, massed: Any,
    of_soft: Any, prepared: Any, zero: Any,
) -> TileSums:  # fmt: skip
    """Exponentials, and the sums of each row; `label` has labels as numbers.

    A label that is no class never matches.
    """
    step, nothing = lane_count(zero), splat(0.0, zero)
    top = splat(-np.inf, zero)
    for k in range(classes):
        top = maximum(load(z, k * step, None, 0.0, zero), top)
    shift = shift_of_rows(top)
    none = splat_wide(0.0, zero)
    total = mass = dot = none
    totals = masses = dots = none, none
    at_label = exp_at_label = mass_at_label = nothing
    piece = classes if classes <= TILE_CLASSES else _PIECE
    for begin in range(0, classes, piece):
        total = mass = dot = none
        for k in range(begin, min(classes, begin + piece)):
            # a tile reads and writes in bursts, and memory would wait while this loop computes
            # (40000x100: 65 ns a row instead of 119)
            prefetch(pointer(ahead.read + k * ahead.read_step, 0, zero), 0, 0)
            prefetch(pointer(ahead.write + k * ahead.write_step, 0, zero), 0, 1)
            here, x = splat(k, zero), load(z, k * step, None, 0.0, zero)
            shifted = x - shift
            e = exp_of_negative(shifted)
            store(exps, k * step, None, e)
            total = total + widened(e)
            if massed is not None:
                t = mass_at(target, k, None, zero)
                mass = mass + widened(t)
                # no mass, no loss: 0 * -inf must not become NaN
                dot = fma(widened(t), widened(where_nonzero(t, shifted, nothing)), dot)
                if of_soft is None:
                    mass_at_label = where_equal(label, here, t, mass_at_label)
            if of_soft is None:
                at_label = where_equal(label, here, x, at_label)
                exp_at_label = where_equal(label, here, e, exp_at_label)
        if prepared is not None:
            if classes > TILE_CLASSES:
                totals = with_number(totals, total)
                if massed is not None:
                    masses, dots = with_number(masses, mass), with_number(dots, dot)
    if prepared is not None:
        if classes > TILE_CLASSES:
            total, mass, dot = value_of_each(totals), value_of_each(masses), value_of_each(dots)
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

    It is scale * (factor * exp - t), or factor * exp where there is no such t; at the label it is
    `at_label`.
    """

    factor: Any
    scale: Any
    label: Any
    at_label: Any
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
    p: Any, z: Any, exps: Any, what: Closing, massed: Any, of_soft: Any, zero: Any
) -> None:
    """Exponentials become gradients."""
    step, capped = lane_count(zero), p.softcap != 0.0
    inverse_cap = splat(1.0 / p.softcap, zero)
    for k in range(p.classes):
        grad = grad_at(exps, k, what, massed, zero)
        if capped:
            grad = grad * slope_of(load(z, k * step, None, 0.0, zero), inverse_cap)
        if of_soft is None:
            grad = where_equal(what.label, splat(k, zero), what.at_label, grad)
        store(exps, k * step, None, grad)


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
def written(
    z: Any, k: int, what: Closing, is_grad: Any, massed: Any, of_soft: Any, zero: Any
) -> Any:
    """Gradient of class k, or its logarithmic probability: `factor` is m then and `scale` log s."""
    if is_grad is None:
        return load(z, k * lane_count(zero), None, 0.0, zero) - what.factor - what.scale
    grad = grad_at(z, k, what, massed, zero)
    if of_soft is None:
        grad = where_equal(what.label, splat(k, zero), what.at_label, grad)
    return grad


@inlined
def tile_close(
    rows: Any, z: Any, classes: int, what: Closing, is_grad: Any, massed: Any, of_soft: Any,
    zero: Any,
) -> None:  # fmt: skip
    """Write the rows, given by their addresses."""
    fours = classes & ~3
    for k in range(0, fours, 4):
        a = written(z, k, what, is_grad, massed, of_soft, zero)
        b = written(z, k + 1, what, is_grad, massed, of_soft, zero)
        c = written(z, k + 2, what, is_grad, massed, of_soft, zero)
        d = written(z, k + 3, what, is_grad, massed, of_soft, zero)
        scatter_classes(rows, k, 4, a, b, c, d)
    if classes & 2:
        a = written(z, fours, what, is_grad, massed, of_soft, zero)
        b = written(z, fours + 1, what, is_grad, massed, of_soft, zero)
        scatter_classes(rows, fours, 2, a, b, b, b)
    if classes & 1:
        a = written(z, classes - 1, what, is_grad, massed, of_soft, zero)
        scatter_classes(rows, classes - 1, 1, a, a, a, a)
