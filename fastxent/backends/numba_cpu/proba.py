"""The probabilities of a row and the diagonal of its Hessian, beside the gradient.

They come from the same exponentials; the C++ twin is src_cython/proba.hpp.
"""

from __future__ import annotations

from typing import Any

from fastxent.backends.numba_cpu.arithmetic import first_lane, like, maximum, splat
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, store
from fastxent.backends.numba_cpu.matrix import lies_as_computed, row_of
from fastxent.backends.numba_cpu.transform import deliver, put_number

__all__ = [
    "hess_at_label",
    "hess_of",
    "hess_scale",
    "put_hess_at_label",
    "put_proba",
    "tile_hess",
    "tile_proba",
]


@inlined
def hess_scale(p: Any, row: int) -> Any:
    """Factor of a row's Hessian."""
    return pointer(p.row_scale, row * p.row_scale_step, 0.0)[0] * p.hess_factor


@inlined
def hess_of(q: Any, rest: Any, distance: Any, scale: Any, floor: Any, is_distance: Any) -> Any:
    """From q = p and 1 - p of a class to its Hessian; `distance` is |p - y|. A NaN stays one."""
    share = distance if is_distance else q * rest
    return maximum(floor, share * scale)


@inlined
def hess_at_label(p: Any, exp: Any, total: Any, scale: Any) -> Any:
    """The Hessian at the label, in double: 1 - p cancels there."""
    q, rest = exp / total, (total - exp) / total
    return hess_of(q, rest, rest, scale, like(q, p.hess_floor), p.hess_is_distance != 0)


@inlined
def put_hess_at_label(
    p: Any, row: int, label: int, exp: float, total: float, element: Any, zero: Any
) -> None:
    """The Hessian at the label of one row, after all others."""
    scale = splat(hess_scale(p, row), 0.0)
    hess = first_lane(hess_at_label(p, splat(exp, 0.0), splat(total, 0.0), scale))
    put_number(row_of(p.hess, row), p.hess.class_stride, label, hess, element, zero)


@inlined
def put_shares(exps: Any, n: int, share: Any, to: Any, zero: Any) -> None:
    """p of n classes."""
    step = lane_count(zero)
    whole = n - n % step
    for k in range(0, whole, step):
        store(to, k, None, load(exps, k, None, 0.0, zero) * share)
    if whole < n:
        some = n - whole
        store(to, whole, some, load(exps, whole, some, 0.0, zero) * share)


@inlined
def put_hess(p: Any, exps: Any, n: int, share: Any, scale: Any, to: Any, zero: Any) -> None:
    """The Hessian of n classes, as if none were the label."""
    step = lane_count(zero)
    floor, one, is_distance = splat(p.hess_floor, zero), splat(1.0, zero), p.hess_is_distance != 0
    whole = n - n % step
    for k in range(0, whole, step):
        q = load(exps, k, None, 0.0, zero) * share
        store(to, k, None, hess_of(q, one - q, q, scale, floor, is_distance))
    if whole < n:
        some = n - whole
        q = load(exps, whole, some, 0.0, zero) * share
        store(to, whole, some, hess_of(q, one - q, q, scale, floor, is_distance))


@once
def put_proba(
    p: Any, row: int, begin: int, n: int, exps: Any, share: float, space: Any, element: Any,
    zero: Any,
) -> None:  # fmt: skip
    """What is asked for of the classes from `begin` on, but for the Hessian at the label.

    `share` is exp(block maximum - row maximum) / s; `space` has room for a block.
    """
    size, shares = 64 // lane_count(zero), splat(share, zero)
    if p.proba.data != 0:
        to = row_of(p.proba, row)
        if lies_as_computed(p.proba, size):
            put_shares(exps, n, shares, pointer(to, begin, zero), zero)
        else:
            put_shares(exps, n, shares, space, zero)
            deliver(space, 1.0, n, p.proba, to, begin, element, None, zero)
    if p.hess.data != 0:
        to, scale = row_of(p.hess, row), splat(hess_scale(p, row), zero)
        if lies_as_computed(p.hess, size):
            put_hess(p, exps, n, shares, scale, pointer(to, begin, zero), zero)
        else:
            put_hess(p, exps, n, shares, scale, space, zero)
            deliver(space, 1.0, n, p.hess, to, begin, element, None, zero)


@inlined
def tile_proba(p: Any, exps: Any, share: Any, to: Any, zero: Any) -> None:
    """p of all rows of a tile, class after class."""
    step = lane_count(zero)
    for k in range(p.classes):
        store(to, k * step, None, load(exps, k * step, None, 0.0, zero) * share)


@inlined
def tile_hess(p: Any, exps: Any, share: Any, scale: Any, to: Any, zero: Any) -> None:
    """The Hessian of all rows of a tile, as if no class were the label."""
    put_hess(p, exps, p.classes * lane_count(zero), share, scale, to, zero)
