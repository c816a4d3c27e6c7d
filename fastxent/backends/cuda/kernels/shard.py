"""Rows of which only some classes are on this device: what they hand up, merged, and the gradient.

A block takes one part of a row, whose classes may lie anywhere; neighbouring threads have
neighbouring classes. A thread merges the parts of a row. Labels and `spike_of` count the classes of
all shards, other factors of classes those that are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.arguments import ShardArguments, kernel_of
from fastxent.backends.cuda.kernels.epilogue import NO_CLASS, SKIPPED, Sums, epilogue_of
from fastxent.backends.cuda.kernels.merge import merge_of
from fastxent.backends.cuda.kernels.numbers import block_summer
from fastxent.backends.cuda.kernels.places import class_stride, coordinates, quotient, row_offset
from fastxent.backends.cuda.kernels.results import results_of
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.specs import LoopGeometry, ShardVariant

__all__ = ["make"]

cuda = machine.cuda
float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64

# Classes of a thread whose loads are under way at once, and whose sums are not yet in float64.
_CHUNK = 8

# The arrays in the layout table.
_LOGITS, _GRAD, _SOFT = range(3)

_LOWEST = float64(-math.inf)


def make(variant: ShardVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel of one of the three steps."""
    steps = {"partial": _partial, "merge": _merge, "backward": _backward}
    return kernel_of(steps[variant.step](variant, geometry.threads), ShardArguments)


@register_jitable
def _part_of(p: Any) -> Any:
    """Row and part of this block, and the part's first class and the end of its classes."""
    number = int64(machine.block())
    row = quotient(number, p.parts)
    part = number - row * p.parts
    begin = part * p.part_classes
    return row, part, begin, min(begin + p.part_classes, p.classes_here)


@register_jitable
def _walk_of(p: Any, address: Any, array: Any, indices: Any, size: Any) -> Any:
    """Address of a row's first class, and bytes from class to class."""
    begin = address + row_offset(p.layout, array, indices) * size
    return begin, class_stride(p.layout, array) * size


@register_jitable
def _put_f64(array: Any, at: Any, value: Any) -> None:
    if array != 0:
        machine.store_f64(array + 8 * at, value)


@register_jitable
def _f64_at(array: Any, at: Any) -> Any:
    return float64(0) if array == 0 else machine.load_f64(array + 8 * at)


def _loads(variant: ShardVariant, threads: int) -> tuple[Any, Any]:
    """Make the functions that load every `threads`-th logit or probability, some of them."""
    THREADS = threads
    elements = elements_of(variant.formula)
    NUMBER = elements.number
    load = storage_of(variant.formula.kind).load
    soft_kind = variant.formula.target if elements.needs_total else variant.formula.kind
    load_soft = storage_of(soft_kind).load

    @register_jitable
    def logits_of(walk: Any, first: Any, end: Any, values: Any) -> None:
        # past the end a class is read again that no other thread writes
        for j in range(_CHUNK):
            k = first + j * THREADS
            values[j] = NUMBER(load(walk[0] + (k if k < end else first) * walk[1]))

    @register_jitable
    def softs_of(walk: Any, first: Any, end: Any, softs: Any) -> None:
        for j in range(_CHUNK):
            k = first + j * THREADS
            softs[j] = NUMBER(load_soft(walk[0] + (k if k < end else first) * walk[1]))

    return logits_of, softs_of


def _sums(variant: ShardVariant, threads: int) -> tuple[Any, Any]:
    """Make the functions for a thread's sums, and for the same relative to another maximum."""
    formula, THREADS = variant.formula, threads
    elements = elements_of(formula)
    NUMBER, ZERO, LOWEST = elements.number, elements.number(0), elements.number(-math.inf)
    SIDES, SOFT, MASS = formula.sides, elements.needs_total, elements.has_mass
    logits_of, softs_of = _loads(variant, threads)
    bend_of, z_of, larger = elements.bend_of, elements.z_of, elements.larger
    shift_of, exp_of = elements.shift_of, elements.exp_of
    mass_of, product_of = elements.mass_of, elements.product_of

    @register_jitable
    def moved(sums: Any, largest: Any, argmax: Any) -> Any:
        total, dot, entropy = sums.sum, sums.dot, sums.entropy
        if largest > sums.max:
            # in float64: a row that rises all the way repeats this for every chunk
            shift = float64(shift_of(largest))
            weight = float64(math.exp(float64(sums.max) - shift))
            drift = float64(shift_of(sums.max)) - shift
            entropy = (entropy + drift * total) * weight
            total = total * weight
            dot = dot + drift * sums.mass
        return Sums(largest, total, sums.mass, dot, entropy, argmax, LOWEST, NO_CLASS)

    @register_jitable
    def sums_of_thread(p: Any, walks: Any, begin: Any, end: Any, thread: Any) -> Any:
        inner, cap = bend_of(p)
        values, softs = cuda.local.array(_CHUNK, NUMBER), cuda.local.array(_CHUNK, NUMBER)
        nothing = float64(0)
        sums = Sums(LOWEST, nothing, nothing, nothing, nothing, NO_CLASS, LOWEST, NO_CLASS)
        first = begin + int64(thread)
        while first < end:
            logits_of(walks[0], first, end, values)
            if SOFT:
                softs_of(walks[1], first, end, softs)
            largest, argmax = sums.max, sums.argmax
            for j in range(_CHUNK):
                k = first + j * THREADS
                z = z_of(values[j], inner, cap) if k < end else LOWEST
                values[j] = z
                if SIDES and z > largest:
                    argmax = k
                largest = larger(largest, z)
            sums = moved(sums, largest, argmax)
            shift = shift_of(largest)
            part, part_mass, part_dot, part_entropy = ZERO, ZERO, ZERO, ZERO
            for j in range(_CHUNK):
                k, difference = first + j * THREADS, values[j] - shift
                exp = exp_of(difference)
                part += exp
                if SIDES:
                    part_entropy += product_of(exp, difference)
                if MASS and k < end:
                    t = mass_of(p, k, softs[j] if SOFT else ZERO)
                    part_mass += t
                    part_dot += product_of(t, difference)
            sums = Sums(
                largest,
                sums.sum + float64(part),
                sums.mass + float64(part_mass),
                sums.dot + float64(part_dot),
                sums.entropy + float64(part_entropy),
                argmax,
                LOWEST,
                NO_CLASS,
            )
            first += _CHUNK * THREADS
        return sums

    return sums_of_thread, moved


