"""The pass with rows in the lanes: few classes, or rows that lie side by side, class by class.

The C++ twin is src_cython/by_tile.hpp.
"""

# ruff: noqa: SIM102 (Numba leaves out what stands behind a bare `is not None`: see kernels.py)

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import TILE_CLASSES
from fastxent.backends.numba_cpu.arithmetic import (
    eight_lanes,
    narrowed,
    splat,
    splat_wide,
    widened,
)
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
from fastxent.backends.numba_cpu.matrix import lie_in_lanes, lies_as_computed, row_of
from fastxent.backends.numba_cpu.outputs import (
    fate_of,
    fill_row,
    put_more_statistics,
    put_statistics,
)
from fastxent.backends.numba_cpu.proba import hess_at_label, hess_scale, tile_hess, tile_proba
from fastxent.backends.numba_cpu.target import Masses
from fastxent.backends.numba_cpu.tile import (
    Ahead,
    Closing,
    put_at_labels,
    tile_argmax,
    tile_close,
    tile_forward,
    tile_grad,
    tile_log_proba,
    tile_spread,
)
from fastxent.backends.numba_cpu.tile_memory import (
    is_computed,
    place_rows,
    read_logits,
    read_masses,
    write_tile,
)
from fastxent.backends.numba_cpu.transpose import gather

__all__ = ["tiles_chunk"]


@inlined
def typed_labels(p: Any, labels: Any, begin: int, count: int, to: Any) -> Any:
    """read_labels, with a pointer to labels of their type."""
    good = True
    for r in range(count):
        label = np.int64(labels[begin + r])
        here = is_class(label, p.classes) and not is_skipped(p, label)
        put(to, r, label if here else -1)
        good = good & here
    return good


@inlined
def read_labels(p: Any, begin: int, count: int, to: Any, zero: Any) -> Any:
    """Labels, -1 for a row that is not computed or has none; whether all rows are computed."""
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
def look_ahead(p: Any, begin: int, zero: Any) -> Ahead:
    """The tile after the next: one ahead is too late, 48 ns a row at 64 classes instead of 44.

    A line of each class, or of the rows one after the other.
    """
    ahead = 2 * lane_count(zero)
    read = row_of(p.logits, begin) + ahead * p.logits.stride[0]
    read_step = p.logits.class_stride if p.columns != 0 else 64
    write, write_step = read, read_step
    if p.grad.data != 0:
        write = row_of(p.grad, begin) + ahead * p.grad.stride[0]
        write_step = p.grad.class_stride if p.columns != 0 else 64
    elif p.log_proba.data != 0:
        write = row_of(p.log_proba, begin) + ahead * p.log_proba.stride[0]
        write_step = p.log_proba.class_stride if p.columns != 0 else 64
    return Ahead(read, read_step, write, write_step)


@inlined
def read_factors(p: Any, labels: Any, begin: int, count: int, spike: Any, scale: Any) -> None:
    """One factor a row, or class of a row's label, where there is more than one number of it."""
    for r in range(count):
        row_scale = pointer(p.row_scale, (begin + r) * p.row_scale_step, 0.0)[0]
        scale[r] = row_scale * p.logit_scale
        label = labels[r]
        spike[r] = pointer(p.spike, label * p.spike_step, 0.0)[0] if label >= 0 else 0.0


@inlined
def put_rows(
    p: Any, begin: int, count: int, results: Any, sums: Any, z: Any, exps: Any, prepared: Any,
    zero: Any,
) -> None:  # fmt: skip
    """Statistics of the rows."""
    losses, maxima, totals = stack(16, zero), stack(16, zero), stack(16, 0.0)
    log_probs = stack(16, zero)
    store(losses, 0, None, narrowed(results.loss, zero))
    store(log_probs, 0, None, narrowed(results.log_prob, zero))
    store(maxima, 0, None, sums.max)
    store(totals, 0, None, sums.sum)
    for r in range(count):
        put_statistics(p, begin + r, losses[r], maxima[r], totals[r], log_probs[r], zero)
    if prepared is not None:
        if p.entropy != 0 or p.argmax != 0:
            spreads, log_sums, argmax = stack(16, 0.0), stack(16, 0.0), stack(16, zero)
            store(log_sums, 0, None, results.log_sum)
            if p.entropy != 0:
                tile_spread(z, exps, p.classes, maxima, spreads, zero)
            if p.argmax != 0:
                tile_argmax(z, p.classes, maxima, argmax, zero)
            for r in range(count):
                put_more_statistics(
                    p, begin + r, totals[r], log_sums[r], spreads[r], np.int64(argmax[r]), zero
                )


