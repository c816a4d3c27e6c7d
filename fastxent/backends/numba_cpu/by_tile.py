"""The pass over rows of few classes: as many rows at a time as there are lanes.

The C++ twin is src_cython/by_tile.hpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import TILE_CLASSES
from fastxent.backends.numba_cpu.arguments import Pass
from fastxent.backends.numba_cpu.arithmetic import (
    eight_lanes,
    narrowed,
    splat,
    splat_wide,
    widened,
)
from fastxent.backends.numba_cpu.by_row import fate_of, fill_row, put_at
from fastxent.backends.numba_cpu.finish import RowNumbers, finish
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.labels import is_class, is_skipped, label_at
from fastxent.backends.numba_cpu.lanes import (
    address_of,
    lane_count,
    load,
    load_wide,
    pointer,
    put,
    stack,
    store,
)
from fastxent.backends.numba_cpu.long_sum import value_of_lanes, with_number
from fastxent.backends.numba_cpu.target import target_of
from fastxent.backends.numba_cpu.tile import Gradient, LogProba, tile_close, tile_forward
from fastxent.backends.numba_cpu.transpose import gather

__all__ = ["tiles_chunk"]

_MOST_ROWS = 16  # of a tile
_TILE_NUMBERS = TILE_CLASSES * _MOST_ROWS


@inlined
def typed_labels(p: Pass, labels: Any, begin: int, count: int, to: Any) -> Any:
    """read_labels, with a pointer to labels of their type."""
    good = True
    for r in range(count):
        label = np.int64(labels[begin + r])
        here = is_class(label, p.classes) and not is_skipped(p, label)
        put(to, r, label if here else -1)
        good = good & here
    return good


@inlined
def read_labels(p: Pass, begin: int, count: int, to: Any, zero: Any) -> Any:
    """Labels as numbers, -1 for a row that is not computed; whether all rows are."""
    for r in range(lane_count(zero)):
        put(to, r, -1)
    if p.labels == 0:
        return True
    if p.label_kind == 8 or p.label_kind == -8:
        return typed_labels(p, pointer(p.labels, 0, np.int64(0)), begin, count, to)
    good = True
    for r in range(count):
        label = label_at(p.labels, p.label_kind, begin + r)
        here = is_class(label, p.classes) and not is_skipped(p, label)
        put(to, r, label if here else -1)
        good = good & here
    return good


@inlined
def is_computed(p: Pass, labels: Any, count: int, r: int) -> Any:
    """Whether there is a row to compute in lane r."""
    return r < count and (p.labels == 0 or labels[r] >= 0)


@inlined
def place_rows(
    array: int, stride: int, begin: int, other: Any, full: Any, p: Pass, labels: Any, count: int,
    to: Any, element: Any, zero: Any,
) -> None:  # fmt: skip
    """Addresses of a tile's rows of an array; that of `other` for one that is not computed."""
    for r in range(lane_count(zero)):
        to[r] = address_of(pointer(array, (begin + r) * stride, element))
    if full:
        return
    for r in range(lane_count(zero)):
        if not is_computed(p, labels, count, r):
            to[r] = address_of(other)


@inlined
def read_factors(p: Pass, labels: Any, begin: int, count: int, spike: Any, scale: Any) -> None:
    """One factor a row, or class of a row's label, where there is more than one number of it."""
    for r in range(count):
        scale[r] = pointer(p.row_scale, (begin + r) * p.row_scale_step, 0.0)[0]
        label = np.int64(labels[r])
        spike[r] = pointer(p.spike, label * p.spike_step, 0.0)[0] if label >= 0 else 0.0


@inlined
def put_rows(p: Pass, begin: int, count: int, loss: Any, sums: Any, zero: Any) -> None:
    """Statistics of the rows."""
    losses, maxima, totals = stack(16, zero), stack(16, zero), stack(16, 0.0)
    store(losses, 0, None, narrowed(loss, zero))
    store(maxima, 0, None, sums.max)
    store(totals, 0, None, sums.sum)
    for r in range(count):
        put_at(p.loss, begin + r, losses[r], zero)
        put_at(p.row_max, begin + r, maxima[r], zero)
        put_at(p.row_sum, begin + r, totals[r], 0.0)


