"""The pass over rows of many classes, one row after the other.

The C++ twin is src_cython/by_row.hpp.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arguments import Pass
from fastxent.backends.numba_cpu.arithmetic import first_lane, splat
from fastxent.backends.numba_cpu.finish import RowNumbers, finish
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.labels import is_class, is_skipped, label_at
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, put, stack, store
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.row import (
    BLOCK_SUMS,
    FACTOR,
    blocks_close,
    blocks_forward,
    merge,
)
from fastxent.backends.numba_cpu.target import mass_at, target_of

__all__ = [
    "GROUP_NUMBERS",
    "fate_of",
    "fill_row",
    "finish_group",
    "grad_address",
    "group_in",
    "logits_of",
    "merge_row",
    "put_at",
    "put_at_label",
    "put_row",
    "row_target",
    "rows_chunk",
    "start_row",
]


@inlined
def put_at(array: int, row: int, number: float, zero: Any) -> None:
    """Store a statistic of a row, if anybody wants it."""
    if array != 0:
        put(pointer(array, row, zero), 0, number)


@once
def fill_row(p: Pass, row: int, number: float, zero: Any) -> None:
    """A row that is not computed: 0 where its label is skipped."""
    put_at(p.loss, row, number, zero)
    if p.grad != 0:
        grad = pointer(p.grad, row * p.out_stride, zero)
        for k in range(p.classes):
            put(grad, k, number)


@inlined
def fate_of(p: Pass, row: int) -> tuple[Any, int, float]:
    """What becomes of a row by its label: whether it is computed, its label, else its filling."""
    if p.labels == 0:
        return True, -1, 0.0
    label = label_at(p.labels, p.label_kind, row)
    if is_skipped(p, label):
        return False, -1, 0.0
    # checked already, but the array is the caller's: another thread may have written to it
    if not is_class(label, p.classes):
        return False, -1, np.nan
    return True, label, 0.0


class Group(NamedTuple):
    """Some rows on their way through the pass, each in a slot of these arrays.

    start_row, blocks_forward, merge_row for each, finish_group for all, then close_row for each.
    """

    row: Any
    label: Any
    max: Any
    sum: Any
    mass: Any
    dot: Any
    spike: Any
    scale: Any
    at_label: Any
    exp_at_label: Any
    mass_at_label: Any
    loss: Any
    log_sum: Any
    share: Any
    grad_at_label: Any


_SLOTS = 8  # lanes of doubles
GROUP_NUMBERS = 15 * _SLOTS


@inlined
def group_in(memory: Any) -> Group:
    """A group in memory for GROUP_NUMBERS doubles."""
    return Group(
        pointer(memory, 0 * _SLOTS, np.int64(0)),
        pointer(memory, 1 * _SLOTS, np.int64(0)),
        pointer(memory, 2 * _SLOTS, 0.0),
        pointer(memory, 3 * _SLOTS, 0.0),
        pointer(memory, 4 * _SLOTS, 0.0),
        pointer(memory, 5 * _SLOTS, 0.0),
        pointer(memory, 6 * _SLOTS, 0.0),
        pointer(memory, 7 * _SLOTS, 0.0),
        pointer(memory, 8 * _SLOTS, 0.0),
        pointer(memory, 9 * _SLOTS, 0.0),
        pointer(memory, 10 * _SLOTS, 0.0),
        pointer(memory, 11 * _SLOTS, 0.0),
        pointer(memory, 12 * _SLOTS, 0.0),
        pointer(memory, 13 * _SLOTS, 0.0),
        pointer(memory, 14 * _SLOTS, 0.0),
    )


@inlined
def logits_of(p: Pass, row: int, zero: Any) -> Any:
    """Pointer to the logits of a row."""
    return pointer(p.logits, row * p.logits_stride, zero)


@inlined
def grad_address(p: Pass, row: int, zero: Any) -> Any:
    """Address of the gradient of a row, 0 if nobody wants it."""
    return 0 if p.grad == 0 else p.grad + row * p.out_stride * (64 // lane_count(zero))


@inlined
def row_target(p: Pass, row: int, on_all: Any, stored: Any, zero: Any) -> Any:
    """The policy of a row's target; see target_of."""
    return target_of(p, pointer(p.soft, row * p.soft_stride, stored), stored, on_all, zero)


@inlined
def start_row(p: Pass, group: Group, slot: int, row: int, label: int, zero: Any) -> None:
    """What is known before the logits are taken."""
    group.row[slot], group.label[slot] = row, label
    group.at_label[slot], group.spike[slot] = 0.0, 0.0
    if label >= 0:
        # read before anything is written: the gradient may go over the logits
        group.at_label[slot] = np.float64(logits_of(p, row, zero)[label])
        group.spike[slot] = pointer(p.spike, label * p.spike_step, 0.0)[0]
    group.scale[slot] = pointer(p.row_scale, row * p.row_scale_step, 0.0)[0]


