"""Rows of which only some classes are here: their blocks' sums, those merged, and the gradient.

A block is all that a worker needs to know of a row: the blocks of a shard wait for nobody, whoever
works on them. The C++ twin is src_cython/by_shard.hpp.
"""

# ruff: noqa: SIM102 (Numba leaves out what stands behind a bare `is not None`: see kernels.py)

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arithmetic import first_lane, splat
from fastxent.backends.numba_cpu.by_row import finish_group, put_row
from fastxent.backends.numba_cpu.elementary import exp_of_negative, log_of_sum
from fastxent.backends.numba_cpu.fields import group_at
from fastxent.backends.numba_cpu.finish import factor_of, grad_at_label_of
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
from fastxent.backends.numba_cpu.matrix import fill_classes, row_of
from fastxent.backends.numba_cpu.outputs import fate_among, fate_of, fill_row, put_at
from fastxent.backends.numba_cpu.records import GROUP, SLOTS
from fastxent.backends.numba_cpu.row import (
    ARGMAX,
    DOT,
    FACTOR,
    MASS,
    MAX,
    SPREAD,
    SUM,
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
from fastxent.backends.numba_cpu.target import Masses, masses_of_block
from fastxent.backends.numba_cpu.transform import deliver, number_of, prepare, put_number, slope

__all__ = ["backward_unit", "merge_chunk", "partial_unit"]

_GROUP_WORDS = GROUP.words

# A call `p` is the record PASS, `s` the record SHARD. A unit of work is a chunk of rows and a piece
# of their blocks.


@inlined
def unit_of(p: Any, unit: int) -> tuple[int, int, int, int]:
    """First and last row, first and last block of a unit."""
    chunk, piece = unit // p.pieces, unit % p.pieces
    blocks = (p.blocks + p.pieces - 1) // p.pieces
    row, first = chunk * p.chunk_rows, min(piece * blocks, p.blocks)
    return row, min(row + p.chunk_rows, p.rows), first, min(first + blocks, p.blocks)


@inlined
def z_of_block(
    p: Any, logits: int, begin: int, n: int, space: Any, prepared: Any, zero: Any
) -> tuple[Any, Any]:
    """z of a block, where it lies or in `space`, and the largest."""
    z = pointer(logits, begin, zero)
    if prepared is not None:
        if p.reads_directly == 0:
            return space, prepare(p, logits, begin, n, space, prepared, zero)
    return z, block_max(z, n, zero)


@inlined
def logit_of(p: Any, logits: int, k: int, prepared: Any, zero: Any) -> Any:
    """z of one class."""
    if prepared is not None:
        return number_of(p, logits, k, prepared, zero)
    return np.float64(get(pointer(logits, 0, zero), k))


# --- partial


@inlined
def put_sums(p: Any, s: Any, row: int, number: int, sums: Any) -> None:
    """What a block hands up."""
    place = number * p.rows + row
    put_at(s.max, place, sums[MAX], 0.0)
    put_at(s.sum, place, sums[SUM], 0.0)
    put_at(s.mass, place, sums[MASS], 0.0)
    put_at(s.dot, place, sums[DOT], 0.0)
    put_at(s.spread, place, sums[SPREAD], 0.0)
    put_at(s.argmax, place, np.int64(sums[ARGMAX]), np.int64(0))


@inlined
def fill_sums(p: Any, s: Any, row: int, first: int, last: int, sums: Any, number: float) -> None:
    """What blocks of a row that is not computed hand up: 0 where its label is skipped."""
    for i in range(BLOCK_SUMS):
        sums[i] = number
    sums[SUM], sums[ARGMAX] = number + 1.0, -1.0
    for block in range(first, last):
        put_sums(p, s, row, block, sums)
    if first == 0:
        put_at(s.label_logit, row, number, 0.0)


@once
def partial_row(
    p: Any, s: Any, row: int, first: int, last: int, sums: Any, massed: Any, of_soft: Any,
    prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """Sums of the blocks of a row from `first` up to `last`."""
    space, exps, masses = stack(BLOCK, zero), stack(BLOCK, zero), stack(BLOCK, zero)
    logits, size = row_of(p.logits, row), np.int64(64 // lane_count(zero))
    for number in range(first, last):
        begin = number * BLOCK
        n = block_length(begin, p.classes)
        z, top = z_of_block(p, logits, begin, n, space, prepared, zero)
        target = masses_of_block(p, row, begin, n, masses, massed, of_soft, prepared, zero)
        stride = p.logits.class_stride
        ahead = Ahead(logits + (begin + BLOCK) * stride, stride, address_of(exps), size)
        block_forward(z, top, n, target, exps, sums, ahead, massed, prepared, zero)
        sums[SPREAD], sums[ARGMAX] = 0.0, -1.0
        if prepared is not None:
            if s.spread != 0:
                sums[SPREAD] = block_spread(z, top, n, exps, zero)
            if s.argmax != 0:
                sums[ARGMAX] = s.class_offset + begin + first_of(z, n, top)
        put_sums(p, s, row, number, sums)


@once
def partial_unit(
    p: Any, s: Any, unit: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    """One unit of the verb partial."""
    sums = stack(BLOCK_SUMS, 0.0)
    begin, end, first, last = unit_of(p, unit)
    for row in range(begin, end):
        computed, label, filling = fate_among(p, row, s.num_classes)
        if not computed:
            fill_sums(p, s, row, first, last, sums, filling)
            continue
        partial_row(p, s, row, first, last, sums, massed, of_soft, prepared, zero)
        if s.label_logit != 0:
            k = label - s.class_offset
            is_here = label >= 0 and k >= 0 and k < p.classes
            if is_here and first * BLOCK <= k and k < last * BLOCK:
                number = logit_of(p, row_of(p.logits, row), k, prepared, zero)
                put_at(s.label_logit, row, number, 0.0)
            elif first == 0 and not is_here:
                put_at(s.label_logit, row, 0.0, 0.0)


# --- merge


@inlined
def sum_at(array: int, place: int, otherwise: float) -> Any:
    """One of the sums."""
    return otherwise if array == 0 else pointer(array, place, 0.0)[0]


@once
def gather_sums(p: Any, s: Any, row: int, blocks: Any) -> None:
    """What the parts of a row have handed up, as the blocks of a row."""
    for part in range(p.blocks):
        place, block = part * p.rows + row, pointer(blocks, BLOCK_SUMS * part, 0.0)
        block[MAX], block[SUM] = sum_at(s.max, place, 0.0), sum_at(s.sum, place, 0.0)
        block[MASS], block[DOT] = sum_at(s.mass, place, 0.0), sum_at(s.dot, place, 0.0)
        block[SPREAD], block[FACTOR], block[ARGMAX] = sum_at(s.spread, place, 0.0), 1.0, -1.0
        if s.argmax != 0:
            block[ARGMAX] = np.float64(pointer(s.argmax, place, np.int64(0))[0])


@inlined
def merge_parts(p: Any, s: Any, group: Any, slot: int, row: int, label: int, blocks: Any) -> None:
    """A row's sums from those of its parts."""
    gather_sums(p, s, row, blocks)
    group.row[slot], group.at_label[slot], group.spike[slot] = row, 0.0, 0.0
    if label >= 0:
        group.at_label[slot] = sum_at(s.label_logit, row, 0.0)
        group.spike[slot] = pointer(p.spike, label * p.spike_step, 0.0)[0]
    row_max, total, mass, dot, spread, argmax = merge(blocks, p.blocks, 0.0)
    group.max[slot], group.sum[slot] = row_max, total
    group.spread[slot], group.argmax[slot] = spread, np.int64(argmax)
    group.mass[slot] = mass if p.soft.data != 0 else group.spike[slot] + p.background_total
    group.dot[slot] = dot if s.dot != 0 else 0.0


@once
def merge_chunk(p: Any, s: Any, chunk: int, own: int, zero: Any) -> Any:
    """The rows of a chunk; their loss. `own` has room for the sums of all parts."""
    memory, blocks = stack(_GROUP_WORDS, 0.0), pointer(own, 0, 0.0)
    for i in range(_GROUP_WORDS):
        memory[i] = 0.0
    group = group_at(memory)
    total, row = (0.0, 0.0), chunk * p.chunk_rows
    end = min(row + p.chunk_rows, p.rows)
    while row < end:
        slots = 0
        while row < end and slots < SLOTS:
            computed, label, filling = fate_of(p, row)
            if computed:
                merge_parts(p, s, group, slots, row, label, blocks)
                slots += 1
            else:
                fill_row(p, row, filling, False, zero)
                put_at(s.row_mass, row, filling, 0.0)
                total = with_number(total, filling)
            row += 1
        finish_group(p, group)
        for slot in range(slots):
            total = with_number(total, group.loss[slot])
            put_row(p, group, slot, 0.0, zero)
            put_at(s.row_mass, group.row[slot], group.mass[slot], 0.0)
    return value_of(total)


# --- partial_backward


@inlined
def shares_of(p: Any, s: Any, row: int, rows: int, shares: Any) -> None:
    """(T + 2 * z_loss * L) / s of up to eight rows."""
    row_max = load(pointer(s.row_max, row, 0.0), 0, rows, 0.0, 0.0)
    total = load(pointer(s.row_sum, row, 0.0), 0, rows, 1.0, 0.0)
    mass = load(pointer(s.row_mass, row, 0.0), 0, rows, 0.0, 0.0)
    quotient = factor_of(p, mass, row_max + log_of_sum(total)) / total
    store(shares, 0, None, quotient)


@inlined
def at_label_of(
    p: Any, share: float, scale: float, mass: float, exp_at_label: float, at_label: float
) -> Any:
    """The gradient at the label of one row."""
    number = grad_at_label_of(
        p,
        splat(share, 0.0),
        splat(scale, 0.0),
        splat(mass, 0.0),
        splat(exp_at_label, 0.0),
        splat(at_label, 0.0),
    )
    return first_lane(number)


@once
def backward_row(
    p: Any, s: Any, row: int, label: int, first: int, last: int, share: float, massed: Any,
    of_soft: Any, prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """The gradient of the blocks of a row from `first` up to `last`.

    Only a block that has the label reads its logit: others may have been written over.
    """
    space, other, masses = stack(BLOCK, zero), stack(BLOCK, zero), stack(BLOCK, zero)
    sums = stack(BLOCK_SUMS, 0.0)
    logits, grad = row_of(p.logits, row), row_of(p.grad, row)
    row_max = pointer(s.row_max, row, 0.0)[0]
    scale = pointer(p.row_scale, row * p.row_scale_step, 0.0)[0] * p.logit_scale
    here = label - s.class_offset
    capped, in_place = p.softcap != 0.0, p.writes_directly != 0
    # of logits that were capped, or with a target, the last step is one of its own
    in_one_step = massed is None and not in_place and not capped
    for number in range(first, last):
        begin = number * BLOCK
        n = block_length(begin, p.classes)
        z, top = z_of_block(p, logits, begin, n, space, prepared, zero)
        exps = pointer(grad, begin, zero)
        stride = p.grad.class_stride
        ahead = Ahead(
            logits + (begin + BLOCK) * p.logits.class_stride, p.logits.class_stride,
            grad + (begin + BLOCK) * stride, stride,
        )  # fmt: skip
        if prepared is not None:
            if not in_place:
                exps = other
                ahead = Ahead(ahead.source, ahead.source_size, grad + begin * stride, stride)
        has_label = label >= 0 and begin <= here and here < begin + n
        at_label = 0.0
        if has_label:
            at_label = np.float64(get(z, here - begin))
        # the masses have been added up by the verb partial
        block_forward(
            z, top, n, Masses(masses, np.int64(0)), exps, sums, ahead, None, prepared, zero
        )
        factor = 1.0
        if top != row_max:
            factor = exp_of_negative(top - row_max)
        number_at_label = 0.0
        if has_label:
            mass = pointer(p.spike, label * p.spike_step, 0.0)[0]
            if massed is not None:
                background = pointer(p.background, here * p.background_step, zero)
                mass = mass + np.float64(background[0])
            exp_at_label = np.float64(get(exps, here - begin)) * factor
            number_at_label = at_label_of(p, share, scale, mass, exp_at_label, at_label)
        factor, last_factor = share * factor, 1.0
        if massed is None:
            factor = scale * factor
        if in_one_step:
            last_factor = factor
        else:
            target = masses_of_block(p, row, begin, n, masses, massed, of_soft, prepared, zero)
            block_close(exps, n, target, scale, factor, massed, zero)
        if prepared is not None:
            if capped:
                slope(p, exps, z, n, zero)
            if not in_place:
                deliver(exps, last_factor, n, p.grad, grad, begin, prepared, None, zero)
            if has_label:
                put_number(grad, p.grad.class_stride, here, number_at_label, prepared, zero)
        elif has_label:
            put(exps, here - begin, number_at_label)


@once
def backward_unit(
    p: Any, s: Any, unit: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    """One unit of the verb partial_backward."""
    shares = stack(SLOTS, 0.0)
    begin, end, first, last = unit_of(p, unit)
    for row in range(begin, end):
        slot = (row - begin) % SLOTS
        if slot == 0:
            shares_of(p, s, row, min(end - row, SLOTS), shares)
        computed, label, filling = fate_among(p, row, s.num_classes)
        if computed:
            backward_row(
                p, s, row, label, first, last, shares[slot], massed, of_soft, prepared, zero
            )
        elif first == 0:
            fill_classes(p.grad, row, p.classes, filling)
