"""The verbs forward, softmax and check_labels as bodies of chunks, for drivers to run.

The C++ twin is src_cython/kernels.cpp.

Dummies choose the variant that is compiled, by being None or a number: `tiled` for rows in the
lanes, else one by one; `massed` for mass on all classes, `of_soft` for probabilities; `prepared`
for whatever is not contiguous rows of the compute dtype and outputs that cost nothing, a number of
the dtype in which logits are stored (storage.py); `zero` for the compute dtype. All else a prepared
kernel decides as it runs, once a block: so variants do not multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.backends.numba_cpu.body import Body
from fastxent.backends.numba_cpu.by_row import rows_chunk
from fastxent.backends.numba_cpu.by_shared_row import (
    ROW_NUMBERS,
    begin_turn,
    end_turn,
    work_on_piece,
)
from fastxent.backends.numba_cpu.by_tile import tiles_chunk
from fastxent.backends.numba_cpu.drivers import BEGIN_TURN, END_TURN
from fastxent.backends.numba_cpu.fields import label_check_at, pass_at
from fastxent.backends.numba_cpu.jit import serial
from fastxent.backends.numba_cpu.labels import check_chunk, summary
from fastxent.backends.numba_cpu.lanes import pointer

__all__ = ["CHECK_LABELS", "FORWARD", "SHARED", "STATE_BYTES", "label_summary"]

# What a driver of turns keeps for `SHARED`: the turn, and in a line of its own the row's numbers.
_TURN_BYTES = 64
STATE_BYTES = _TURN_BYTES + 8 * ROW_NUMBERS


@Body
def CHECK_LABELS() -> Callable[..., Any]:
    """Labels of a chunk."""

    def check(place: int, other: int, chunk: int, scratch: int) -> Any:
        check_chunk(label_check_at(place), chunk)
        return 0.0

    return check


@serial
def label_summary(place: int) -> tuple[int, int, float]:
    """What was found in all chunks."""
    return summary(label_check_at(place))


@Body
def FORWARD(tiled: Any, massed: Any, of_soft: Any, prepared: Any, zero: Any) -> Callable[..., Any]:
    """Rows of a chunk; gives the sum of their losses."""

    def forward(place: int, other: int, chunk: int, scratch: int) -> Any:
        if tiled is not None:
            return tiles_chunk(pass_at(place), chunk, scratch, massed, of_soft, prepared, zero)
        return rows_chunk(pass_at(place), chunk, scratch, massed, of_soft, prepared, zero)

    return forward


@Body
def SHARED(massed: Any, of_soft: Any, prepared: Any, zero: Any) -> Callable[..., Any]:
    """A piece of the row that all workers work on, or what comes before or after its pieces."""

    def shared(place: int, state: int, piece: int, scratch: int) -> Any:
        p, turn, row = pass_at(place), pointer(state, 0, np.int64(0))[0], state + _TURN_BYTES
        if piece == BEGIN_TURN:
            return 1.0 if begin_turn(p, turn, row, prepared, zero) else 0.0
        if piece == END_TURN:
            end_turn(p, turn, row, massed, prepared, zero)
        else:
            work_on_piece(p, turn, piece, row, scratch, massed, of_soft, prepared, zero)
        return 0.0

    return shared