def _partial(variant: ShardVariant, threads: int) -> Callable[[Any], None]:
    formula = variant.formula
    elements, epilogue = elements_of(formula), epilogue_of(formula)
    stored = storage_of(formula.kind)
    soft_kind = formula.target if elements.needs_total else formula.kind
    NUMBER, SIZE, SOFT_SIZE = elements.number, stored.size, storage_of(soft_kind).size
    HARD, load = formula.target == "label", stored.load
    sums_of_thread, moved = _sums(variant, threads)
    largest_of_lanes, merged_lanes, merged_threads = merge_of(formula, threads, wide=True)
    bend_of, z_of, label_of = elements.bend_of, elements.z_of, epilogue.label_of

    @register_jitable
    def put(p: Any, row: Any, part: Any, begin: Any, lives: Any, sums: Any) -> None:
        at = part * p.rows + row
        argmax = (begin if sums.argmax == NO_CLASS else sums.argmax) + p.class_offset
        _put_f64(p.part_max, at, float64(sums.max) if lives else float64(0))
        _put_f64(p.part_sum, at, sums.sum if lives else float64(1))
        _put_f64(p.part_mass, at, sums.mass)
        _put_f64(p.part_dot, at, sums.dot)
        _put_f64(p.part_spread, at, sums.entropy)
        if p.part_argmax != 0:
            machine.store_i64(p.part_argmax + 8 * at, argmax if lives else int64(-1))

    @register_jitable
    def put_at_label(p: Any, row: Any, part: Any, ends: Any, label: Any, walk: Any) -> None:
        """z at the label, from the block that has it; from the first one, if it is not here."""
        here = label - p.class_offset
        is_here = label >= 0 and here >= 0 and here < p.classes_here
        if is_here and here >= ends[0] and here < ends[1]:
            inner, cap = bend_of(p)
            z = z_of(NUMBER(load(walk[0] + here * walk[1])), inner, cap)
            machine.store_f64(p.label_logit + 8 * row, float64(z))
        elif part == 0 and not is_here:
            machine.store_f64(p.label_logit + 8 * row, float64(0))

    def body(p: Any) -> None:
        thread = int32(machine.thread())
        row, part, begin, end = _part_of(p)
        label = label_of(p, row)
        lives = label != SKIPPED
        indices = coordinates(p.layout, row)
        x_walk = _walk_of(p, p.logits, _LOGITS, indices, SIZE)
        soft_walk = _walk_of(p, p.soft, _SOFT, indices, SOFT_SIZE)
        reads = end if lives else begin
        sums = sums_of_thread(p, (x_walk, soft_walk), begin, reads, thread)
        largest = largest_of_lanes(sums.max)
        argmax = sums.argmax if sums.max == largest else NO_CLASS
        sums = merged_threads(merged_lanes(moved(sums, largest, argmax)), thread)
        if thread == 0:
            put(p, row, part, begin, lives, sums)
            if HARD and p.label_logit != 0:
                put_at_label(p, row, part, (begin, end), label, x_walk)

    return body


