"""A row for each thread, which walks along it: classes and rows may lie anywhere.

Neighbouring threads have neighbouring rows, so that their loads meet in memory where the rows, not
the classes, are side by side: class axis 1 of (N, C, H, W). The row is read twice: its sums are
carried along with the largest logit so far, as in https://arxiv.org/abs/1805.02867.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.arguments import kernel_of
from fastxent.backends.cuda.kernels.epilogue import NO_CLASS, Sums, epilogue_of
from fastxent.backends.cuda.kernels.numbers import block_summer
from fastxent.backends.cuda.kernels.places import class_stride, coordinates, row_offset
from fastxent.backends.cuda.kernels.results import results_of
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.specs import LoopGeometry, Variant

__all__ = ["make"]

cuda = machine.cuda
float64: Any = np.float64
int64: Any = np.int64

# Classes whose loads are under way at once, and whose sums are not yet in float64.
_CHUNK = 8

# The arrays in the layout table.
_LOGITS, _GRAD, _SOFT, _TARGET_GRAD, _PROBA, _HESS = range(6)


def make(variant: Variant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel."""
    THREADS = geometry.threads
    WARPS = THREADS // 32
    SUM_BYTES = 8 * WARPS
    elements, epilogue, results = elements_of(variant), epilogue_of(variant), results_of(variant)
    NUMBER, ZERO = elements.number, elements.number(0)
    block_sum = block_summer(float64, WARPS)
    HARD, SOFT = variant.target == "label", elements.needs_total
    LOSS, BACKWARD = variant.task in ("loss", "grad"), variant.task == "backward"
    IS_SOFTMAX = variant.task in ("softmax", "log_softmax")
    WRITES, TARGET_GRAD = variant.task != "loss", variant.target_grad
    PROBA, HESS = variant.curvature != "", variant.curvature in ("product", "distance")
    soft_kind = variant.target if SOFT else variant.kind
    target_grad_kind = variant.kind if soft_kind == "uint8" else soft_kind
    stored, stored_soft = storage_of(variant.kind), storage_of(soft_kind)
    stored_target_grad = storage_of(target_grad_kind)
    SIZE, SOFT_SIZE, TARGET_GRAD_SIZE = stored.size, stored_soft.size, stored_target_grad.size
    load, load_soft, store = stored.load, stored_soft.load, stored.store
    store_target_grad = stored_target_grad.store
    of_number = storage_of(elements.number_kind)
    load_number, NUMBER_SIZE = of_number.load, of_number.size
    sums_of = _sums_of(variant)
    bend_of, z_of = elements.bend_of, elements.z_of
    label_of, finish = epilogue.label_of, epilogue.finish
    row_of, element_of, at_label = results.row_of, results.element_of, results.at_label

    @register_jitable
    def walk_of(p: Any, address: Any, array: Any, indices: Any, size: Any) -> Any:
        """Address of a row's first class, and bytes from class to class."""
        begin = address + row_offset(p.layout, array, indices) * size
        return begin, class_stride(p.layout, array) * size

    @register_jitable
    def chunk_of(walk: Any, first: Any, classes: Any, values: Any) -> None:
        # past the end the last class is read again
        for j in range(_CHUNK):
            values[j] = NUMBER(load(walk[0] + min(first + j, classes - 1) * walk[1]))

    @register_jitable
    def soft_chunk_of(walk: Any, first: Any, classes: Any, softs: Any) -> None:
        for j in range(_CHUNK):
            softs[j] = NUMBER(load_soft(walk[0] + min(first + j, classes - 1) * walk[1]))

    @register_jitable
    def write(p: Any, indices: Any, walks: Any, r: Any, found: Any) -> None:
        """The second pass; `found` is the label, its logit, and the row's sum."""
        x_walk, soft_walk = walks
        label, x_at_label, row_sum = found
        out = p.proba if IS_SOFTMAX else p.grad
        out_walk = walk_of(p, out, _PROBA if IS_SOFTMAX else _GRAD, indices, SIZE)
        proba_walk = walk_of(p, p.proba, _PROBA, indices, SIZE)
        hess_walk = walk_of(p, p.hess, _HESS, indices, SIZE)
        target_walk = walk_of(p, p.target_grad, _TARGET_GRAD, indices, TARGET_GRAD_SIZE)
        shown = r.lives if IS_SOFTMAX else r.counts
        values = cuda.local.array(_CHUNK, NUMBER)
        softs = cuda.local.array(_CHUNK, NUMBER)
        first = int64(0)
        while first < p.classes:
            chunk_of(x_walk, first, p.classes, values)
            if SOFT:
                soft_chunk_of(soft_walk, first, p.classes, softs)
            for j in range(_CHUNK):
                k = first + j
                if k < p.classes:
                    one = element_of(p, r, k, values[j], softs[j] if SOFT else ZERO)
                    if out != 0:
                        store(out_walk[0] + k * out_walk[1], one.main if shown else ZERO)
                    if PROBA and p.proba != 0:
                        value = one.proba if r.lives else ZERO
                        store(proba_walk[0] + k * proba_walk[1], value)
                    if HESS and p.hess != 0:
                        store(hess_walk[0] + k * hess_walk[1], one.hess if r.counts else ZERO)
                    if TARGET_GRAD and p.target_grad != 0:
                        value = one.target_grad if r.counts else ZERO
                        store_target_grad(target_walk[0] + k * target_walk[1], value)
            first += _CHUNK
        if HARD and r.counts:
            one = at_label(p, r, label, x_at_label, row_sum)
            if out != 0:
                store(out_walk[0] + label * out_walk[1], one.main)
            if HESS and p.hess != 0:
                store(hess_walk[0] + label * hess_walk[1], one.hess)

    @register_jitable
    def row_loss(p: Any, row: Any) -> Any:
        """Do all of a row; its loss."""
        loss, x_at_label = float64(0), ZERO
        indices = coordinates(p.layout, row)
        x_walk = walk_of(p, p.logits, _LOGITS, indices, SIZE)
        soft_walk = walk_of(p, p.soft, _SOFT, indices, SOFT_SIZE)
        label = label_of(p, row)
        if HARD and label >= 0:
            x_at_label = NUMBER(load(x_walk[0] + label * x_walk[1]))
        sums = sums_of(p, x_walk, soft_walk, chunk_of, soft_chunk_of)
        row_max, row_sum = sums.max, sums.sum
        if BACKWARD:
            row_max = load_number(p.row_max + row * NUMBER_SIZE)
            row_sum = machine.load_f64(p.row_sum + row * 8)
        else:
            inner, cap = bend_of(p)
            loss = finish(p, row, label, z_of(x_at_label, inner, cap), sums)
        if WRITES:
            r = row_of(p, row, label, row_max, row_sum, sums.mass)
            found = (label, x_at_label, row_sum)
            write(p, indices, (x_walk, soft_walk), r, found)
        return loss

    def body(p: Any) -> None:
        t = int64(machine.thread())
        row = int64(machine.block()) * THREADS + t
        loss = float64(0)
        if row < p.rows:
            loss = row_loss(p, row)
        if LOSS and p.partial != 0:
            total = block_sum(loss, t, machine.shared_memory(SUM_BYTES))
            if t == 0:
                machine.store_f64(p.partial + 8 * int64(machine.block()), total)

    return kernel_of(body)


