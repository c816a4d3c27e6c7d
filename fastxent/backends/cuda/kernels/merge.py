"""From the sums of a row's threads to the row's: lanes of a warp, warps, blocks of a cluster.

Every thread gets the result. The order of the additions is fixed, so a row's bits are too. A part
publishes its own maximum, be it -inf: a 0 in its place would become the maximum of a row of very
negative logits and leave nothing but 0 / 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.epilogue import NO_CLASS, Sums
from fastxent.backends.cuda.specs import Variant

__all__ = ["Merge", "merge_of"]

float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64

_MAX, _SUM, _MASS, _DOT, _ENTROPY, _ARGMAX, _TARGET_MAX, _TARGET_ARGMAX = range(8)
_FIELDS = 8
_LOWEST = float64(-math.inf)


class Merge(NamedTuple):
    """The functions; all threads of the row have to call them.

    Attributes
    ----------
    largest : function of (value)
        Largest value in the lanes that work on a row.
    lanes : function of (sums)
        Sums of these lanes. Those that come in have the lanes' common maximum as `max`; `argmax`
        is NO_CLASS in a lane that does not hold it.
    threads : function of (sums, thread)
        Sums of all of the row's threads, from those of their warps. The last thing it does is
        `cluster_arrive`, if there are several blocks: they `cluster_wait` before they end, as
        others may still read their shared memory.
    """

    largest: Any
    lanes: Any
    threads: Any


def merge_of(variant: Variant, block: int, cluster: int = 1, wide: bool = False) -> Merge:
    """Make the functions for rows of so many threads a block, and so many blocks.

    `wide` says that the sums of a thread are float64 already.
    """
    elements = elements_of(variant)
    NUMBER, larger, shift_of = elements.number, elements.larger, elements.shift_of
    exp_of = elements.exp_of
    DOUBLE, LOSS = elements.number is float64, variant.task in ("loss", "grad")
    WIDE = wide
    LANES, WARPS, CLUSTER = min(block, 32), -(-block // 32), cluster
    LANE_STEPS, WARP_STEPS, BLOCK_STEPS = map(_steps, (LANES, WARPS, CLUSTER))
    WARPS_MASK, BLOCKS_MASK = (1 << WARP_STEPS) - 1, CLUSTER - 1
    STATISTICS, DOT = variant.task != "backward", elements.has_mass and LOSS
    MASS = DOT or elements.needs_total  # with another maximum, the dot changes by the mass
    SIDES, TARGETS = variant.sides, variant.sides and elements.needs_total
    WARP_BYTES, BLOCK_BYTES = 8 * _FIELDS * WARPS, 8 * _FIELDS

    @register_jitable
    def shuffled(value: Any, mask: Any) -> Any:
        if DOUBLE:
            return machine.shuffle_xor_f64(value, mask)
        return machine.shuffle_xor_f32(value, mask)

    @register_jitable
    def largest_of(value: Any, steps: Any) -> Any:
        for step in range(steps):
            value = larger(value, shuffled(value, int32(1 << step)))
        return value

    @register_jitable
    def largest(value: Any) -> Any:
        return largest_of(value, LANE_STEPS)

    @register_jitable
    def added(value: Any) -> Any:
        for step in range(LANE_STEPS):
            if WIDE:
                value = value + machine.shuffle_xor_f64(value, int32(1 << step))
            else:
                value = value + shuffled(value, int32(1 << step))
        return float64(value)

    @register_jitable
    def added_doubles(value: Any, steps: Any) -> Any:
        for step in range(steps):
            value = value + machine.shuffle_xor_f64(value, int32(1 << step))
        return value

    @register_jitable
    def first_of(index: Any, steps: Any) -> Any:
        for step in range(steps):
            other = machine.shuffle_xor_i64(index, int32(1 << step))
            index = min(index, other)
        return index

    @register_jitable
    def lanes(sums: Any) -> Any:
        total, mass, dot, entropy = float64(0), float64(0), float64(0), float64(0)
        argmax, target_max, target_argmax = NO_CLASS, sums.target_max, NO_CLASS
        if STATISTICS:
            total = added(sums.sum)
        if MASS:
            mass = added(sums.mass)
        if DOT:
            dot = added(sums.dot)
        if SIDES:
            entropy = added(sums.entropy)
            argmax = first_of(sums.argmax, LANE_STEPS)
        if TARGETS:
            target_max = largest_of(sums.target_max, LANE_STEPS)
            index = sums.target_argmax if sums.target_max == target_max else NO_CLASS
            target_argmax = first_of(index, LANE_STEPS)
        return Sums(sums.max, total, mass, dot, entropy, argmax, target_max, target_argmax)

    @register_jitable
    def publish(area: Any, stride: Any, sums: Any) -> None:
        if STATISTICS:
            machine.store_shared_f64(area + _MAX * stride, float64(sums.max))
            machine.store_shared_f64(area + _SUM * stride, sums.sum)
        if MASS:
            machine.store_shared_f64(area + _MASS * stride, sums.mass)
        if DOT:
            machine.store_shared_f64(area + _DOT * stride, sums.dot)
        if SIDES:
            machine.store_shared_f64(area + _ENTROPY * stride, sums.entropy)
            machine.store_shared_f64(area + _ARGMAX * stride, float64(sums.argmax))
        if TARGETS:
            machine.store_shared_f64(area + _TARGET_MAX * stride, float64(sums.target_max))
            machine.store_shared_f64(area + _TARGET_ARGMAX * stride, float64(sums.target_argmax))

    @register_jitable
    def read(area: Any, stride: Any, field: Any, remote: Any) -> Any:
        if remote:
            return machine.load_remote_f64(area + field * stride)
        return machine.load_shared_f64(area + field * stride)

    @register_jitable
    def merged(area: Any, stride: Any, remote: Any, there: Any, steps: Any) -> Any:
        """Sums over 2**steps lanes, each of which reads the parts at `area` if there are any."""
        largest_z, total, weight, drift = NUMBER(0), float64(0), float64(0), float64(0)
        mass, dot, entropy, argmax = float64(0), float64(0), float64(0), NO_CLASS
        target_max, target_argmax = NUMBER(0), NO_CLASS
        if STATISTICS:
            own = NUMBER(read(area, stride, _MAX, remote) if there else _LOWEST)
            part = read(area, stride, _SUM, remote) if there else float64(0)
            largest_z = largest_of(own, steps)
            shift = shift_of(largest_z)
            weight = float64(exp_of(own - shift))
            drift = float64(shift_of(own) - shift)
            total = added_doubles(part * weight, steps)
            if SIDES:
                dotted = read(area, stride, _ENTROPY, remote) if there else float64(0)
                entropy = added_doubles((dotted + drift * part) * weight, steps)
                index = int64(read(area, stride, _ARGMAX, remote)) if there else NO_CLASS
                argmax = first_of(index if own == largest_z else NO_CLASS, steps)
        if MASS:
            part_mass = read(area, stride, _MASS, remote) if there else float64(0)
            mass = added_doubles(part_mass, steps)
            if DOT:
                dotted = read(area, stride, _DOT, remote) if there else float64(0)
                dot = added_doubles(dotted + drift * part_mass, steps)
        if TARGETS:
            own = NUMBER(read(area, stride, _TARGET_MAX, remote) if there else _LOWEST)
            target_max = largest_of(own, steps)
            index = int64(read(area, stride, _TARGET_ARGMAX, remote)) if there else NO_CLASS
            target_argmax = first_of(index if own == target_max else NO_CLASS, steps)
        return Sums(largest_z, total, mass, dot, entropy, argmax, target_max, target_argmax)

    @register_jitable
    def threads(sums: Any, thread: Any) -> Any:
        if WARPS > 1:
            area = machine.shared_memory(WARP_BYTES)
            stride = int32(8 * WARPS)
            if thread & 31 == 0:
                publish(int32(area + (thread >> 5) * 8), stride, sums)
            machine.barrier()
            entry = int32(thread & WARPS_MASK)
            sums = merged(int32(area + entry * 8), stride, False, entry < WARPS, WARP_STEPS)
        if CLUSTER > 1:
            area = machine.shared_memory(BLOCK_BYTES)
            if thread == 0:
                publish(area, int32(8), sums)
            machine.cluster_arrive()
            machine.cluster_wait()
            area = machine.remote_shared(area, int32(thread & BLOCKS_MASK))
            sums = merged(area, int32(8), True, True, BLOCK_STEPS)
            machine.cluster_arrive()
        return sums

    return Merge(largest, lanes, threads)


def _steps(parts: int) -> int:
    """How often the parts are halved until one is left."""
    return (parts - 1).bit_length()