@inlined
def fill_rows(p: Any, begin: int, count: int, labels: Any, loss: Any, zero: Any) -> Any:
    """Rows that are not computed, after the others: what they hold instead; the losses of all."""
    losses = stack(16, 0.0)
    store(losses, 0, None, loss)
    zeroed = lie_in_lanes(p.grad, begin, count)
    for r in range(lane_count(zero)):
        if not is_computed(p, labels, count, r):
            losses[r] = 0.0
            if r < count:
                _computed, _label, filling = fate_of(p, begin + r)
                losses[r] = filling
                fill_row(p, begin + r, filling, not zeroed or filling != 0.0, zero)
    return load_wide(losses, zero)


@inlined
def tile_target(p: Any, masses: Any, massed: Any, of_soft: Any, zero: Any) -> Masses:
    """Where the lanes of masses lie; those of a background are made here, once for all tiles."""
    step = lane_count(zero)
    if massed is not None:
        if of_soft is None:
            background = pointer(p.background, 0, zero)
            if p.background_step == 0:
                return Masses(background, 0)
            for k in range(p.classes):
                store(masses, k * step, None, splat(background[k], zero))
    return Masses(masses, step)


@inlined
def write_proba(
    p: Any, begin: int, count: int, full: Any, labels: Any, sums: Any, exps: Any, staged: Any,
    values: Any, element: Any, zero: Any,
) -> None:  # fmt: skip
    """Write probabilities and the Hessian, as far as they are asked for."""
    size = 64 // lane_count(zero)
    share = narrowed(splat_wide(1.0, zero) / sums.sum, zero)
    if p.proba.data != 0:
        tile_proba(p, exps, share, values, zero)
        directly = lies_as_computed(p.proba, size)
        write_tile(
            p, p.proba, directly, begin, count, full, labels, values, staged, element, None, zero
        )
    if p.hess.data != 0:
        scales = stack(16, 0.0)
        for r in range(16):
            scales[r] = hess_scale(p, begin + r) if r < count else 0.0
        scale = load_wide(scales, zero)
        tile_hess(p, exps, share, narrowed(scale, zero), values, zero)
        if p.labels != 0:
            at_label = hess_at_label(p, widened(sums.exp_at_label), sums.sum, scale)
            put_at_labels(address_of(values), 64, labels, narrowed(at_label, zero), zero, zero)
        directly = lies_as_computed(p.hess, size)
        write_tile(
            p, p.hess, directly, begin, count, full, labels, values, staged, element, None, zero
        )


