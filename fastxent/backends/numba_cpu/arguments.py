"""What crosses into the kernels: addresses, strides and counts, as one tuple of plain numbers.

Plain numbers give one compiled signature per verb and dtype, whatever the arrays' layout, and cost
0.6 us a call; a named tuple costs 1.9 us, so kernels rebuild it themselves. An address of 0 means
absent. Strides count elements.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.contract import BLOCK, CHUNK_ELEMENTS, TILE_CLASSES
from fastxent.precision import Array

__all__ = [
    "LabelCheck",
    "Memory",
    "Pass",
    "Schedule",
    "address",
    "chunk_rows_of",
    "group_rows_of",
    "label_arguments",
    "over",
    "schedule_of",
    "stride",
]


class Pass(NamedTuple):
    """One pass over the rows: the verbs forward and softmax.

    The softmax is the gradient of rows whose whole mass is 1 and lies on no class. A step is 1 for
    an array and 0 for a constant; a constant of the compute dtype fills 64 bytes.
    """

    rows: int
    classes: int
    logits: int
    logits_stride: int
    row_scale: int
    row_scale_step: int
    chunk_rows: int  # rows that a worker takes at a time; one total each
    chunks: int
    blocks: int  # of a row
    group_rows: int  # rows that a worker finishes together
    labels: int = 0
    label_kind: int = 0  # bytes of one label, negative for unsigned ones
    has_skip: int = 0
    skip: int = 0  # its 64-bit pattern
    soft: int = 0
    soft_stride: int = 0
    gain: int = 0
    gain_step: int = 0
    background: int = 0
    background_step: int = 0
    background_total: float = 0.0  # the whole mass of a row without labels and probabilities
    spike: int = 0
    spike_step: int = 0
    loss: int = 0
    total: int = 0
    row_max: int = 0
    row_sum: int = 0
    grad: int = 0
    log_proba: int = 0
    out_stride: int = 0  # of grad or log_proba
    pieces: int = 1  # of a row: more than one where workers share it
    workers: int = 1
    counter: int = 0  # of the chunks or pieces handed out
    totals: int = 0  # of the chunks, where workers share them
    scratch: int = 0  # for each worker: the blocks' sums of a group of rows
    scratch_bytes: int = 0


class LabelCheck(NamedTuple):
    """One pass of the verb check_labels."""

    rows: int
    classes: int
    labels: int
    label_kind: int
    has_skip: int
    skip: int
    class_mass: int
    row_mass: int
    chunks: int
    found: int  # three numbers for each chunk: bad row, live rows, mass
    workers: int
    counter: int


class Schedule(NamedTuple):
    """How a pass is cut up.

    It depends on the shape only, but for `pieces` and `workers`, which change no bit of the result.
    """

    chunk_rows: int
    chunks: int
    blocks: int
    group_rows: int
    pieces: int
    workers: int
    scratch_bytes: int  # of each worker: five numbers for each block of a group's rows


# Rows of a chunk of tiles are whole tiles of 16 rows.
_TILE_ROWS = 16

# Until rows are closed their exponentials are to stay in L1: so many classes at a time. 1,024 took
# 130 ns a row of 300 classes and 375 of 1,000, where 4,096 take 121 and 338.
_GROUP_CLASSES = 4096


def over(number: int, by: int) -> int:
    """Quotient, rounded up."""
    return (number + by - 1) // by


def chunk_rows_of(classes: int) -> int:
    """Rows of a chunk."""
    rows = max(1, CHUNK_ELEMENTS // classes)
    return -(-rows // _TILE_ROWS) * _TILE_ROWS if classes <= TILE_CLASSES else rows


def group_rows_of(classes: int) -> int:
    """Rows that are finished together, at most as many as there are lanes of doubles."""
    return min(max(1, _GROUP_CLASSES // classes), 8)


@functools.lru_cache(256)  # 1 us; a program calls with the same few shapes
def schedule_of(rows: int, classes: int, most_workers: int) -> Schedule:
    """Cut up a pass: into chunks of rows, or rows into pieces where there are too few chunks."""
    chunk_rows = chunk_rows_of(classes)
    chunks, pieces = over(rows, chunk_rows), 1
    if classes > TILE_CLASSES and most_workers > 1 and chunks < 2 * most_workers:
        pieces = min(over(classes, CHUNK_ELEMENTS), 8 * most_workers)
    workers = max(1, min(most_workers, chunks if pieces == 1 else pieces))
    blocks, group_rows = over(classes, BLOCK), group_rows_of(classes)
    scratch_bytes = 8 * 5 * blocks * group_rows
    return Schedule(chunk_rows, chunks, blocks, group_rows, pieces, workers, scratch_bytes)


_from_buffer: Any = ctypes.c_char.from_buffer


def address(array: Array | None) -> int:
    """Where an array begins: in 0.2 us where it can be written and is contiguous, else in 1."""
    if array is None:
        return 0
    try:
        return ctypes.addressof(_from_buffer(array))
    except (TypeError, ValueError):
        place: int = array.__array_interface__["data"][0]
        return place


def stride(array: Array | None) -> int:
    """Elements from row to row."""
    return 0 if array is None else array.strides[0] // array.itemsize


def label_arguments(target: Array, skip: int | None) -> dict[str, int]:
    """Arguments that say what the labels are."""
    return {
        "labels": address(target),
        "label_kind": target.itemsize if target.dtype.kind == "i" else -target.itemsize,
        "has_skip": int(skip is not None),
        "skip": 0 if skip is None else skip - (1 << 64 if skip >= 1 << 63 else 0),
    }


class Memory:
    """What a launch needs beside the caller's arrays; it must outlive the launch.

    One allocation: the counter of the chunks, constants, and scratch memory of each worker.

    Attributes
    ----------
    address : int
        Of the counter, which is 0.
    shared : int
        Address of memory for all workers.
    scratch : int
        Address of the first worker's own memory.
    own : int
        Bytes from one worker's memory to the next; no two share a cache line.
    """

    _LINE = 64  # bytes; the counter and up to four constants take one each, two lines apart

    def __init__(self, workers: int, own: int, shared: int = 0) -> None:
        self.own = own + 2 * self._LINE
        room = 6 * self._LINE + shared
        self._bytes = np.empty(room + workers * self.own, np.uint8)
        self._bytes[:8] = 0
        self._used = 2 * self._LINE
        self._kept: list[Array] = []
        self.address = address(self._bytes)
        self.shared = self.address + 6 * self._LINE
        self.scratch = self.address + room

    def array_of(self, array: Array | None, dtype: np.dtype[Any]) -> int:
        """Address of the array in this dtype, contiguous; 0 if there is none."""
        if array is None:
            return 0
        self._kept.append(np.ascontiguousarray(array, dtype))
        return address(self._kept[-1])

    def factor(self, value: float | Array, dtype: np.dtype[Any]) -> tuple[int, int]:
        """Address and step: of one entry a row or class, or of 64 bytes of a constant."""
        if isinstance(value, np.ndarray):
            return self.array_of(value, dtype), 1
        begin, self._used = self._used, self._used + self._LINE
        self._bytes[begin : self._used].view(dtype).fill(value)
        return self.address + begin, 0
