"""Where a row's target puts mass besides the label: nowhere (None), or one of three policies.

The C++ twin is src_cython/target.hpp. A policy has pointers and steps; a step is 0 for a constant,
which fills 64 bytes, and 1 for an array.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.extending import overload

from fastxent.backends.numba_cpu.arguments import Pass
from fastxent.backends.numba_cpu.arithmetic import fma, splat
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer

__all__ = ["OnBackground", "OnSoft", "OnWeightedSoft", "mass_at", "mass_of_class", "target_of"]


class OnBackground(NamedTuple):
    """The same mass for every row."""

    background: Any
    background_step: int


class OnSoft(NamedTuple):
    """Probabilities."""

    soft: Any


class OnWeightedSoft(NamedTuple):
    """Weighted probabilities, and the same mass for every row."""

    soft: Any
    gain: Any
    gain_step: int
    background: Any
    background_step: int


def target_of(p: Pass, soft: Any, stored: Any, on_all: Any, zero: Any) -> Any:
    """The policy of a pass; `soft` points at the probabilities, of a row or of a tile.

    There are none where `stored` is None. `on_all` tells whether there is a background, or whether
    probabilities are weighted.
    """
    raise NotImplementedError("compiled code only")


@overload(target_of)
def _target_of(p: Any, soft: Any, stored: Any, on_all: Any, zero: Any) -> Any:
    def on_label(p: Any, soft: Any, stored: Any, on_all: Any, zero: Any) -> Any:
        return None

    def on_background(p: Any, soft: Any, stored: Any, on_all: Any, zero: Any) -> Any:
        return OnBackground(pointer(p.background, 0, zero), p.background_step)

    def on_soft(p: Any, soft: Any, stored: Any, on_all: Any, zero: Any) -> Any:
        return OnSoft(soft)

    def on_weighted_soft(p: Any, soft: Any, stored: Any, on_all: Any, zero: Any) -> Any:
        gain, background = pointer(p.gain, 0, zero), pointer(p.background, 0, zero)
        return OnWeightedSoft(soft, gain, p.gain_step, background, p.background_step)

    if isinstance(stored, types.NoneType):
        return on_label if isinstance(on_all, types.NoneType) else on_background
    return on_soft if isinstance(on_all, types.NoneType) else on_weighted_soft


def mass_at(target: Any, k: int, some: int | None, zero: Any) -> Any:
    """Lanes of t, for the classes of a row from k on."""
    raise NotImplementedError("compiled code only")


@overload(mass_at)
def _mass_at(target: Any, k: Any, some: Any, zero: Any) -> Any:
    def on_background(target: Any, k: Any, some: Any, zero: Any) -> Any:
        return load(target.background, k * target.background_step, some, 0.0, zero)

    def on_soft(target: Any, k: Any, some: Any, zero: Any) -> Any:
        return load(target.soft, k, some, 0.0, zero)

    def on_weighted_soft(target: Any, k: Any, some: Any, zero: Any) -> Any:
        gain = load(target.gain, k * target.gain_step, some, 0.0, zero)
        background = load(target.background, k * target.background_step, some, 0.0, zero)
        return fma(gain, load(target.soft, k, some, 0.0, zero), background)

    policies = {OnBackground: on_background, OnSoft: on_soft, OnWeightedSoft: on_weighted_soft}
    return policies[target.instance_class]


def mass_of_class(target: Any, k: int, zero: Any) -> Any:
    """Lanes of t, for the rows of a tile, at class k; `soft` has these lanes class by class."""
    raise NotImplementedError("compiled code only")


@overload(mass_of_class)
def _mass_of_class(target: Any, k: Any, zero: Any) -> Any:
    def on_background(target: Any, k: Any, zero: Any) -> Any:
        return splat(target.background[k * target.background_step], zero)

    def on_soft(target: Any, k: Any, zero: Any) -> Any:
        return load(target.soft, k * lane_count(zero), None, 0.0, zero)

    def on_weighted_soft(target: Any, k: Any, zero: Any) -> Any:
        gain = splat(target.gain[k * target.gain_step], zero)
        background = splat(target.background[k * target.background_step], zero)
        return fma(gain, load(target.soft, k * lane_count(zero), None, 0.0, zero), background)

    policies = {OnBackground: on_background, OnSoft: on_soft, OnWeightedSoft: on_weighted_soft}
    return policies[target.instance_class]
