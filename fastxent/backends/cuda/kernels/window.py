"""Which part of a row lies in whole 16-byte vectors, and the few numbers before and behind it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.kernels.storage import VECTOR, storage_of

__all__ = ["Cutting", "Window", "cutting_of"]

int32: Any = np.int32


class Window(NamedTuple):
    """Numbers before the first vector, vectors, numbers behind the last one."""

    head: Any
    vectors: Any
    rest: Any


class Cutting(NamedTuple):
    """The functions; a window is `Window`.

    Attributes
    ----------
    edges : int
        Most numbers outside the vectors.
    window_of : function of (address, classes)
        Window of a row; of no classes an empty one.
    edge_of : function of (window, member)
        Class of edge number `member`, and whether there is one.
    place_of : function of (window, k)
        Number of the vector that class k is in, and -1; or -1 and its number as an edge.
    """

    edges: int
    window_of: Any
    edge_of: Any
    place_of: Any


def cutting_of(kind: str, aligned: bool, integer: Any = int32) -> Cutting:
    """Make the functions for rows of a kind; in aligned ones everything is whole vectors."""
    stored = storage_of(kind)
    LANES, ALIGNED = stored.lanes, aligned
    LANE_BITS, SIZE_BITS = LANES.bit_length() - 1, stored.size.bit_length() - 1

    @register_jitable
    def window_of(address: Any, classes: Any) -> Any:
        if ALIGNED:
            return Window(integer(0), integer(classes >> LANE_BITS), integer(0))
        head = integer((-address & (VECTOR - 1)) >> SIZE_BITS)
        head = integer(min(head, classes))
        inner = integer(classes - head)
        return Window(head, integer(inner >> LANE_BITS), integer(inner & (LANES - 1)))

    @register_jitable
    def edge_of(window: Any, member: Any) -> Any:
        if member < LANES:
            return integer(member), member < window.head
        behind = integer(member - LANES)
        k = integer(window.head + (window.vectors << LANE_BITS) + behind)
        return k, behind < window.rest

    @register_jitable
    def place_of(window: Any, k: Any) -> Any:
        if ALIGNED:
            return integer(k >> LANE_BITS), integer(-1)
        if k < window.head:
            return integer(-1), integer(k)
        vector = integer((k - window.head) >> LANE_BITS)
        if vector < window.vectors:
            return vector, integer(-1)
        behind = integer(k - window.head - (window.vectors << LANE_BITS))
        return integer(-1), integer(LANES + behind)

    return Cutting(0 if ALIGNED else 2 * LANES, window_of, edge_of, place_of)
