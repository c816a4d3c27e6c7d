"""What crosses into the kernels: addresses, strides and counts, as one tuple of plain numbers.

Plain numbers give one compiled signature per verb and dtype, whatever the arrays' layout, and cost
0.6 us a call; a named tuple costs 1.9 us, so kernels rebuild it themselves. An address of 0 means
absent. Strides count elements.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.precision import Array

__all__ = ["LabelCheck", "Memory", "Pass", "address", "label_arguments", "stride"]


class Pass(NamedTuple):
    """One pass of the verbs forward and softmax over the rows.

    A step is 1 for an array and 0 for a constant; a constant of the compute dtype fills 64 bytes.
    """

    rows: int
    classes: int
    logits: int
    logits_stride: int
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
    background_total: float = 0.0
    spike: int = 0
    spike_step: int = 0
    row_scale: int = 0
    row_scale_step: int = 0
    loss: int = 0
    row_max: int = 0
    row_sum: int = 0
    grad: int = 0
    proba: int = 0
    log_proba: int = 0
    out_stride: int = 0  # of grad, proba or log_proba
    chunk_rows: int = 0  # rows that a worker takes at a time
    workers: int = 1
    counter: int = 0  # of the chunks handed out
    scratch: int = 0  # for each worker: one block of exps, then the blocks' sums of one row
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


def address(array: Array | None) -> int:
    """Where an array begins; 1 us, most of what a small call costs here."""
    if array is None:
        return 0
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
    scratch : int
        Address of the first worker's own memory.
    own : int
        Bytes from one worker's memory to the next; no two share a cache line.
    """

    _LINE = 64  # bytes; the counter and up to four constants take one each, two lines apart

    def __init__(self, workers: int, own: int) -> None:
        self.own = own + 2 * self._LINE
        self._bytes = np.empty(6 * self._LINE + workers * self.own, np.uint8)
        self._bytes[:8] = 0
        self._used = 2 * self._LINE
        self._kept: list[Array] = []
        self.address = address(self._bytes)
        self.scratch = self.address + 6 * self._LINE

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
        self._bytes[begin : self._used].view(dtype)[:] = value
        return self.address + begin, 0
