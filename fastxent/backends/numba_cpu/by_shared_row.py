"""The pass over rows so few and long that all workers work on each of them, a piece at a time.

A row takes two turns: its forward pieces, then its closing ones. What a turn needs to know of the
row lies in the first slot of a group. Cutting a row up changes no bit of it: the blocks' sums are
merged in their order. The C++ twin is by_shared_row in src_cython/by_row.hpp.
"""

from __future__ import annotations

from typing import Any

from fastxent.backends.numba_cpu.arguments import Pass
from fastxent.backends.numba_cpu.by_row import (
    GROUP_NUMBERS,
    fate_of,
    fill_row,
    finish_group,
    grad_address,
    group_in,
    logits_of,
    merge_row,
    put_at_label,
    put_row,
    row_target,
    start_row,
)
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import pointer
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.row import blocks_close, blocks_forward

__all__ = ["ROW_NUMBERS", "begin_turn", "end_turn", "work_on_piece"]

# A group, and the loss of a chunk's rows.
ROW_NUMBERS = GROUP_NUMBERS + 2


@inlined
def put_total(memory: int, total: Any) -> None:
    """Keep the sum of the losses of a chunk's rows behind the group."""
    place = pointer(memory, GROUP_NUMBERS, 0.0)
    place[0], place[1] = total


@inlined
def add_to_total(p: Pass, row: int, memory: int, loss: float) -> None:
    """Add a row's loss to that of its chunk."""
    place = pointer(memory, GROUP_NUMBERS, 0.0)
    place[0], place[1] = with_number((place[0], place[1]), loss)
    pointer(p.totals, row // p.chunk_rows, 0.0)[0] = value_of((place[0], place[1]))


@once
def begin_turn(p: Pass, turn: int, memory: int, zero: Any) -> Any:
    """Whether there is something to do; `memory` has ROW_NUMBERS doubles."""
    group = group_in(pointer(memory, 0, 0.0))
    row = turn // 2
    if turn % 2 != 0:
        return group.row[0] == row and p.grad != 0
    if row % p.chunk_rows == 0:
        put_total(memory, (0.0, 0.0))
    computed, label, filling = fate_of(p, row)
    if computed:
        start_row(p, group, 0, row, label, zero)
    else:
        fill_row(p, row, filling, zero)
        add_to_total(p, row, memory, filling)
        group.row[0] = -1
    return computed


@once
def work_on_piece(
    p: Pass, turn: int, piece: int, memory: int, on_all: Any, stored: Any, zero: Any
) -> None:
    """One piece of the row."""
    group, blocks = group_in(pointer(memory, 0, 0.0)), pointer(p.scratch, 0, 0.0)
    row = group.row[0]
    count = (p.blocks + p.pieces - 1) // p.pieces
    first, last = min(piece * count, p.blocks), min((piece + 1) * count, p.blocks)
    target = row_target(p, row, on_all, stored, zero)
    exps = grad_address(p, row, zero)
    if turn % 2 == 0:
        blocks_forward(logits_of(p, row, zero), p.classes, target, exps, blocks, first, last, zero)
    else:
        to, scale, share = pointer(exps, 0, zero), group.scale[0], group.share[0]
        blocks_close(to, p.classes, target, scale, share, blocks, first, last, zero)


@once
def end_turn(p: Pass, turn: int, memory: int, on_all: Any, stored: Any, zero: Any) -> None:
    """What follows when all pieces are done."""
    group = group_in(pointer(memory, 0, 0.0))
    row = group.row[0]
    if turn % 2 != 0:
        put_at_label(p, group, 0, zero)
        return
    target = row_target(p, row, on_all, stored, zero)
    merge_row(p, group, 0, target, pointer(p.scratch, 0, 0.0), zero)
    finish_group(group)
    add_to_total(p, row, memory, group.loss[0])
    put_row(p, group, 0, zero)
