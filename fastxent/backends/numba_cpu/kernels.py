"""The verbs as compiled loops over rows, each as a serial and a parallel twin.

The C++ twin is src_cython/kernels.cpp. The parallel loop hands out fixed chunks of rows through a
shared counter: a core that is busy elsewhere delays a call by one chunk only, and which worker
takes a chunk changes no bit of the result. The serial twins start no threads at all, which is what
makes them safe in a forked child and beside another caller of Numba's workqueue layer.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from fastxent.backends.contract import BLOCK, LABEL_CHUNK
from fastxent.backends.numba_cpu.arguments import LabelCheck, Pass
from fastxent.backends.numba_cpu.jit import inlined, parallel, serial
from fastxent.backends.numba_cpu.lanes import fetch_add, pointer, put
from fastxent.backends.numba_cpu.rows import (
    BlockSums,
    OnBackground,
    OnSoft,
    row_close,
    row_forward,
    row_log_proba,
    share_of,
)

__all__ = ["CHECK_LABELS", "FORWARD", "SOFTMAX", "Twins"]


class Twins(NamedTuple):
    """A verb on the calling thread, and on Numba's threads."""

    serial: Any
    parallel: Any


@inlined
def label_at(labels: int, kind: int, row: int) -> Any:
    """A label as a 64-bit pattern: a uint64 beyond the largest int64 comes out negative.

    It is as far out of range as it was.
    """
    if kind == 8 or kind == -8:
        return pointer(labels, row, np.int64(0))[0]
    if kind == 4:
        return np.int64(pointer(labels, row, np.int32(0))[0])
    if kind == 2:
        return np.int64(pointer(labels, row, np.int16(0))[0])
    if kind == 1:
        return np.int64(pointer(labels, row, np.int8(0))[0])
    if kind == -4:
        return np.int64(pointer(labels, row, np.uint32(0))[0])
    if kind == -2:
        return np.int64(pointer(labels, row, np.uint16(0))[0])
    return np.int64(pointer(labels, row, np.uint8(0))[0])


@inlined
def number_at(array: int, index: int) -> Any:
    """Entry of a float64 array; 1 where there is none."""
    return 1.0 if array == 0 else pointer(array, index, 0.0)[0]


@inlined
def put_at(array: int, row: int, number: float, zero: Any) -> None:
    """Store a statistic of a row, if anybody wants it."""
    if array != 0:
        put(pointer(array, row, zero), 0, number)


@inlined
def exps_of(p: Pass, out: int, row: int, scratch: int, zero: Any) -> Any:
    """Where the exponentials of a row go: its output, or the worker's one block of scratch."""
    return pointer(out, row * p.out_stride, zero) if out != 0 else pointer(scratch, 0, zero)


@inlined
def fill_row(p: Pass, row: int, number: float, zero: Any) -> None:
    """A row whose logits are not read: loss and gradient are this number."""
    put_at(p.loss, row, number, zero)
    if p.grad != 0:
        grad = pointer(p.grad, row * p.out_stride, zero)
        for k in range(p.classes):
            put(grad, k, number)


@inlined
def forward_row(p: Pass, target: Any, label: int, row: int, scratch: Any, zero: Any) -> None:
    """One row with this kind of target; `label` is -1 for probabilities."""
    logits = pointer(p.logits, row * p.logits_stride, zero)
    # read before anything is written: the gradient may go over the logits
    at_label = np.float64(logits[label]) if label >= 0 else 0.0
    exps, blocks = exps_of(p, p.grad, row, scratch, zero), pointer(scratch, BLOCK, 0.0)
    sums = row_forward(logits, p.classes, target, exps, int(p.grad != 0), blocks, zero)

    spike = pointer(p.spike, label * p.spike_step, 0.0)[0] if label >= 0 else 0.0
    mass = spike + p.background_total if label >= 0 else sums.mass
    row_sums = BlockSums(sums.max, sums.sum, mass, sums.dot)
    loss = mass * math.log(sums.sum)
    if target is not None:
        loss -= sums.dot
    if spike != 0.0:
        loss -= spike * (at_label - sums.max)
    put_at(p.loss, row, loss, zero)
    put_at(p.row_max, row, sums.max, zero)
    put_at(p.row_sum, row, sums.sum, 0.0)
    if p.grad == 0:
        return

    scale = pointer(p.row_scale, row * p.row_scale_step, 0.0)[0]
    exp_at_label = np.float64(exps[label]) if label >= 0 else 0.0
    row_close(exps, p.classes, target, scale, row_sums, blocks, zero)
    if label >= 0:
        # p - 1 cancels: the element at the label is computed in float64 before it is rounded
        t = spike
        if target is not None:
            t += np.float64(target.background[label * target.background_step])
        put(exps, label, scale * (share_of(row_sums, blocks, label) * exp_at_label - t))


@inlined
def forward_hard(p: Pass, target: Any, begin: int, end: int, scratch: int, zero: Any) -> None:
    """Rows with a label."""
    for row in range(begin, end):
        label = label_at(p.labels, p.label_kind, row)
        if p.has_skip != 0 and label == p.skip:
            fill_row(p, row, 0.0, zero)
        elif label < 0 or label >= p.classes:
            # checked already, but the array is the caller's: another thread may have written to it
            fill_row(p, row, np.nan, zero)
        else:
            forward_row(p, target, label, row, scratch, zero)


@inlined
def forward_soft(p: Pass, stored: Any, begin: int, end: int, scratch: int, zero: Any) -> None:
    """Rows with probabilities, in the dtype of `stored`."""
    gain, background = pointer(p.gain, 0, zero), pointer(p.background, 0, zero)
    for row in range(begin, end):
        soft = pointer(p.soft, row * p.soft_stride, stored)
        target = OnSoft(soft, gain, p.gain_step, background, p.background_step)
        forward_row(p, target, -1, row, scratch, zero)


