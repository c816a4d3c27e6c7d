"""What a pass over labels finds: the first bad one, how many rows count, and their mass.

A block takes `contract.LABEL_CHUNK` labels; then one block adds up what the blocks have found. Both
orders depend on the number of rows only. Counts and row numbers are carried as float64, which
holds them exactly up to 2^53.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.contract import LABEL_CHUNK
from fastxent.backends.cuda.kernels.numbers import (
    SIZES,
    block_leaster,
    block_summer,
    integer_loader,
    loader,
)
from fastxent.backends.cuda.machine import (
    block,
    cuda,
    load_f64,
    load_i64,
    shared_memory,
    store_f64,
    store_i64,
    thread,
)
from fastxent.backends.cuda.specs import LabelsVariant, LoopGeometry

__all__ = ["make"]

float64: Any = np.float64
int64: Any = np.int64

_NONE = float64(np.inf)  # no bad row


def make(variant: LabelsVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel of one of the two steps."""
    threads = geometry.threads
    warps = threads // 32
    size = 8 * warps
    block_sum, block_least = block_summer(float64, warps), block_leaster(warps)

    @register_jitable
    def write(found: Any, at: Any, mass_of: Any, live_of: Any, bad_of: Any) -> None:
        """Thread 0 writes what the block found in all: mass, live rows, first bad row."""
        mass, live, bad = found
        t = int64(thread())
        mass = block_sum(mass, t, shared_memory(size))
        live = block_sum(live, t, shared_memory(size))
        bad = block_least(bad, t, shared_memory(size))
        if t == 0:
            if mass_of != 0:
                store_f64(mass_of + 8 * at, mass)
            if live_of != 0:
                store_i64(live_of + 8 * at, int64(live))
            if bad_of != 0:
                store_i64(bad_of + 8 * at, int64(-1) if bad == _NONE else int64(bad))

    if variant.step == "finish":
        return _finish(threads, write)
    return _chunks(variant, threads, write)


def _chunks(variant: LabelsVariant, threads: int, write: Any) -> Callable[..., None]:
    labels_a_thread = LABEL_CHUNK // threads
    label_size = SIZES[variant.label]
    load_label = integer_loader(variant.label)
    has_class_mass, has_row_mass = variant.class_mass != "", variant.row_mass != ""
    class_size, row_size = SIZES.get(variant.class_mass, 0), SIZES.get(variant.row_mass, 0)
    load_class_mass = loader(variant.class_mass or "float64", "float64")
    load_row_mass = loader(variant.row_mass or "float64", "float64")

    def kernel(
        labels: Any,
        skip: Any,
        has_skip: Any,
        class_mass: Any,
        row_mass: Any,
        rows: Any,
        classes: Any,
        mass_partial: Any,
        live_partial: Any,
        bad_partial: Any,
        partials: Any,
        mass: Any,
        live: Any,
        bad_row: Any,
    ) -> None:
        first = int64(block()) * LABEL_CHUNK + int64(thread())
        # all loads first, with no branch between them, so that they are under way at once; past
        # the end the last row is read again and not counted
        taken = cuda.local.array(labels_a_thread, int64)
        for k in range(labels_a_thread):
            taken[k] = load_label(labels + min(first + k * threads, rows - 1) * label_size)
        found, counted, bad = float64(0), float64(0), _NONE
        for k in range(labels_a_thread):
            row, label = first + k * threads, taken[k]
            inside = label >= 0 and label < classes
            counts = row < rows and (has_skip == 0 or label != skip)
            factor = float64(1)
            if has_class_mass:
                factor *= load_class_mass(class_mass + (label if inside else 0) * class_size)
            if has_row_mass:
                factor *= load_row_mass(row_mass + min(row, rows - 1) * row_size)
            if counts and inside:
                counted += float64(1)
                found += factor
            if counts and not inside:
                bad = min(bad, float64(row))
        write((found, counted, bad), int64(block()), mass_partial, live_partial, bad_partial)

    return kernel


def _finish(threads: int, write: Any) -> Callable[..., None]:
    def kernel(
        labels: Any,
        skip: Any,
        has_skip: Any,
        class_mass: Any,
        row_mass: Any,
        rows: Any,
        classes: Any,
        mass_partial: Any,
        live_partial: Any,
        bad_partial: Any,
        partials: Any,
        mass: Any,
        live: Any,
        bad_row: Any,
    ) -> None:
        found, counted, bad = float64(0), float64(0), _NONE
        at = int64(thread())
        while at < partials:
            found += load_f64(mass_partial + 8 * at)
            counted += float64(load_i64(live_partial + 8 * at))
            row = load_i64(bad_partial + 8 * at)
            if row >= 0:
                bad = min(bad, float64(row))
            at += threads
        write((found, counted, bad), int64(0), mass, live, bad_row)

    return kernel