def _merge(variant: ShardVariant, threads: int) -> Callable[[Any], None]:
    formula, THREADS = variant.formula, threads
    WARPS = THREADS // 32
    SUM_BYTES = 8 * WARPS
    elements, epilogue = elements_of(formula), epilogue_of(formula)
    NUMBER, HARD, SIDES = elements.number, formula.target == "label", formula.sides
    LOWEST, ZERO = NUMBER(-math.inf), NUMBER(0)
    block_sum = block_summer(float64, WARPS)
    label_of, total_of, finish = epilogue.label_of, epilogue.total_of, epilogue.finish

    @register_jitable
    def shifted(largest: Any) -> Any:
        return float64(0) if largest == _LOWEST else largest

    @register_jitable
    def sums_of(p: Any, row: Any) -> Any:
        top, argmax = _LOWEST, NO_CLASS
        part = int64(0)
        while part < p.parts:
            at = part * p.rows + row
            largest = machine.load_f64(p.part_max + 8 * at)
            if SIDES and p.part_argmax != 0 and (part == 0 or largest > top):
                argmax = machine.load_i64(p.part_argmax + 8 * at)
            if largest > top:
                top = largest
            part += 1
        total, mass, dot, spread = float64(0), float64(0), float64(0), float64(0)
        part = int64(0)
        while part < p.parts:
            at = part * p.rows + row
            largest = machine.load_f64(p.part_max + 8 * at)
            weight, drift = float64(1), float64(0)
            if largest != top:
                weight = float64(math.exp(largest - top))
                drift = shifted(largest) - top
            part_sum, part_mass = machine.load_f64(p.part_sum + 8 * at), _f64_at(p.part_mass, at)
            total += part_sum * weight
            mass += part_mass
            dot += _f64_at(p.part_dot, at) + drift * part_mass
            if SIDES and weight != 0.0:
                spread += (_f64_at(p.part_spread, at) + drift * part_sum) * weight
            part += 1
        return Sums(NUMBER(top), total, mass, dot, spread, argmax, LOWEST, NO_CLASS)

    @register_jitable
    def row_loss(p: Any, row: Any) -> Any:
        label, at_label = label_of(p, row), ZERO
        if HARD:
            at_label = NUMBER(_f64_at(p.label_logit, row))
        sums = sums_of(p, row)
        mass = total_of(p, label, sums.mass)
        _put_f64(p.row_mass, row, float64(0) if label == SKIPPED else mass)
        return finish(p, row, label, at_label, sums)

    def body(p: Any) -> None:
        t = int64(machine.thread())
        row = int64(machine.block()) * THREADS + t
        loss = float64(0)
        if row < p.rows:
            loss = row_loss(p, row)
        if p.partial != 0:
            total = block_sum(loss, t, machine.shared_memory(SUM_BYTES))
            if t == 0:
                machine.store_f64(p.partial + 8 * int64(machine.block()), total)

    return body


def _backward(variant: ShardVariant, threads: int) -> Callable[[Any], None]:
    formula, THREADS = variant.formula, threads
    elements, epilogue, results = elements_of(formula), epilogue_of(formula), results_of(formula)
    stored = storage_of(formula.kind)
    soft_kind = formula.target if elements.needs_total else formula.kind
    NUMBER, ZERO = elements.number, elements.number(0)
    SIZE, SOFT_SIZE, store = stored.size, storage_of(soft_kind).size, stored.store
    HARD, SOFT, HAS_MASS = formula.target == "label", elements.needs_total, elements.has_mass
    logits_of, softs_of = _loads(variant, threads)
    z_of, slope_of, exp_of = elements.z_of, elements.slope_of, elements.exp_of
    mass_of, grad_at_label = elements.mass_of, elements.grad_at_label
    label_of, spike_of = epilogue.label_of, epilogue.spike_of
    row_of, element_of = results.row_of, results.element_of

    @register_jitable
    def at_label(p: Any, r: Any, label: Any, k: Any, x: Any) -> Any:
        exp = exp_of(z_of(x, r.inner, r.cap) - r.shift)
        mass = ZERO
        if HAS_MASS:
            mass = mass_of(p, k, ZERO)
        slope, spike = slope_of(x, r.inner, r.cap), spike_of(p, label)
        return grad_at_label(exp, mass, slope, spike, r.wide_share, r.wide_scale)

    def body(p: Any) -> None:
        thread = int64(machine.thread())
        row, _, begin, end = _part_of(p)
        label = label_of(p, row)
        row_max = NUMBER(machine.load_f64(p.row_max + 8 * row))
        row_sum = machine.load_f64(p.row_sum + 8 * row)
        mass = machine.load_f64(p.row_mass + 8 * row)
        r = row_of(p, row, label, row_max, row_sum, mass)
        here = label - p.class_offset if label >= 0 else int64(-1)
        indices = coordinates(p.layout, row)
        x_walk = _walk_of(p, p.logits, _LOGITS, indices, SIZE)
        soft_walk = _walk_of(p, p.soft, _SOFT, indices, SOFT_SIZE)
        out_walk = _walk_of(p, p.grad, _GRAD, indices, SIZE)
        values, softs = cuda.local.array(_CHUNK, NUMBER), cuda.local.array(_CHUNK, NUMBER)
        first = begin + thread
        while first < end:
            logits_of(x_walk, first, end, values)
            if SOFT:
                softs_of(soft_walk, first, end, softs)
            for j in range(_CHUNK):
                k = first + j * THREADS
                if k < end:
                    grad = element_of(p, r, k, values[j], softs[j] if SOFT else ZERO).main
                    if HARD and k == here:
                        grad = at_label(p, r, label, k, values[j])
                    store(out_walk[0] + k * out_walk[1], grad if r.counts else ZERO)
            first += _CHUNK * THREADS

    return body
