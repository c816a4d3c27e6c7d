"""What is written of a row besides the gradient of its blocks, and rows that are not computed.

The C++ twin is src_cython/outputs.hpp.
"""

# ruff: noqa: SIM102 (Numba leaves out what stands behind a bare `is not None`: see kernels.py)

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.labels import is_class, is_skipped, label_at
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, put, store
from fastxent.backends.numba_cpu.matrix import fill_classes, row_of
from fastxent.backends.numba_cpu.row import block_log_proba
from fastxent.backends.numba_cpu.transform import deliver

__all__ = [
    "fate_among",
    "fate_of",
    "fill_row",
    "put_log_proba",
    "put_statistics",
    "put_target_grad",
]


@inlined
def put_at(array: int, row: int, number: Any, zero: Any) -> None:
    """Store a statistic of a row, if anybody wants it."""
    if array != 0:
        put(pointer(array, row, zero), 0, number)


@inlined
def put_statistics(
    p: Any, row: int, loss: float, row_max: float, total: float, log_prob: float, zero: Any
) -> None:
    """Statistics of a row that every kernel gives."""
    put_at(p.loss, row, loss, zero)
    put_at(p.row_max, row, row_max, zero)
    put_at(p.row_sum, row, total, 0.0)
    put_at(p.log_prob, row, log_prob, zero)


@inlined
def put_more_statistics(
    p: Any, row: int, total: float, log_sum: float, spread: float, argmax: Any, zero: Any
) -> None:
    """Those that prepared kernels give besides."""
    put_at(p.entropy, row, log_sum - spread / total, zero)
    # no class where there is no softmax: the sum is 0 or NaN
    put_at(p.argmax, row, argmax if total > 0.0 else -1, np.int64(0))


@inlined
def fate_of(p: Any, row: int) -> tuple[Any, int, float]:
    """What becomes of a row by its label: whether it is computed, its label, else its filling."""
    return fate_among(p, row, p.classes)


@inlined
def fate_among(p: Any, row: int, classes: int) -> tuple[Any, int, float]:
    """The same, where labels name one of so many classes."""
    if p.labels == 0:
        return True, -1, 0.0
    label = label_at(p.labels, p.label_kind, row)
    if is_skipped(p, label):
        return False, -1, 0.0
    # checked already, but the array is the caller's: another thread may have written to it
    if not is_class(label, classes):
        return False, -1, np.nan
    return True, label, 0.0


@once
def fill_row(p: Any, row: int, number: float, classes_too: Any, zero: Any) -> None:
    """A row that is not computed: 0 where its label is skipped."""
    put_statistics(p, row, number, number, number + 1.0, number, zero)
    put_at(p.entropy, row, number, zero)
    put_at(p.argmax, row, -1, np.int64(0))
    if p.grad.data != 0 and classes_too:
        fill_classes(p.grad, row, p.classes, number)
    if p.proba.data != 0:
        fill_classes(p.proba, row, p.classes, number)
    if p.hess.data != 0:
        fill_classes(p.hess, row, p.classes, number)


@once
def put_log_proba(
    p: Any, row: int, begin: int, n: int, z: Any, top: float, log_sum: float, space: Any,
    prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """(z - m) - log s of the classes from `begin` on; `space` has room for a block."""
    to = row_of(p.log_proba, row)
    if prepared is not None:
        if p.writes_directly == 0:
            block_log_proba(z, n, top, log_sum, space, zero)
            deliver(space, 1.0, n, p.log_proba, to, begin, prepared, None, zero)
            return
    block_log_proba(z, n, top, log_sum, pointer(to, begin, zero), zero)


@once
def put_target_grad(
    p: Any, row: int, begin: int, n: int, z: Any, top: float, log_sum: float, space: Any, zero: Any
) -> None:
    """-scale * gain * ((z - m) - log s): the loss's gradient with respect to probabilities."""
    block_log_proba(z, n, top, log_sum, space, zero)
    if p.gain != 0:
        step, gain_step = lane_count(zero), p.gain_step
        gain = pointer(p.gain, begin * gain_step, zero)
        whole = n - n % step
        for k in range(0, whole, step):
            factor = load(gain, k * gain_step, None, 0.0, zero)
            store(space, k, None, load(space, k, None, 0.0, zero) * factor)
        if whole < n:
            some = n - whole
            factor = load(gain, whole * gain_step, some, 0.0, zero)
            store(space, whole, some, load(space, whole, some, 0.0, zero) * factor)
    scale = -pointer(p.row_scale, row * p.row_scale_step, 0.0)[0]
    to = row_of(p.target_grad, row)
    deliver(space, scale, n, p.target_grad, to, begin, zero, 0.0, zero)
