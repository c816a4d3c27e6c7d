"""The arithmetic of many short rows at once: a row in each lane, and the formulas of row.py.

The C++ twin is src_cython/tile.hpp. A tile is memory for the logits of as many rows as there are
lanes, class by class; they become exponentials.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastxent.backends.numba_cpu.arithmetic import (
    fma,
    maximum,
    splat,
    splat_wide,
    where_equal,
    where_nonzero,
    widened,
)
from fastxent.backends.numba_cpu.elementary import exp_of_negative
from fastxent.backends.numba_cpu.jit import inlined
from fastxent.backends.numba_cpu.lanes import lane_count, load, prefetch, store
from fastxent.backends.numba_cpu.row import grad_of
from fastxent.backends.numba_cpu.target import mass_of_class
from fastxent.backends.numba_cpu.transpose import scatter_classes

__all__ = ["Gradient", "LogProba", "TileSums", "tile_close", "tile_forward"]


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


@inlined
def tile_forward(
    numbers: Any,
    classes: int,
    target: Any,
    label: Any,
    to_read: Any,
    to_write: Any,
    stored: Any,
    zero: Any,
) -> TileSums:
    """Exponentials, and the sums of each row; `label` has labels as numbers if `stored` is None.

    A label that is no class never matches. What a later tile reads and writes is fetched.
    """
    step, nothing = lane_count(zero), splat(0.0, zero)
    low = splat(-np.inf, zero)
    top = low
    for k in range(classes):
        top = maximum(load(numbers, k * step, None, 0.0, zero), top)
    # as shift_of: nothing is taken relative to -inf
    shift = where_equal(top, low, nothing, top)
    total = mass = dot = splat_wide(0.0, zero)
    at_label = exp_at_label = mass_at_label = nothing
    for k in range(classes):
        # a tile reads and writes in bursts, and memory would wait while this loop computes
        # (40000x100: 65 ns a row instead of 119)
        prefetch(to_read, k * step, 0)
        prefetch(to_write, k * step, 1)
        z = load(numbers, k * step, None, 0.0, zero)
        shifted = z - shift
        e = exp_of_negative(shifted)
        store(numbers, k * step, None, e)
        total = total + widened(e)
        if target is not None:
            t = mass_of_class(target, k, zero)
            mass = mass + widened(t)
            # no mass, no loss: 0 * -inf must not become NaN
            dot = fma(widened(t), widened(where_nonzero(t, shifted, nothing)), dot)
            if stored is None:
                mass_at_label = where_equal(label, splat(k, zero), t, mass_at_label)
        if stored is None:
            here = splat(k, zero)
            at_label = where_equal(label, here, z, at_label)
            exp_at_label = where_equal(label, here, e, exp_at_label)
    return TileSums(top, total, mass, dot, at_label, exp_at_label, mass_at_label)


# What is written of a tile.


class Gradient(NamedTuple):
    """scale * (share * exp - t); `factor` is the share, or with a target of None scale * share."""

    factor: Any
    scale: Any
    target: Any
    stored: Any  # None where there are labels
    label: Any
    grad_at_label: Any


class LogProba(NamedTuple):
    """(z - m) - log s, from the logits."""

    max: Any
    log_sum: Any


def written(what: Any, k: int, number: Any, zero: Any) -> Any:
    """Lanes of class k, from those of the tile."""
    raise NotImplementedError("compiled code only")


@overload(written)
def _written(what: Any, k: Any, number: Any, zero: Any) -> Any:
    if what.instance_class is LogProba:

        def log_proba(what: Any, k: Any, number: Any, zero: Any) -> Any:
            return number - what.max - what.log_sum

        return log_proba
    fields = dict(zip(what.fields, what.types, strict=True))
    hard, plain = _is_none(fields["stored"]), _is_none(fields["target"])

    def plain_gradient(what: Any, k: Any, number: Any, zero: Any) -> Any:
        here = splat(k, zero)
        return where_equal(what.label, here, what.grad_at_label, number * what.factor)

    def background_gradient(what: Any, k: Any, number: Any, zero: Any) -> Any:
        grad = grad_of(number, what.factor, mass_of_class(what.target, k, zero), what.scale)
        return where_equal(what.label, splat(k, zero), what.grad_at_label, grad)

    def soft_gradient(what: Any, k: Any, number: Any, zero: Any) -> Any:
        return grad_of(number, what.factor, mass_of_class(what.target, k, zero), what.scale)

    if plain:
        return plain_gradient
    return background_gradient if hard else soft_gradient


def _is_none(kind: Any) -> bool:
    return isinstance(kind, types.NoneType)


@inlined
def class_of(numbers: Any, k: int, what: Any, zero: Any) -> Any:
    """What is written of class k."""
    return written(what, k, load(numbers, k * lane_count(zero), None, 0.0, zero), zero)


@inlined
def tile_close(rows: Any, numbers: Any, classes: int, what: Any, zero: Any) -> None:
    """Write the rows, given by their addresses."""
    fours = classes & ~3
    for k in range(0, fours, 4):
        a, b = class_of(numbers, k, what, zero), class_of(numbers, k + 1, what, zero)
        c, d = class_of(numbers, k + 2, what, zero), class_of(numbers, k + 3, what, zero)
        scatter_classes(rows, k, 4, a, b, c, d)
    if classes & 2:
        a, b = class_of(numbers, fours, what, zero), class_of(numbers, fours + 1, what, zero)
        scatter_classes(rows, fours, 2, a, b, b, b)
    if classes & 1:
        a = class_of(numbers, classes - 1, what, zero)
        scatter_classes(rows, classes - 1, 1, a, a, a, a)