def _sums_of(variant: Variant) -> Any:
    """Make the function for the sums of a row in memory."""
    elements = elements_of(variant)
    NUMBER, ZERO = elements.number, elements.number(0)
    LOWEST = NUMBER(-math.inf)
    STATISTICS, SIDES, SOFT = variant.task != "backward", variant.sides, elements.needs_total
    DOT = elements.has_mass and variant.task in ("loss", "grad")
    MASS = DOT or SOFT  # with another maximum, the dot changes by the mass
    bend_of, z_of, larger = elements.bend_of, elements.z_of, elements.larger
    shift_of, exp_of = elements.shift_of, elements.exp_of
    mass_of, product_of = elements.mass_of, elements.product_of

    @register_jitable
    def sums_of(p: Any, x_walk: Any, soft_walk: Any, chunk_of: Any, soft_chunk_of: Any) -> Any:
        inner, cap = bend_of(p)
        largest, argmax, target_max, target_argmax = LOWEST, NO_CLASS, LOWEST, NO_CLASS
        total, mass, dot, entropy = float64(0), float64(0), float64(0), float64(0)
        values = cuda.local.array(_CHUNK, NUMBER)
        softs = cuda.local.array(_CHUNK, NUMBER)
        first = int64(0)
        while first < p.classes and (STATISTICS or MASS):
            if STATISTICS:
                chunk_of(x_walk, first, p.classes, values)
            if SOFT:
                soft_chunk_of(soft_walk, first, p.classes, softs)
            before, shift = largest, ZERO
            if STATISTICS:
                for j in range(_CHUNK):
                    k = first + j
                    z = z_of(values[j], inner, cap) if k < p.classes else LOWEST
                    values[j] = z
                    if SIDES and z > largest:
                        argmax = k
                    largest = larger(largest, z)
                shift = shift_of(largest)
                if largest > before:
                    # in float64: a row that rises all the way repeats this for every chunk
                    weight = float64(math.exp(float64(before) - float64(shift)))
                    drift = float64(shift_of(before)) - float64(shift)
                    if SIDES:
                        entropy = (entropy + drift * total) * weight
                    total *= weight
                    if DOT:
                        dot += drift * mass
            part, part_mass, part_dot, part_entropy = ZERO, ZERO, ZERO, ZERO
            for j in range(_CHUNK):
                k, difference, t = first + j, ZERO, ZERO
                if STATISTICS:
                    difference = values[j] - shift
                    exp = exp_of(difference)
                    part += exp
                    if SIDES:
                        part_entropy += product_of(exp, difference)
                if MASS and k < p.classes:
                    t = mass_of(p, k, softs[j] if SOFT else ZERO)
                    part_mass += t
                    if DOT:
                        part_dot += product_of(t, difference)
                    if SIDES and SOFT and softs[j] > target_max:
                        target_max, target_argmax = softs[j], k
            total += float64(part)
            mass += float64(part_mass)
            dot += float64(part_dot)
            entropy += float64(part_entropy)
            first += _CHUNK
        return Sums(largest, total, mass, dot, entropy, argmax, target_max, target_argmax)

    return sums_of
