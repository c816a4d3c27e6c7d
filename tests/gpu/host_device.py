"""A backend for arrays of a GPU whose GPU is the host: what fastxent.on_device asks of one.

The NumPy backend does the arithmetic, in the terms of the contract.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from fastxent.backends import load
from fastxent.checks.on_device import outline
from fastxent.device_array import DeviceArray, Place
from fastxent.layout import take_rows
from fastxent.precision import HALF_KINDS, readable, widen

NUMPY = load("numpy")
PARTIALS = 3


def seen(array):
    """The memory of an array, as NumPy's; what is none as it is."""
    return outline(array) if isinstance(array, DeviceArray) else array


def real(array):
    return readable(seen(array)).astype(np.float64)


def store(array, values):
    if array is not None:
        seen(array)[...] = values


def each_seen(record, **others):
    names = [field.name for field in fields(record)]
    return replace(record, **{name: seen(getattr(record, name)) for name in names} | others)


class HostDevice:
    """See `fastxent.backends.contract.DeviceBackend`.

    Attributes
    ----------
    waits : list of (int, int)
        Streams that were told to wait, and for which.
    may_read : bool
        Whether numbers may be read back.
    """

    name = "cuda"

    def __init__(self):
        self.waits, self.may_read, self.reason = [], False, None
        self.plans = {}

    def why_not(self, problem=None):
        return self.reason

    def place(self, device, stream):
        return Place(device, stream, self._allocate)

    def _allocate(self, shape, dtype, place):
        memory = np.full(max(np.prod(shape, dtype=int) * dtype.itemsize, 1), 0xAB, np.uint8)
        return DeviceArray(memory.ctypes.data, shape, dtype, place, memory)

    def check_not_captured(self, place):
        """No stream is captured."""

    def upload(self, array, place, is_result=False):
        assert array.flags.c_contiguous
        there = place.allocate(array.shape, array.dtype)
        seen(there)[...] = array
        return there

    def download(self, array):
        assert self.may_read
        return seen(array).copy()

    def device_of(self, address):
        return 0

    def wait(self, place, stream):
        self.waits.append((place.stream, stream))

    def partial_count(self, problem):
        return PARTIALS

    def binary_partial_count(self, problem):
        return PARTIALS

    def label_mass(self, target, num_classes, skip, class_mass, row_mass, mass, bad_row):
        labels = seen(target)
        assert target.is_dense
        counted = (labels >= 0) & (labels < num_classes)
        if skip is not None:
            counted &= labels != skip
        weights = np.ones(len(labels)) if row_mass is None else real(row_mass)
        if class_mass is not None:
            weights = weights * real(class_mass)[np.where(counted, labels, 0).astype(int)]
        store(mass, weights[counted].sum())
        store(bad_row, NUMPY.check_labels(labels, num_classes, skip, None, None, 1).bad_row)

    def first_bad_label(self, target, num_classes, skip):
        assert self.may_read
        return NUMPY.check_labels(seen(target), num_classes, skip, None, None, 1).bad_row

    def class_factors(self, weight, on_label, share, spike, background, total, gain):
        values = real(weight)
        store(spike, values * on_label)
        store(background, values * share)
        store(gain, values * on_label)
        if total is not None:
            store(total, seen(background).sum(dtype=np.float64))

    def row_factors(self, factors, row_scale):
        assert len(factors) <= 3
        product = 1.0
        for factor in factors:
            product = product * (real(factor) if isinstance(factor, DeviceArray) else factor)
        assert np.shape(product) in ((), row_scale.shape)
        store(row_scale, product)

    def finish_sum(self, partial, divisor, denominator, zero_when_empty, bad_row, loss):
        below = 1.0 if denominator is None else seen(denominator)[0]
        if below == 0:
            is_sound = bad_row is None or seen(bad_row)[0] < 0
            store(loss, 0 if zero_when_empty and is_sound else np.nan)
            return
        with np.errstate(all="ignore"):
            store(loss, seen(partial).sum() / divisor / below)

    def scale(self, grad, kind, upstream, out):
        assert kind not in HALF_KINDS
        factors = real(upstream).reshape(-1, 1)
        source, result = seen(grad), seen(out)
        result[...] = (source.reshape(-1, source.shape[-1]) * factors).reshape(result.shape)

    def forward(self, problem, out):
        below = seen(problem.denominator_at)
        no_gradient = below is not None and below[0] == 0
        factor = problem.row_scale
        factor = factor if isinstance(factor, float) else seen(factor)
        if below is not None and not no_gradient:
            factor = factor / below[0]
        total = seen(problem.background_total)
        host = each_seen(
            problem, row_scale=factor, background_total=float(np.asarray(total).reshape(()))
        )
        bad = np.zeros(problem.rows, bool)
        if host.target is not None:
            bad = (host.target < 0) | (host.target >= problem.classes)
            if problem.skip is not None:
                bad &= host.target != problem.skip
            host.target = np.where(bad, 0, host.target).astype(host.target.dtype)
        loss, row_sum = np.empty(problem.rows), np.empty(problem.rows)
        row_max = np.empty(problem.rows, problem.precision.compute)
        argmax = np.empty(problem.rows, np.int64)
        given = each_seen(out, loss=loss, row_max=row_max, row_sum=row_sum, argmax=argmax)
        NUMPY.forward(host, given)
        loss[bad] = np.nan
        if given.log_prob is not None:
            given.log_prob[bad] = np.nan
        zeros = bad | no_gradient
        for one in (given.grad, given.target_grad):
            if one is not None and zeros.any():
                one[np.unravel_index(np.flatnonzero(zeros), one.shape[:-1])] = 0
        if problem.row_weight_at is not None:
            loss *= seen(problem.row_weight_at)
        store(out.loss, loss)
        for name, found in (("row_max", row_max), ("row_sum", row_sum), ("argmax", argmax)):
            store(getattr(out, name), found)
        if out.partial is not None:
            store(out.partial, [0.0, loss.sum(), 0.0])
        with np.errstate(all="ignore"):
            lse = row_max + np.log(row_sum)
            store(out.lse, lse)
            store(out.z_loss, problem.z_loss * lse**2)
        if out.correct is not None:
            labels = host.target
            if labels is None:
                soft = take_rows(host.soft, slice(0, problem.rows))
                labels = widen(soft, problem.soft_kind).argmax(axis=1)
            store(out.correct, (argmax >= 0) & (argmax == labels))

    def softmax(self, problem, out):
        row_sum = np.empty(problem.rows)
        row_max = np.empty(problem.rows, problem.precision.compute)
        given = each_seen(out, row_max=row_max, row_sum=row_sum)
        NUMPY.softmax(each_seen(problem), given)
        with np.errstate(all="ignore"):
            store(out.lse, row_max + np.log(row_sum))

    def binary(self, problem, out):
        given = each_seen(out, total=np.zeros(1), partial=None)
        NUMPY.binary(each_seen(problem), given)
        if out.partial is not None:
            store(out.partial, [0.0, 0.0, given.total[0]])
        target = seen(problem.target)
        if target.dtype.kind in "iu" and problem.target_kind not in HALF_KINDS:
            bad = (target != 0) & (target != 1)
            if out.loss is not None:
                given.loss[bad] = np.nan
            if out.grad is not None:
                given.grad[bad] = 0
            if out.partial is not None and bad.any():
                store(out.partial, np.nan)
        return False

    def softmax_backward(self, problem, out):
        NUMPY.softmax_backward(each_seen(problem), seen(out))
