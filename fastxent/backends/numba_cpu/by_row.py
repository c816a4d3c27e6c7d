"""The pass over rows of many classes, one row after the other.

The C++ twin is src_cython/by_row.hpp.
"""

# ruff: noqa: SIM102 (Numba leaves out what stands behind a bare `is not None`: see kernels.py)

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.fields import group_at
from fastxent.backends.numba_cpu.finish import RowNumbers, finish
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import (
    address_of,
    get,
    lane_count,
    load,
    pointer,
    put,
    stack,
    store,
)
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.matrix import row_of
from fastxent.backends.numba_cpu.outputs import (
    fate_of,
    fill_row,
    put_log_proba,
    put_more_statistics,
    put_statistics,
    put_target_grad,
)
from fastxent.backends.numba_cpu.proba import put_hess_at_label, put_proba
from fastxent.backends.numba_cpu.records import GROUP
from fastxent.backends.numba_cpu.row import (
    ARGMAX,
    FACTOR,
    SPREAD,
    Ahead,
    block_close,
    block_forward,
    block_length,
    block_max,
    block_spread,
    first_of,
    merge,
)
from fastxent.backends.numba_cpu.schedule import BLOCK_SUMS
from fastxent.backends.numba_cpu.target import masses_of_block
from fastxent.backends.numba_cpu.transform import (
    deliver,
    number_of,
    prepare,
    put_number,
    slope,
)

__all__ = [
    "blocks_close",
    "blocks_forward",
    "closes",
    "finish_group",
    "merge_row",
    "put_at_label",
    "put_row",
    "rows_chunk",
    "start_row",
]

_GROUP_WORDS = GROUP.words

# A group goes through start_row, blocks_forward, merge_row for each of its rows, finish_group for
# all, then put_row, blocks_close, put_at_label for each. `own` is the address of a worker's memory,
# two buffers for a block; `rows` that of the memory for the group: the sums of its blocks, a buffer
# for z and one for exponentials. Kernels whose dummy `prepared` is None have no buffers.


