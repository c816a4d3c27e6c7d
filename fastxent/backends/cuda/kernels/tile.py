"""A row for each thread, for few classes: a block moves its rows as one piece of memory.

The numbers of a row are in the registers of its thread. Rows may begin anywhere: what does not fill
a vector at the ends of the piece is moved number by number.
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
from fastxent.backends.cuda.kernels.epilogue import GOOD, NO_CLASS, Sums, epilogue_of
from fastxent.backends.cuda.kernels.numbers import block_sum
from fastxent.backends.cuda.kernels.results import results_of
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.kernels.tile_memory import tile_memory_of
from fastxent.backends.cuda.specs import TileGeometry, Variant

__all__ = ["make"]

cuda = machine.cuda
float64, int64 = np.float64, np.int64


def make(variant: Variant, geometry: TileGeometry) -> Callable[..., None]:
    """Give the kernel for a number of classes."""
    CLASSES, ROWS, KIND = geometry.classes, geometry.rows, variant.kind
    WARPS = ROWS // 32
    SUM_BYTES = 8 * WARPS
    elements, epilogue, results = elements_of(variant), epilogue_of(variant), results_of(variant)
    NUMBER, ZERO = elements.number, elements.number(0)
    HARD, SOFT = variant.target == "label", elements.needs_total
    LOSS, BACKWARD = variant.task in ("loss", "grad"), variant.task == "backward"
    IS_SOFTMAX = variant.task in ("softmax", "log_softmax")
    WRITES, TARGET_GRAD = variant.task != "loss", variant.target_grad
    PROBA, HESS = variant.curvature != "", variant.curvature in ("product", "distance")
    soft_kind = variant.target if SOFT else KIND
    target_grad_kind = KIND if soft_kind == "uint8" else soft_kind
    tiles = {
        kind: tile_memory_of(kind, CLASSES, ROWS, geometry.aligned and kind == KIND, NUMBER)
        for kind in (KIND, soft_kind, target_grad_kind)
    }
    main, soft_tile, target_grad_tile = tiles[KIND], tiles[soft_kind], tiles[target_grad_kind]
    BYTES = max(tile.room for tile in tiles.values())
    fetch, put, flush = main.fetch, main.put, main.flush
    fetch_soft, put_target, flush_target = (
        *(soft_tile.fetch, target_grad_tile.put, target_grad_tile.flush),
    )
    stored = storage_of(KIND)
    SIZE, SOFT_SIZE = stored.size, storage_of(soft_kind).size
    TARGET_GRAD_SIZE = storage_of(target_grad_kind).size
    load_number, NUMBER_SIZE = storage_of(elements.number_kind).load, np.dtype(NUMBER).itemsize
    sums_of = _sums_of(variant, CLASSES)
    bend_of, z_of = elements.bend_of, elements.z_of
    label_of, finish = epilogue.label_of, epilogue.finish
    row_of, element_of, at_label = results.row_of, results.element_of, results.at_label

    def body(p: Any) -> None:
        t = int64(machine.thread())
        first_row = int64(machine.block()) * ROWS
        row = first_row + t
        count = min(int64(ROWS), p.rows - first_row) * CLASSES
        offset = first_row * CLASSES
        mine = t * CLASSES  # where the thread's row begins in the piece
        lives = row < p.rows
        tile = machine.shared_memory(BYTES)
        values = cuda.local.array(CLASSES, NUMBER)
        softs = cuda.local.array(CLASSES, NUMBER)
        label, state = label_of(p, row) if lives else (int64(-1), GOOD)
        fetch(tile, p.logits + offset * SIZE, count, t, values)
        if SOFT:
            fetch_soft(tile, p.soft + offset * SOFT_SIZE, count, t, softs)
        loss, x_at_label = float64(0), ZERO
        sums = sums_of(p, values, softs)
        if BACKWARD and lives:
            row_max = load_number(p.row_max + row * NUMBER_SIZE)
            row_sum = machine.load_f64(p.row_sum + row * 8)
        else:
            row_max, row_sum = sums.max, sums.sum
        if HARD:
            for k in range(CLASSES):
                x = values[k]
                if k == label:
                    x_at_label = x
        if lives and not BACKWARD:
            inner, cap = bend_of(p)
            loss = finish(p, row, label, state, z_of(x_at_label, inner, cap), sums)
        if LOSS and p.partial != 0:
            total = block_sum(loss, t, machine.shared_memory(SUM_BYTES), WARPS)
            if t == 0:
                machine.store_f64(p.partial + 8 * int64(machine.block()), total)
        if WRITES:
            r = row_of(p, row if lives else int64(0), label, state, row_max, row_sum, sums.mass)
            shown = r.lives if IS_SOFTMAX else r.counts
            out = p.proba if IS_SOFTMAX else p.grad
            if out != 0:
                place = out + offset * SIZE
                if lives:
                    for k in range(CLASSES):
                        found = element_of(p, r, int64(k), values[k], softs[k])
                        put(tile, place, mine + k, found.main if shown else ZERO)
                    if HARD and r.counts:
                        found = at_label(p, row, label, x_at_label, row_max, row_sum)
                        put(tile, place, mine + label, found.main)
                flush(tile, place, count, t)
            if PROBA and p.proba != 0:
                place = p.proba + offset * SIZE
                if lives:
                    for k in range(CLASSES):
                        found = element_of(p, r, int64(k), values[k], softs[k])
                        put(tile, place, mine + k, found.proba if r.lives else ZERO)
                flush(tile, place, count, t)
            if HESS and p.hess != 0:
                place = p.hess + offset * SIZE
                if lives:
                    for k in range(CLASSES):
                        found = element_of(p, r, int64(k), values[k], softs[k])
                        put(tile, place, mine + k, found.hess if r.counts else ZERO)
                    if HARD and r.counts:
                        found = at_label(p, row, label, x_at_label, row_max, row_sum)
                        put(tile, place, mine + label, found.hess)
                flush(tile, place, count, t)
            if TARGET_GRAD and p.target_grad != 0:
                place = p.target_grad + offset * TARGET_GRAD_SIZE
                if lives:
                    for k in range(CLASSES):
                        found = element_of(p, r, int64(k), values[k], softs[k])
                        value = found.target_grad if r.counts else ZERO
                        put_target(tile, place, mine + k, value)
                flush_target(tile, place, count, t)

    return kernel_of(body)


def _sums_of(variant: Variant, classes: int) -> Any:
    """Make the function for the sums of a row in registers."""
    elements = elements_of(variant)
    CLASSES, NUMBER, ZERO = classes, elements.number, elements.number(0)
    LOWEST = NUMBER(-math.inf)
    STATISTICS, SIDES, SOFT = variant.task != "backward", variant.sides, elements.needs_total
    DOT = elements.has_mass and variant.task in ("loss", "grad")
    bend_of, z_of, larger = elements.bend_of, elements.z_of, elements.larger
    shift_of, exp_of = elements.shift_of, elements.exp_of
    mass_of, product_of = elements.mass_of, elements.product_of

    @register_jitable
    def sums_of(p: Any, values: Any, softs: Any) -> Any:
        inner, cap = bend_of(p)
        largest, argmax = LOWEST, NO_CLASS
        target_max, target_argmax = LOWEST, NO_CLASS
        total, mass, dot, entropy = ZERO, ZERO, ZERO, ZERO
        if STATISTICS:
            for k in range(CLASSES):
                largest = larger(largest, z_of(values[k], inner, cap))
        shift = shift_of(largest)
        for k in range(CLASSES):
            if STATISTICS:
                difference = z_of(values[k], inner, cap) - shift
                exp = exp_of(difference)
                total += exp
                if DOT:
                    mass_here = mass_of(p, int64(k), softs[k])
                    dot += product_of(mass_here, difference)
                if SIDES:
                    entropy += product_of(exp, difference)
                    if argmax == NO_CLASS and difference == ZERO:
                        argmax = int64(k)
            if SOFT:
                mass += mass_of(p, int64(k), softs[k])
                if SIDES and softs[k] > target_max:
                    target_max, target_argmax = softs[k], int64(k)
        return Sums(
            *(largest, float64(total), float64(mass), float64(dot), float64(entropy)),
            *(argmax, target_max, target_argmax),
        )

    return sums_of
