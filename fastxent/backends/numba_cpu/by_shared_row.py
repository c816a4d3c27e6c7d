"""The pass over rows so few and long that all workers work on each of them, a piece at a time.

A row takes two turns: its forward pieces, then its closing ones. What a turn needs to know of the
row lies in the first slot of a group. Cutting a row up changes no bit of it: the blocks' sums are
merged in their order. The C++ twin is by_shared_row in src_cython/by_row.hpp.
"""

from __future__ import annotations

from typing import Any

from fastxent.backends.numba_cpu.by_row import (
    blocks_close,
    blocks_forward,
    closes,
    finish_group,
    merge_row,
    put_at_label,
    put_row,
    start_row,
)
from fastxent.backends.numba_cpu.fields import group_at
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import pointer
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.outputs import fate_of, fill_row
from fastxent.backends.numba_cpu.records import GROUP

__all__ = ["ROW_NUMBERS", "begin_turn", "end_turn", "work_on_piece"]

# A group, and the loss of a chunk's rows.
ROW_NUMBERS = GROUP.words + 2
_GROUP_WORDS = GROUP.words


@inlined
def put_total(memory: int, total: Any) -> None:
    """Keep the sum of the losses of a chunk's rows behind the group."""
    place = pointer(memory, _GROUP_WORDS, 0.0)
    place[0], place[1] = total


@inlined
def add_to_total(p: Any, row: int, memory: int, loss: float) -> None:
    """Add a row's loss to that of its chunk."""
    place = pointer(memory, _GROUP_WORDS, 0.0)
    place[0], place[1] = with_number((place[0], place[1]), loss)
    pointer(p.totals, row // p.chunk_rows, 0.0)[0] = value_of((place[0], place[1]))


@once
def begin_turn(p: Any, turn: int, memory: int, prepared: Any, zero: Any) -> Any:
    """Whether there is something to do; `memory` has ROW_NUMBERS doubles."""
    group = group_at(memory)
    row = turn // 2
    if turn % 2 != 0:
        return group.row[0] == row and closes(p)
    if row % p.chunk_rows == 0:
        put_total(memory, (0.0, 0.0))
    computed, label, filling = fate_of(p, row)
    if computed:
        start_row(p, group, 0, row, label, p.shared_rows, prepared, zero)
    else:
        fill_row(p, row, filling, True, zero)
        add_to_total(p, row, memory, filling)
        group.row[0] = -1
    return computed


@once
def work_on_piece(
    p: Any,
    turn: int,
    piece: int,
    memory: int,
    own: int,
    massed: Any,
    of_soft: Any,
    prepared: Any,
    zero: Any,
) -> None:
    """One piece of the row."""
    group, blocks = group_at(memory), pointer(p.shared_rows, 0, 0.0)
    count = (p.blocks + p.pieces - 1) // p.pieces
    first, last = min(piece * count, p.blocks), min((piece + 1) * count, p.blocks)
    if turn % 2 == 0:
        blocks_forward(p, group, 0, own, blocks, first, last, massed, of_soft, prepared, zero)
    else:
        blocks_close(p, group, 0, own, blocks, first, last, massed, of_soft, prepared, zero)


@once
def end_turn(p: Any, turn: int, memory: int, massed: Any, prepared: Any, zero: Any) -> None:
    """What follows when all pieces are done."""
    group = group_at(memory)
    if turn % 2 != 0:
        put_at_label(p, group, 0, prepared, zero)
        return
    merge_row(p, group, 0, pointer(p.shared_rows, 0, 0.0), massed, prepared, zero)
    finish_group(p, group)
    add_to_total(p, group.row[0], memory, group.loss[0])
    put_row(p, group, 0, prepared, zero)