@inlined
def forward_rows(p: Pass, begin: int, end: int, scratch: int, stored: Any, zero: Any) -> None:
    """Rows with this kind of target; the branches lie outside the loops over rows."""
    if stored is not None:
        forward_soft(p, stored, begin, end, scratch, zero)
    elif p.background != 0:
        target = OnBackground(pointer(p.background, 0, zero), p.background_step)
        forward_hard(p, target, begin, end, scratch, zero)
    else:
        forward_hard(p, None, begin, end, scratch, zero)


@inlined
def softmax_row(p: Pass, row: int, scratch: int, zero: Any) -> None:
    """One row without a target."""
    logits = pointer(p.logits, row * p.logits_stride, zero)
    exps, blocks = exps_of(p, p.proba, row, scratch, zero), pointer(scratch, BLOCK, 0.0)
    sums = row_forward(logits, p.classes, None, exps, int(p.proba != 0), blocks, zero)
    put_at(p.row_max, row, sums.max, zero)
    put_at(p.row_sum, row, sums.sum, 0.0)
    if p.proba != 0:
        row_sums = BlockSums(sums.max, sums.sum, 1.0, 0.0)
        row_close(exps, p.classes, None, 1.0, row_sums, blocks, zero)
    if p.log_proba != 0:
        to = pointer(p.log_proba, row * p.out_stride, zero)
        row_log_proba(logits, p.classes, sums.max, math.log(sums.sum), to, zero)


@inlined
def softmax_rows(p: Pass, begin: int, end: int, scratch: int, zero: Any) -> None:
    """Rows without a target."""
    for row in range(begin, end):
        softmax_row(p, row, scratch, zero)


@inlined
def check_chunk(p: LabelCheck, chunk: int) -> None:
    """Labels of one chunk, up to the first bad one."""
    begin = chunk * LABEL_CHUNK
    bad_row, live, mass = -1, 0, 0.0
    for row in range(begin, min(begin + LABEL_CHUNK, p.rows)):
        label = label_at(p.labels, p.label_kind, row)
        if p.has_skip != 0 and label == p.skip:
            continue
        if label < 0 or label >= p.classes:
            bad_row = row
            break
        live += 1
        mass += number_at(p.class_mass, label) * number_at(p.row_mass, row)
    pointer(p.found, 3 * chunk, np.int64(0))[0] = bad_row
    pointer(p.found, 3 * chunk, np.int64(0))[1] = live
    pointer(p.found, 3 * chunk, 0.0)[2] = mass


@inlined
def summary(p: LabelCheck) -> tuple[int, int, float]:
    """First bad row, live rows and mass, added up in the order of the chunks."""
    bad_row, live, mass = -1, 0, 0.0
    for chunk in range(p.chunks - 1, -1, -1):
        if pointer(p.found, 3 * chunk, np.int64(0))[0] >= 0:
            bad_row = pointer(p.found, 3 * chunk, np.int64(0))[0]
    for chunk in range(p.chunks):
        live += pointer(p.found, 3 * chunk, np.int64(0))[1]
        mass += pointer(p.found, 3 * chunk, 0.0)[2]
    return bad_row, live, mass


@inlined
def next_chunk(counter: int) -> Any:
    """Number of the next chunk that no worker has taken."""
    return fetch_add(pointer(counter, 0, np.int64(0)), 1)


@serial
def _check_labels_serial(numbers: Any) -> tuple[int, int, float]:
    p = LabelCheck(*numbers)
    for chunk in range(p.chunks):
        check_chunk(p, chunk)
    return summary(p)


@parallel
def _check_labels_parallel(numbers: Any) -> tuple[int, int, float]:
    p = LabelCheck(*numbers)
    for _ in prange(p.workers):
        chunk = next_chunk(p.counter)
        while chunk < p.chunks:
            check_chunk(p, chunk)
            chunk = next_chunk(p.counter)
    return summary(p)


@serial
def _forward_serial(numbers: Any, stored: Any, zero: Any) -> None:
    p = Pass(*numbers)
    forward_rows(p, 0, p.rows, p.scratch, stored, zero)


@parallel
def _forward_parallel(numbers: Any, stored: Any, zero: Any) -> None:
    p = Pass(*numbers)
    for worker in prange(p.workers):
        scratch = p.scratch + worker * p.scratch_bytes
        begin = next_chunk(p.counter) * p.chunk_rows
        while begin < p.rows:
            forward_rows(p, begin, min(begin + p.chunk_rows, p.rows), scratch, stored, zero)
            begin = next_chunk(p.counter) * p.chunk_rows


@serial
def _softmax_serial(numbers: Any, zero: Any) -> None:
    p = Pass(*numbers)
    softmax_rows(p, 0, p.rows, p.scratch, zero)


@parallel
def _softmax_parallel(numbers: Any, zero: Any) -> None:
    p = Pass(*numbers)
    for worker in prange(p.workers):
        scratch = p.scratch + worker * p.scratch_bytes
        begin = next_chunk(p.counter) * p.chunk_rows
        while begin < p.rows:
            softmax_rows(p, begin, min(begin + p.chunk_rows, p.rows), scratch, zero)
            begin = next_chunk(p.counter) * p.chunk_rows


CHECK_LABELS = Twins(_check_labels_serial, _check_labels_parallel)
FORWARD = Twins(_forward_serial, _forward_parallel)
SOFTMAX = Twins(_softmax_serial, _softmax_parallel)