@inlined
def close_rows(
    p: Any, begin: int, count: int, full: Any, labels: Any, target: Any, sums: Any, factor: Any,
    scale: Any, grad_at_label: Any, log_sum: Any, z: Any, exps: Any, staged: Any, values: Any,
    massed: Any, of_soft: Any, prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """Write what has a number for each class."""
    what = Closing(factor, scale, target)
    if prepared is not None:
        if p.proba.data != 0 or p.hess.data != 0:
            write_proba(p, begin, count, full, labels, sums, exps, staged, values, prepared, zero)
        directly, none = p.writes_directly != 0, splat(1.0, zero)
        if of_soft is not None:
            if p.target_grad.data != 0:
                scales = stack(16, zero)
                for r in range(lane_count(zero)):
                    put(scales, r, 0.0)
                for r in range(count):
                    put(scales, r, -pointer(p.row_scale, (begin + r) * p.row_scale_step, 0.0)[0])
                scale_there = load(scales, 0, None, 0.0, zero)
                tile_log_proba(p, z, sums.max, log_sum, p.gain, scale_there, values, zero)
                write_tile(
                    p, p.target_grad, False, begin, count, full, labels, values, staged, zero, 0.0,
                    zero,
                )  # fmt: skip
        if p.log_proba.data != 0:
            tile_log_proba(p, z, sums.max, log_sum, 0, none, values, zero)
            write_tile(
                p, p.log_proba, directly, begin, count, full, labels, values, staged, prepared,
                None, zero,
            )  # fmt: skip
        if p.grad.data != 0:
            if full and lie_in_lanes(p.grad, begin, count):
                to, stride = row_of(p.grad, begin), p.grad.class_stride
                tile_grad(p, z, exps, what, to, stride, massed, prepared, zero)
                if of_soft is None:
                    put_at_labels(to, stride, labels, grad_at_label, prepared, zero)
            else:
                to = address_of(exps)
                tile_grad(p, z, exps, what, to, 64, massed, zero, zero)
                if of_soft is None:
                    put_at_labels(to, 64, labels, grad_at_label, zero, zero)
                write_tile(
                    p, p.grad, directly, begin, count, full, labels, exps, staged, prepared, None,
                    zero,
                )  # fmt: skip
    else:
        places = stack(16, np.int64(0))
        if p.log_proba.data != 0:
            place_rows(p.log_proba, begin, staged, full, p, labels, count, places, zero)
            log_proba = Closing(sums.max, log_sum, target)
            tile_close(places, z, p.classes, log_proba, None, massed, zero)
        if p.grad.data != 0:
            place_rows(p.grad, begin, staged, full, p, labels, count, places, zero)
            tile_close(places, exps, p.classes, what, 0, massed, zero)
            if of_soft is None:
                at_label = stack(16, zero)
                store(at_label, 0, None, grad_at_label)
                for r in range(lane_count(zero)):
                    if labels[r] >= 0:
                        put(pointer(places[r], labels[r], zero), 0, at_label[r])


@once
def tiles_chunk(
    p: Any, chunk: int, scratch: int, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> Any:
    """The tiles of a chunk; their rows' loss."""
    size, room = lane_count(zero), p.buffer_bytes
    z, staged = pointer(scratch, 0, zero), pointer(scratch + room, 0, zero)
    masses, values = pointer(scratch + 2 * room, 0, zero), pointer(scratch + 3 * room, 0, zero)
    exps = pointer(scratch + (4 * room if p.keeps_logits != 0 else 0), 0, zero)
    no_logits, labels = stack(TILE_CLASSES, zero), stack(16, np.int64(0))
    spikes, scales = stack(16, 0.0), stack(16, 0.0)
    for k in range(TILE_CLASSES):
        put(no_logits, k, 0.0)
    for r in range(16):
        spikes[r], scales[r] = 0.0, 0.0
    sources = stack(16, np.int64(0))
    target = tile_target(p, masses, massed, of_soft, zero)
    spike = splat_wide(pointer(p.spike, 0, 0.0)[0] if p.labels != 0 else 0.0, zero)
    scale = splat_wide(pointer(p.row_scale, 0, 0.0)[0] * p.logit_scale, zero)
    statistics = p.loss | p.row_max | p.row_sum | p.log_prob | p.entropy | p.argmax
    total = splat(0.0, 0.0), splat(0.0, 0.0)
    tiles = p.rows // p.run * p.tiles_of_run
    for number in range(chunk * p.chunk_tiles, min((chunk + 1) * p.chunk_tiles, tiles)):
        run = number // p.tiles_of_run
        within = (number - run * p.tiles_of_run) * size
        begin, count = run * p.run + within, min(p.run - within, size)
        good = read_labels(p, begin, count, labels, zero)
        full = good and count == size
        if p.spike_step + p.row_scale_step != 0:
            read_factors(p, labels, begin, count, spikes, scales)
            spike, scale = load_wide(spikes, zero), load_wide(scales, zero)
        if prepared is not None:
            read_logits(p, begin, count, full, labels, z, staged, no_logits, prepared, zero)
            if of_soft is not None:
                read_masses(p, begin, count, masses, staged, zero)
        else:
            if of_soft is not None:
                # rows that the last tile lacks repeat its first
                first = pointer(row_of(p.soft, begin), 0, zero)
                place_rows(p.soft, begin, first, full, p, labels, count, sources, zero)
                gather(sources, p.classes, masses, zero)
            place_rows(p.logits, begin, no_logits, full, p, labels, count, sources, zero)
            gather(sources, p.classes, z, zero)
        ahead = look_ahead(p, begin, zero)
        sums = tile_forward(p, z, exps, target, labels, ahead, massed, of_soft, prepared, zero)
        mass = sums.mass if p.soft.data != 0 else spike + splat_wide(p.background_total, zero)
        results = finish(
            p,
            RowNumbers(
                widened(sums.max), sums.sum, mass, sums.dot, spike, scale,
                widened(sums.at_label), widened(sums.exp_at_label), widened(sums.mass_at_label),
            ),
        )  # fmt: skip
        if statistics != 0:
            put_rows(p, begin, count, results, sums, z, exps, prepared, zero)
        share = results.share
        if massed is None:
            share = scale * share
        close_rows(
            p, begin, count, full, labels, target, sums, narrowed(share, zero),
            narrowed(scale, zero), narrowed(results.grad_at_label, zero),
            narrowed(results.log_sum, zero), z, exps, staged, values,
            massed, of_soft, prepared, zero,
        )  # fmt: skip
        loss = results.loss
        if not full:
            loss = fill_rows(p, begin, count, labels, loss, zero)
        total = with_number(total, eight_lanes(loss, 0))
        if size > 8:
            total = with_number(total, eight_lanes(loss, 8))
    return value_of_lanes(total)
