"""Between memory and a tile.

Rows whose classes lie side by side are transposed; rows that lie side by side themselves are lanes
already; all others are staged, one after the other. The C++ twin is src_cython/tile_memory.hpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.numba_cpu.arithmetic import fma, splat, where_nonzero
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import address_of, lane_count, load, pointer, stack, store
from fastxent.backends.numba_cpu.matrix import BRAIN, BYTE, DOUBLE, HALF, lie_in_lanes, row_of
from fastxent.backends.numba_cpu.transform import deliver, prepare, prepare_mass, transform
from fastxent.backends.numba_cpu.transpose import gather, scatter

__all__ = ["is_computed", "place_rows", "read_logits", "read_masses", "typed_lanes", "write_tile"]


@inlined
def is_computed(p: Any, labels: Any, count: int, r: int) -> Any:
    """Whether there is a row to compute in lane r."""
    return r < count and (p.labels == 0 or labels[r] >= 0)


@inlined
def place_rows(
    matrix: Any, begin: int, other: Any, full: Any, p: Any, labels: Any, count: int, to: Any,
    zero: Any,
) -> None:  # fmt: skip
    """Addresses of a tile's rows of an array; that of `other` for one that is not computed."""
    if full and matrix.levels == 1:
        first, stride = row_of(matrix, begin), matrix.stride[0]
        for r in range(lane_count(zero)):
            to[r] = first + r * stride
        return
    for r in range(lane_count(zero)):
        to[r] = address_of(other)
        if is_computed(p, labels, count, r):
            to[r] = row_of(matrix, begin + r)


@inlined
def typed_lanes(
    source: int, stride: int, count: int, classes: int, to: Any, element: Any, zero: Any
) -> None:
    """read_lanes, of numbers with the dtype of `element`."""
    step = lane_count(zero)
    if count == step:
        for k in range(classes):
            numbers = pointer(source + k * stride, 0, element)
            store(to, k * step, None, load(numbers, 0, None, 0.0, zero))
    else:
        for k in range(classes):
            numbers = pointer(source + k * stride, 0, element)
            store(to, k * step, None, load(numbers, 0, count, 0.0, zero))


@once
def read_lanes(
    matrix: Any, begin: int, count: int, classes: int, to: Any, element: Any, of_any: Any,
    zero: Any,
) -> None:  # fmt: skip
    """Lanes of each class, from rows that lie side by side; nothing beyond them is read.

    See transform.converted for `element` and `of_any`.
    """
    source, stride, kind = row_of(matrix, begin), matrix.class_stride, matrix.kind
    if of_any is not None:
        if kind == BRAIN:
            typed_lanes(source, stride, count, classes, to, np.uint16(0), zero)
        elif kind == HALF:
            typed_lanes(source, stride, count, classes, to, np.int16(0), zero)
        elif kind == BYTE:
            typed_lanes(source, stride, count, classes, to, np.uint8(0), zero)
        elif kind == DOUBLE:
            typed_lanes(source, stride, count, classes, to, 0.0, zero)
        else:
            typed_lanes(source, stride, count, classes, to, np.float32(0), zero)
        return
    typed_lanes(source, stride, count, classes, to, element, zero)


