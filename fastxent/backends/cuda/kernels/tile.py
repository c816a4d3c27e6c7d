"""A row for each thread, for few classes: a block moves its rows as one piece of memory.

The numbers of a row are in the registers of its thread. Rows may begin anywhere: what does not fill
a vector at the ends of the piece is moved number by number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.arguments import kernel_of
from fastxent.backends.cuda.kernels.epilogue import epilogue_of
from fastxent.backends.cuda.kernels.numbers import block_summer
from fastxent.backends.cuda.kernels.storage import SIZES
from fastxent.backends.cuda.kernels.tile_memory import tile_memory_of
from fastxent.backends.cuda.kernels.tile_row import tile_row_of
from fastxent.backends.cuda.specs import TileGeometry, Variant

__all__ = ["make"]

cuda = machine.cuda
int32: Any = np.int32
int64: Any = np.int64


def make(variant: Variant, geometry: TileGeometry) -> Callable[..., None]:
    """Give the kernel for a number of classes."""
    CLASSES, ROWS, KIND = geometry.classes, geometry.rows, variant.kind
    WARPS = ROWS // 32
    SUM_BYTES = 8 * WARPS
    elements, of_row = elements_of(variant), tile_row_of(variant, CLASSES)
    NUMBER, ZERO = elements.number, elements.number(0)
    block_sum = block_summer(NUMBER, WARPS)
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
    # A thread reads and writes its own row only, so that the gradient can take the place of the
    # logits at once; but the two pieces may begin at different bytes, and others may come between.
    WAITS = SOFT or not geometry.aligned
    fetch, read, read_one = main.fetch, main.read, main.read_one
    write, write_one, flush = main.write, main.write_one, main.flush
    fetch_soft, read_soft = soft_tile.fetch, soft_tile.read
    write_target, flush_target = target_grad_tile.write, target_grad_tile.flush
    SIZE, SOFT_SIZE, TARGET_GRAD_SIZE = SIZES[KIND], SIZES[soft_kind], SIZES[target_grad_kind]
    label_of = epilogue_of(variant).label_of
    sums, finish, main_of = of_row.sums, of_row.finish, of_row.main
    proba, hess, target_grad = of_row.proba, of_row.hess, of_row.target_grad

    def body(p: Any) -> None:
        t = int32(machine.thread())
        first_row = int64(machine.block()) * ROWS
        rows = int32(min(int64(ROWS), p.rows - first_row))
        row = first_row + min(t, int32(rows - 1))
        lives = t < rows
        count = int32(rows * CLASSES)
        offset = first_row * CLASSES
        tile = machine.shared_memory(BYTES)
        values, softs = cuda.local.array(CLASSES, NUMBER), cuda.local.array(CLASSES, NUMBER)
        exps, out = cuda.local.array(CLASSES, NUMBER), cuda.local.array(CLASSES, NUMBER)
        # threads past the last row have its label and nothing else: they write nothing
        label = int32(label_of(p, row))
        logits = p.logits + offset * SIZE
        fetch(tile, logits, count, t)
        x_at_label = ZERO
        if lives:
            read(tile, logits, t, values)
            if HARD:
                x_at_label = read_one(tile, logits, int32(t * CLASSES + max(label, int32(0))))
        if SOFT:
            machine.barrier()
            fetch_soft(tile, p.soft + offset * SOFT_SIZE, count, t)
            if lives:
                read_soft(tile, p.soft + offset * SOFT_SIZE, t, softs)
        r = sums(p, row, label, x_at_label, values, softs, exps)
        if not BACKWARD:
            loss = ZERO
            if lives:
                loss = finish(p, row, r)
            if LOSS and p.partial != 0:
                total = block_sum(loss, int64(t), machine.shared_memory(SUM_BYTES))
                if t == 0:
                    machine.store_f64(p.partial + 8 * int64(machine.block()), total)
        if WRITES:
            result = p.proba if IS_SOFTMAX else p.grad
            if WAITS:
                machine.barrier()
            if result != 0:
                special, is_special = main_of(p, row, r, values, softs, exps, out)
                if lives:
                    write(tile, result + offset * SIZE, t, out)
                    if HARD and is_special:
                        at = int32(t * CLASSES + label)
                        write_one(tile, result + offset * SIZE, at, special)
                flush(tile, result + offset * SIZE, count, t)
            if PROBA and p.proba != 0:
                machine.barrier()
                proba(r, exps, out)
                if lives:
                    write(tile, p.proba + offset * SIZE, t, out)
                flush(tile, p.proba + offset * SIZE, count, t)
            if HESS and p.hess != 0:
                machine.barrier()
                hess(p, row, r, exps, out)
                if lives:
                    write(tile, p.hess + offset * SIZE, t, out)
                flush(tile, p.hess + offset * SIZE, count, t)
            if TARGET_GRAD and p.target_grad != 0:
                machine.barrier()
                target_grad(p, row, r, values, out)
                if lives:
                    write_target(tile, p.target_grad + offset * TARGET_GRAD_SIZE, t, out)
                flush_target(tile, p.target_grad + offset * TARGET_GRAD_SIZE, count, t)

    return kernel_of(body)
