"""What crosses into the kernels, put together: a Pass, and the memory that a launch needs.

Plain numbers give one compiled signature per verb and dtype, whatever the arrays' layout.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.contract import KINDS
from fastxent.backends.numba_cpu.records import MATRIX, MOST_LEVELS, PASS, Record
from fastxent.precision import Array

__all__ = [
    "LabelCheck",
    "Memory",
    "address",
    "label_arguments",
    "matrix_of",
]


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


def label_arguments(target: Array, skip: int | None) -> dict[str, int]:
    """Arguments that say what the labels are."""
    return {
        "labels": address(target),
        "label_kind": target.itemsize if target.dtype.kind == "i" else -target.itemsize,
        "has_skip": int(skip is not None),
        "skip": 0 if skip is None else skip - (1 << 64 if skip >= 1 << 63 else 0),
    }


_KIND_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
_NO_LEVELS = (0,) * MOST_LEVELS


def matrix_of(array: Array | None, kind: str | None) -> bytes:
    """The record of an array of rows, in one to four dimensions, and classes, the last."""
    if array is None or kind is None:
        return b""
    *sizes, classes = array.shape
    *steps, class_stride = array.strides
    levels = len(sizes)
    missing = _NO_LEVELS[levels:]
    return MATRIX.packed(
        address(array),
        _KIND_NUMBERS[kind],
        levels,
        class_stride if classes > 1 else array.itemsize,  # a single class may have any stride
        *sizes[::-1], *missing,
        *steps[::-1], *missing,
    )  # fmt: skip


def _over_line(size: int) -> int:
    """Bytes of as many cache lines as so many bytes take."""
    return -(-size // _LINE) * _LINE


_LINE = 64
# The counter of the chunks, and the one before which workers stop.
_ALL_CHUNKS = np.array([0, np.iinfo(np.int64).max]).view(np.uint8)
_PASS = 2 * _LINE
_CONSTANTS = _PASS + _over_line(8 * PASS.words)
_SMALL = _CONSTANTS + 4 * _LINE


class Memory:
    """What a launch needs beside the caller's arrays; it must outlive the launch.

    First the counter of the chunks and where they end, two lines for themselves, the pass and up
    to four constants; then what `allocate` makes.

    Attributes
    ----------
    address : int
        Of the counter, which is 0, and of the chunk before which to stop: none.
    totals, shared : int
        Addresses of memory for all workers.
    scratch : int
        Address of the first worker's own memory.
    own : int
        Bytes from one worker's memory to the next; no two share a cache line.
    """

    def __init__(self) -> None:
        self._small = np.empty(_SMALL + _LINE, np.uint8)
        begin = address(self._small)
        self._first = -begin % _LINE
        self.address = begin + self._first
        self._small[self._first : self._first + 16] = _ALL_CHUNKS
        self._used = self._first + _CONSTANTS
        self._kept: list[Array] = []

    def hand_out(self, begin: int, end: int) -> None:
        """Let the next launch take the chunks from `begin` up to `end`."""
        self._small[self._first : self._first + 16].view(np.int64)[:] = begin, end

    def allocate(self, workers: int, own: int, totals: int = 0, shared: int = 0) -> None:
        """Make scratch memory: bytes of each worker, and of two pieces for all."""
        self.own = _over_line(own) + 2 * _LINE
        totals, shared = _over_line(totals), _over_line(shared)
        scratch = np.empty(totals + shared + workers * self.own + _LINE, np.uint8)
        self._kept.append(scratch)
        begin = address(scratch)
        self.totals = begin + -begin % _LINE
        self.shared = self.totals + totals
        self.scratch = self.shared + shared

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
        begin, self._used = self._used, self._used + _LINE
        self._small[begin : self._used].view(dtype).fill(value)
        return self.address + begin - self._first, 0

    def with_pass(self, numbers: dict[str, Any], record: Record = PASS) -> int:
        """Write the record of a pass, or another that is no longer; give its address."""
        record.pack_into(self._small, self._first + _PASS, numbers)
        return self.address + _PASS