@once
def read_logits(
    p: Any, begin: int, count: int, full: Any, labels: Any, z: Any, staged: Any, no_logits: Any,
    prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """z of a tile's rows; those that are not computed hold anything."""
    if p.columns != 0:
        read_lanes(p.logits, begin, count, p.classes, z, prepared, None, zero)
        if p.softcap != 0.0 or p.logit_scale != 1.0:
            transform(p, z, p.classes * lane_count(zero), z, zero)
        return
    sources = stack(16, np.int64(0))
    place_rows(p.logits, begin, no_logits, full, p, labels, count, sources, zero)
    if p.reads_directly == 0:
        for r in range(count):
            if full or is_computed(p, labels, count, r):
                row = pointer(staged, r * p.classes, zero)
                prepare(p, sources[r], 0, p.classes, row, prepared, zero)
                sources[r] = address_of(row)
    gather(sources, p.classes, z, zero)


@once
def read_masses(p: Any, begin: int, count: int, masses: Any, staged: Any, zero: Any) -> None:
    """Masses of a tile's rows for probabilities."""
    step, classes = lane_count(zero), p.classes
    if lie_in_lanes(p.soft, begin, count):
        read_lanes(p.soft, begin, count, classes, masses, zero, 0.0, zero)
        if p.gain != 0:
            for k in range(classes):
                gain = splat(pointer(p.gain, k * p.gain_step, zero)[0], zero)
                background = splat(pointer(p.background, k * p.background_step, zero)[0], zero)
                q = load(masses, k * step, None, 0.0, zero)
                store(masses, k * step, None, fma(gain, q, background))
        return
    sources = stack(16, np.int64(0))
    for r in range(count):
        sources[r] = row_of(p.soft, begin + r)
        if p.soft_directly == 0:
            row = pointer(staged, r * classes, zero)
            prepare_mass(p, sources[r], 0, classes, row, zero)
            sources[r] = address_of(row)
    for r in range(count, step):
        sources[r] = sources[0]  # a row that the last tile lacks
    gather(sources, classes, masses, zero)


@inlined
def put_typed_lanes(
    to: int, stride: int, count: int, full: Any, classes: int, values: Any, live: Any,
    element: Any, zero: Any,
) -> None:  # fmt: skip
    """write_lanes, of numbers with the dtype of `element`."""
    step, nothing = lane_count(zero), splat(0.0, zero)
    if full:
        for k in range(classes):
            value = load(values, k * step, None, 0.0, zero)
            store(pointer(to + k * stride, 0, element), 0, None, value)
    else:
        computed = load(live, 0, None, 0.0, zero)
        for k in range(classes):
            value = where_nonzero(computed, load(values, k * step, None, 0.0, zero), nothing)
            store(pointer(to + k * stride, 0, element), 0, count, value)


@once
def write_lanes(
    matrix: Any, begin: int, count: int, full: Any, classes: int, values: Any, live: Any,
    element: Any, of_any: Any, zero: Any,
) -> None:  # fmt: skip
    """Lanes of each class, to rows that lie side by side; 0 where they are not live."""
    to, stride, kind = row_of(matrix, begin), matrix.class_stride, matrix.kind
    if of_any is not None:
        if kind == BRAIN:
            put_typed_lanes(to, stride, count, full, classes, values, live, np.uint16(0), zero)
        elif kind == HALF:
            put_typed_lanes(to, stride, count, full, classes, values, live, np.int16(0), zero)
        elif kind == DOUBLE:
            put_typed_lanes(to, stride, count, full, classes, values, live, 0.0, zero)
        else:
            put_typed_lanes(to, stride, count, full, classes, values, live, np.float32(0), zero)
        return
    put_typed_lanes(to, stride, count, full, classes, values, live, element, zero)


@once
def write_tile(
    p: Any, matrix: Any, directly: Any, begin: int, count: int, full: Any, labels: Any,
    values: Any, staged: Any, element: Any, of_any: Any, zero: Any,
) -> None:  # fmt: skip
    """Write lanes of all classes; 0 for rows that are not live where rows lie side by side.

    `directly` tells that classes do, as numbers of the compute dtype.
    """
    if not directly and lie_in_lanes(matrix, begin, count):
        live = stack(16, zero)
        for r in range(lane_count(zero)):
            live[r] = is_computed(p, labels, count, r)
        write_lanes(matrix, begin, count, full, p.classes, values, live, element, of_any, zero)
        return
    places = stack(16, np.int64(0))
    if directly:
        place_rows(matrix, begin, staged, full, p, labels, count, places, zero)
        scatter(places, p.classes, values, zero)
        return
    for r in range(lane_count(zero)):
        places[r] = address_of(pointer(staged, r * p.classes, zero))
    scatter(places, p.classes, values, zero)
    for r in range(count):
        if full or is_computed(p, labels, count, r):
            source = pointer(staged, r * p.classes, zero)
            deliver(
                source, 1.0, p.classes, matrix, row_of(matrix, begin + r), 0, element, of_any, zero
            )