@inlined
def start_row(
    p: Any, group: Any, slot: int, row: int, label: int, rows: int, prepared: Any, zero: Any
) -> None:
    """What is known before the logits are taken."""
    logits = row_of(p.logits, row)
    grad = row_of(p.grad, row) if p.grad.data != 0 else 0
    group.row[slot], group.label[slot] = row, label
    group.logits[slot], group.grad[slot] = logits, grad
    group.z[slot], group.exps[slot] = logits, grad
    if prepared is not None:
        buffers = rows + (p.group_rows * p.blocks * BLOCK_SUMS * 8 + 63) // 64 * 64
        place = slot * p.classes * (64 // lane_count(zero))
        if p.writes_directly == 0 or grad == 0:
            wanted = grad != 0 or p.entropy != 0 or p.proba.data != 0 or p.hess.data != 0
            group.exps[slot] = buffers + p.buffer_bytes + place if wanted else 0
        if p.keeps_logits != 0:
            group.z[slot] = buffers + place
        elif p.reads_directly == 0:
            group.z[slot] = group.exps[slot]
    group.at_label[slot], group.spike[slot] = 0.0, 0.0
    if label >= 0:
        # read before anything is written: the gradient may go over the logits
        at_label = 0.0
        if prepared is not None:
            at_label = number_of(p, logits, label, prepared, zero)
        else:
            at_label = np.float64(get(pointer(logits, 0, zero), label))
        group.at_label[slot] = at_label
        group.spike[slot] = pointer(p.spike, label * p.spike_step, 0.0)[0]
    scale = pointer(p.row_scale, row * p.row_scale_step, 0.0)[0]
    group.scale[slot] = scale * p.logit_scale


@once
def blocks_forward(
    p: Any, group: Any, slot: int, own: int, blocks: Any, first: int, last: int, massed: Any,
    of_soft: Any, prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """Blocks of a row from `first` up to `last`: a row may be shared out among threads."""
    unread = stack(BLOCK, zero)
    size = 64 // lane_count(zero)
    row, classes, logits = group.row[slot], p.classes, group.logits[slot]
    all_z, all_exps = group.z[slot], group.exps[slot]
    prepares = p.reads_directly == 0 or p.keeps_logits != 0
    highest = -np.inf
    for number in range(first, last):
        begin = number * BLOCK
        n = block_length(begin, classes)
        exps = pointer(all_exps + begin * size, 0, zero) if all_exps != 0 else unread
        sums = pointer(blocks, BLOCK_SUMS * number, 0.0)
        z = pointer(all_z, begin, zero)
        if prepared is not None:
            if all_z == 0:
                z = pointer(own, 0, zero)
            if prepares:
                top = prepare(p, logits, begin, n, z, prepared, zero)
            else:
                top = block_max(z, n, zero)
            sums[ARGMAX] = -1.0
            if p.argmax != 0 and (top > highest or number == first):
                # before the exponentials go over them
                sums[ARGMAX] = begin + first_of(z, n, top)
                highest = top
        else:
            top = block_max(z, n, zero)
        masses = pointer(own + p.block_bytes, 0, zero)
        target = masses_of_block(p, row, begin, n, masses, massed, of_soft, prepared, zero)
        source = logits + (begin + BLOCK) * p.logits.class_stride
        ahead = Ahead(
            source, p.logits.class_stride, address_of(exps) + BLOCK * size, np.int64(size)
        )
        if p.writes_directly == 0 and group.grad[slot] != 0:
            stride = p.grad.class_stride
            ahead = Ahead(source, p.logits.class_stride, group.grad[slot] + begin * stride, stride)
        block_forward(z, top, n, target, exps, sums, ahead, massed, prepared, zero)
        if prepared is not None:
            sums[SPREAD] = 0.0
            if p.entropy != 0:
                sums[SPREAD] = block_spread(z, top, n, exps, zero)


@inlined
def merge_row(
    p: Any, group: Any, slot: int, blocks: Any, massed: Any, prepared: Any, zero: Any
) -> None:
    """From the blocks' sums to the row's."""
    row_max, total, mass, dot, spread, argmax = merge(blocks, p.blocks, prepared)
    label = group.label[slot]
    group.max[slot], group.sum[slot] = row_max, total
    group.spread[slot], group.argmax[slot] = spread, np.int64(argmax)
    group.mass[slot] = mass if p.soft.data != 0 else group.spike[slot] + p.background_total
    group.dot[slot] = 0.0
    if massed is not None:
        group.dot[slot] = dot
    group.exp_at_label[slot], group.mass_at_label[slot] = 0.0, 0.0
    if label < 0 or group.exps[slot] == 0:
        return
    factor = blocks[BLOCK_SUMS * (label // BLOCK) + FACTOR]
    at_label = get(pointer(group.exps[slot], 0, zero), label)
    group.exp_at_label[slot] = np.float64(at_label) * factor
    if massed is not None:
        # a row that has a label has no probabilities
        group.mass_at_label[slot] = np.float64(
            pointer(p.background, label * p.background_step, zero)[0]
        )


@inlined
def eight(numbers: Any) -> Any:
    """Of all slots."""
    return load(numbers, 0, None, 0.0, 0.0)


@once
def finish_group(p: Any, group: Any) -> None:
    """Results of the rows in all slots."""
    results = finish(
        p,
        RowNumbers(
            eight(group.max),
            eight(group.sum),
            eight(group.mass),
            eight(group.dot),
            eight(group.spike),
            eight(group.scale),
            eight(group.at_label),
            eight(group.exp_at_label),
            eight(group.mass_at_label),
        ),
    )
    store(group.loss, 0, None, results.loss)
    store(group.log_sum, 0, None, results.log_sum)
    store(group.share, 0, None, results.share)
    store(group.grad_at_label, 0, None, results.grad_at_label)
    store(group.log_prob, 0, None, results.log_prob)


@inlined
def put_row(p: Any, group: Any, slot: int, prepared: Any, zero: Any) -> None:
    """Statistics of a row."""
    row, total = group.row[slot], group.sum[slot]
    put_statistics(p, row, group.loss[slot], group.max[slot], total, group.log_prob[slot], zero)
    if prepared is not None:
        spread, argmax = group.spread[slot], group.argmax[slot]
        put_more_statistics(p, row, total, group.log_sum[slot], spread, argmax, zero)


@inlined
def closes(p: Any) -> Any:
    """Whether anything is written of a row that has a number for each class."""
    if p.proba.data != 0 or p.hess.data != 0:
        return True
    return p.grad.data != 0 or p.log_proba.data != 0 or p.target_grad.data != 0


@once
def blocks_close(
    p: Any, group: Any, slot: int, own: int, blocks: Any, first: int, last: int, massed: Any,
    of_soft: Any, prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """What is written of blocks once the row's sums are known."""
    size = 64 // lane_count(zero)
    row, scale, share = group.row[slot], group.scale[slot], group.share[slot]
    top, log_sum, grad = group.max[slot], group.log_sum[slot], group.grad[slot]
    all_z, all_exps = group.z[slot], group.exps[slot]
    space = pointer(own, 0, zero)
    capped, in_place = p.softcap != 0.0, p.writes_directly != 0
    # of logits that were capped, or with a target, the last step is one of its own
    in_one_step = massed is None and not in_place and not capped
    for number in range(first, last):
        begin = number * BLOCK
        n = block_length(begin, p.classes)
        z = pointer(all_z + begin * size, 0, zero)
        if p.log_proba.data != 0:
            put_log_proba(p, row, begin, n, z, top, log_sum, space, prepared, zero)
        if prepared is not None:
            if of_soft is not None:
                if p.target_grad.data != 0:
                    put_target_grad(p, row, begin, n, z, top, log_sum, space, zero)
            if p.proba.data != 0 or p.hess.data != 0:
                part = blocks[BLOCK_SUMS * number + FACTOR] / group.sum[slot]
                exps = pointer(all_exps + begin * size, 0, zero)
                put_proba(p, row, begin, n, exps, part, space, prepared, zero)
        if grad == 0:
            continue
        factor, last_factor = share * blocks[BLOCK_SUMS * number + FACTOR], 1.0
        exps = pointer(all_exps + begin * size, 0, zero)
        if massed is None:
            factor = scale * factor
        if in_one_step:
            last_factor = factor
        else:
            masses = pointer(own + p.block_bytes, 0, zero)
            target = masses_of_block(p, row, begin, n, masses, massed, of_soft, prepared, zero)
            block_close(exps, n, target, scale, factor, massed, zero)
        if prepared is not None:
            if capped:
                slope(p, exps, z, n, zero)
            if not in_place:
                deliver(exps, last_factor, n, p.grad, grad, begin, prepared, None, zero)


@inlined
def put_at_label(p: Any, group: Any, slot: int, prepared: Any, zero: Any) -> None:
    """The gradient at the label, after all others."""
    label, grad = group.label[slot], group.grad[slot]
    if grad != 0 and label >= 0:
        if prepared is not None:
            number = group.grad_at_label[slot]
            put_number(grad, p.grad.class_stride, label, number, prepared, zero)
        else:
            put(pointer(grad, 0, zero), label, group.grad_at_label[slot])
    if prepared is not None:
        if p.hess.data != 0 and label >= 0:
            exp, total = group.exp_at_label[slot], group.sum[slot]
            put_hess_at_label(p, group.row[slot], label, exp, total, prepared, zero)


@once
def rows_chunk(
    p: Any, chunk: int, own: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> Any:
    """The rows of a chunk; their loss."""
    memory = stack(_GROUP_WORDS, 0.0)
    for i in range(_GROUP_WORDS):
        memory[i] = 0.0
    group = group_at(memory)
    rows = p.shared_rows if p.shared_rows != 0 else own + 2 * p.block_bytes
    total, row = (0.0, 0.0), chunk * p.chunk_rows
    end = min(row + p.chunk_rows, p.rows)
    while row < end:
        slots = 0
        while row < end and slots < p.group_rows:
            computed, label, filling = fate_of(p, row)
            if computed:
                blocks = pointer(rows, slots * p.blocks * BLOCK_SUMS, 0.0)
                start_row(p, group, slots, row, label, rows, prepared, zero)
                blocks_forward(
                    p, group, slots, own, blocks, 0, p.blocks, massed, of_soft, prepared, zero
                )
                merge_row(p, group, slots, blocks, massed, prepared, zero)
                slots += 1
            else:
                fill_row(p, row, filling, True, zero)
                total = with_number(total, filling)
            row += 1
        finish_group(p, group)
        for slot in range(slots):
            total = with_number(total, group.loss[slot])
            put_row(p, group, slot, prepared, zero)
            if closes(p):
                blocks = pointer(rows, slot * p.blocks * BLOCK_SUMS, 0.0)
                blocks_close(
                    p, group, slot, own, blocks, 0, p.blocks, massed, of_soft, prepared, zero
                )
                put_at_label(p, group, slot, prepared, zero)
    return value_of(total)