@inlined
def merge_row(p: Pass, group: Group, slot: int, target: Any, blocks: Any, zero: Any) -> None:
    """From the blocks' sums to the row's."""
    row_max, total, mass, dot = merge(blocks, p.blocks)
    label = group.label[slot]
    group.max[slot], group.sum[slot] = row_max, total
    group.mass[slot] = mass if p.soft != 0 else group.spike[slot] + p.background_total
    group.dot[slot] = 0.0 if target is None else dot
    group.exp_at_label[slot], group.mass_at_label[slot] = 0.0, 0.0
    if label < 0 or p.grad == 0:
        return
    exps = pointer(grad_address(p, group.row[slot], zero), label, zero)
    factor = blocks[BLOCK_SUMS * (label // BLOCK) + FACTOR]
    group.exp_at_label[slot] = np.float64(exps[0]) * factor
    if target is not None:
        group.mass_at_label[slot] = np.float64(first_lane(mass_at(target, label, 1, zero)))


@inlined
def finish_group(group: Group) -> None:
    """Results of the rows in all slots."""
    results = finish(
        RowNumbers(
            load(group.max, 0, None, 0.0, 0.0),
            load(group.sum, 0, None, 0.0, 0.0),
            load(group.mass, 0, None, 0.0, 0.0),
            load(group.dot, 0, None, 0.0, 0.0),
            load(group.spike, 0, None, 0.0, 0.0),
            load(group.scale, 0, None, 0.0, 0.0),
            load(group.at_label, 0, None, 0.0, 0.0),
            load(group.exp_at_label, 0, None, 0.0, 0.0),
            load(group.mass_at_label, 0, None, 0.0, 0.0),
        )
    )
    store(group.loss, 0, None, results.loss)
    store(group.log_sum, 0, None, results.log_sum)
    store(group.share, 0, None, results.share)
    store(group.grad_at_label, 0, None, results.grad_at_label)


@inlined
def log_proba_of(logits: Any, classes: int, top: Any, log_sum: Any, to: Any, zero: Any) -> None:
    """(z - m) - log s."""
    step = lane_count(zero)
    whole = classes - classes % step
    for k in range(0, whole, step):
        store(to, k, None, load(logits, k, None, 0.0, zero) - top - log_sum)
    if whole < classes:
        some = classes - whole
        store(to, whole, some, load(logits, whole, some, 0.0, zero) - top - log_sum)


@inlined
def put_row(p: Pass, group: Group, slot: int, zero: Any) -> None:
    """What is written of a row besides its gradient."""
    row = group.row[slot]
    put_at(p.loss, row, group.loss[slot], zero)
    put_at(p.row_max, row, group.max[slot], zero)
    put_at(p.row_sum, row, group.sum[slot], 0.0)
    if p.log_proba != 0:
        top, log_sum = splat(group.max[slot], zero), splat(group.log_sum[slot], zero)
        to = pointer(p.log_proba, row * p.out_stride, zero)
        log_proba_of(logits_of(p, row, zero), p.classes, top, log_sum, to, zero)


@inlined
def put_at_label(p: Pass, group: Group, slot: int, zero: Any) -> None:
    """The gradient at the label, after all others."""
    label = group.label[slot]
    if label >= 0:
        exps = pointer(grad_address(p, group.row[slot], zero), label, zero)
        put(exps, 0, group.grad_at_label[slot])


@once
def rows_chunk(
    p: Pass, begin: int, end: int, scratch: int, on_all: Any, stored: Any, zero: Any
) -> Any:
    """Rows from `begin` up to `end`; their loss."""
    memory = stack(GROUP_NUMBERS, 0.0)
    for i in range(GROUP_NUMBERS):
        memory[i] = 0.0
    group = group_in(memory)
    total, row = (0.0, 0.0), begin
    while row < end:
        slots = 0
        while row < end and slots < p.group_rows:
            computed, label, filling = fate_of(p, row)
            if computed:
                blocks = pointer(scratch, slots * p.blocks * BLOCK_SUMS, 0.0)
                target = row_target(p, row, on_all, stored, zero)
                start_row(p, group, slots, row, label, zero)
                logits, exps = logits_of(p, row, zero), grad_address(p, row, zero)
                blocks_forward(logits, p.classes, target, exps, blocks, 0, p.blocks, zero)
                merge_row(p, group, slots, target, blocks, zero)
                slots += 1
            else:
                fill_row(p, row, filling, zero)
                total = with_number(total, filling)
            row += 1
        finish_group(group)
        for slot in range(slots):
            total = with_number(total, group.loss[slot])
            put_row(p, group, slot, zero)
            if p.grad != 0:
                blocks = pointer(scratch, slot * p.blocks * BLOCK_SUMS, 0.0)
                target = row_target(p, group.row[slot], on_all, stored, zero)
                exps = pointer(grad_address(p, group.row[slot], zero), 0, zero)
                scale, share = group.scale[slot], group.share[slot]
                blocks_close(exps, p.classes, target, scale, share, blocks, 0, p.blocks, zero)
                put_at_label(p, group, slot, zero)
    return value_of(total)