@inlined
def fill_rows(p: Pass, begin: int, count: int, labels: Any, loss: Any, zero: Any) -> Any:
    """Rows that are not computed, after the others: what they hold instead; the losses of all."""
    losses = stack(16, 0.0)
    store(losses, 0, None, loss)
    for r in range(lane_count(zero)):
        if not is_computed(p, labels, count, r):
            losses[r] = 0.0
            if r < count:
                _computed, _label, filling = fate_of(p, begin + r)
                losses[r] = filling
                fill_row(p, begin + r, filling, zero)
    return load_wide(losses, zero)


@once
def tiles_chunk(p: Pass, begin: int, end: int, on_all: Any, stored: Any, zero: Any) -> Any:
    """Rows from `begin` up to `end`; their loss."""
    size = lane_count(zero)
    numbers, sink = stack(_TILE_NUMBERS, zero), stack(TILE_CLASSES, zero)
    no_logits, labels = stack(TILE_CLASSES, zero), stack(16, zero)
    spikes, scales = stack(16, 0.0), stack(16, 0.0)
    sources, places = stack(16, np.int64(0)), stack(16, np.int64(0))
    for k in range(TILE_CLASSES):
        put(no_logits, k, 0.0)
    for r in range(16):
        spikes[r], scales[r] = 0.0, 0.0
    soft = stack(_TILE_NUMBERS, zero)
    target = target_of(p, soft, stored, on_all, zero)
    spike = splat_wide(pointer(p.spike, 0, 0.0)[0] if p.labels != 0 else 0.0, zero)
    scale = splat_wide(pointer(p.row_scale, 0, 0.0)[0], zero)
    written, total = p.grad if p.grad != 0 else p.log_proba, (splat(0.0, 0.0), splat(0.0, 0.0))
    for row in range(begin, end, size):
        count = min(size, end - row)
        good = read_labels(p, row, count, labels, zero)
        full = good and count == size
        label = load(labels, 0, None, 0.0, zero)
        place_rows(
            p.logits, p.logits_stride, row, no_logits, full, p, labels, count, sources, zero, zero
        )
        if p.spike_step + p.row_scale_step != 0:
            read_factors(p, labels, row, count, spikes, scales)
            spike, scale = load_wide(spikes, zero), load_wide(scales, zero)
        if stored is not None:
            # rows that the last tile lacks repeat its first
            first = pointer(p.soft, row * p.soft_stride, stored)
            place_rows(
                p.soft, p.soft_stride, row, first, full, p, labels, count, places, stored, zero
            )
            gather(places, stored, p.classes, soft, zero)
        gather(sources, zero, p.classes, numbers, zero)
        # the tile after the next: one ahead is too late, 48 ns a row at 64 classes instead of 44
        ahead = row + 2 * size
        to_read = pointer(p.logits, ahead * p.logits_stride, zero)
        to_write = pointer(written, ahead * p.out_stride, zero) if written != 0 else sink
        sums = tile_forward(numbers, p.classes, target, label, to_read, to_write, stored, zero)
        mass = sums.mass if stored is not None else spike + splat_wide(p.background_total, zero)
        results = finish(
            RowNumbers(
                widened(sums.max), sums.sum, mass, sums.dot, spike, scale,
                widened(sums.at_label), widened(sums.exp_at_label), widened(sums.mass_at_label),
            )
        )  # fmt: skip
        if written != 0:
            place_rows(written, p.out_stride, row, sink, full, p, labels, count, places, zero, zero)
        if p.grad != 0:
            share = results.share if target is not None else scale * results.share
            factor, scale_there = narrowed(share, zero), narrowed(scale, zero)
            at_label = narrowed(results.grad_at_label, zero)
            gradient = Gradient(factor, scale_there, target, stored, label, at_label)
            tile_close(places, numbers, p.classes, gradient, zero)
        elif p.log_proba != 0 and target is None:
            gather(sources, zero, p.classes, numbers, zero)
            log_proba = LogProba(sums.max, narrowed(results.log_sum, zero))
            tile_close(places, numbers, p.classes, log_proba, zero)
        if p.loss != 0 or p.row_max != 0 or p.row_sum != 0:
            put_rows(p, row, count, results.loss, sums, zero)
        loss = results.loss
        if not full:
            loss = fill_rows(p, row, count, labels, loss, zero)
        total = with_number(total, eight_lanes(loss, 0))
        if size > 8:
            total = with_number(total, eight_lanes(loss, 8))
    return value_of_lanes(total)
