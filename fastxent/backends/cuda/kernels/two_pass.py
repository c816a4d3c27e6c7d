"""A block for each row, of any length: read for the sums, then read again for the results.

The sums are carried along with the largest logit so far, as in https://arxiv.org/abs/1805.02867.
`aligned` and `alike` are said as in `row`. Rows with a skipped label are not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.arguments import kernel_of
from fastxent.backends.cuda.kernels.epilogue import NO_CLASS, SKIPPED, Sums, epilogue_of
from fastxent.backends.cuda.kernels.merge import merge_of
from fastxent.backends.cuda.kernels.results import Element, results_of
from fastxent.backends.cuda.kernels.storage import VECTOR, storage_of
from fastxent.backends.cuda.kernels.vectors import vectors_of
from fastxent.backends.cuda.kernels.window import cutting_of
from fastxent.backends.cuda.specs import LoopGeometry, Variant

__all__ = ["make"]

cuda = machine.cuda
float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64
uint32: Any = np.uint32

# Vectors of a thread that are under way at once, and whose sums are not yet in float64.
_CHUNK = 4


def make(variant: Variant, geometry: LoopGeometry) -> Callable[..., None]:
    """Make the kernel."""
    THREADS = geometry.threads
    elements, epilogue, results = elements_of(variant), epilogue_of(variant), results_of(variant)
    vectors = vectors_of(variant, geometry.aligned and geometry.alike)
    merge = merge_of(variant, THREADS, wide=True)
    cutting = cutting_of(variant.kind, geometry.aligned, int64)
    stored, stored_number = storage_of(variant.kind), storage_of(elements.number_kind)
    NUMBER, SIZE, LANES, EDGES = elements.number, stored.size, stored.lanes, cutting.edges
    ZERO, LOWEST, WORDS = NUMBER(0), NUMBER(-math.inf), 4 * _CHUNK
    STEP = _CHUNK * THREADS
    SOFT, KEPT = elements.needs_total, vectors.soft_words > 0
    SOFT_WORDS = max(1, vectors.soft_words * _CHUNK)
    HARD, BACKWARD = variant.target == "label", variant.task == "backward"
    GRADIENT, LOSS = variant.task in ("grad", "backward"), variant.task in ("loss", "grad")
    WRITES, MERGES = variant.task != "loss", not BACKWARD or SOFT
    CAPPED = variant.transform == "capped"
    NUMBER_SIZE, load_number = stored_number.size, stored_number.load
    number_at, largest_of = stored.number_at, stored.largest_of
    load, load_masked = stored.load, stored.load_masked
    load_soft_words: Any = storage_of(variant.target).load_words if KEPT else None
    window_of, edge_of, place_of = cutting.window_of, cutting.edge_of, cutting.place_of
    larger, z_of, bend_of = elements.larger, elements.z_of, elements.bend_of
    shift_of, label_of, finish = elements.shift_of, epilogue.label_of, epilogue.finish
    places_of, soft_at, add, add_vector = vectors[1:5]
    write, write_label, write_vector = vectors[5:]
    largest_of_lanes, merged_lanes, merged_threads = merge
    row_of, at_label = results.row_of, results.at_label

    @register_jitable
    def load_chunk(address: Any, first: Any, count: Any, words: Any) -> None:
        for v in range(_CHUNK):
            index = first + v * THREADS
            a, b, c, d = load_masked(address + index * VECTOR, index < count)
            words[4 * v] = a
            words[4 * v + 1] = b
            words[4 * v + 2] = c
            words[4 * v + 3] = d

    @register_jitable
    def load_soft_chunk(address: Any, first: Any, count: Any, whole: Any, words: Any) -> None:
        for v in range(_CHUNK):
            index = first + v * THREADS
            a, b, c, d = load_soft_words(address + index * VECTOR, index < count, whole)
            words[4 * v] = a
            words[4 * v + 1] = b
            words[4 * v + 2] = c
            words[4 * v + 3] = d

    @register_jitable
    def moved(sums: Any, largest: Any) -> Any:
        """The same sums, of exponentials that are shifted by another maximum."""
        total, dot, entropy = sums.sum, sums.dot, sums.entropy
        if not BACKWARD and largest > sums.max:
            # in float64: a row that rises all the way repeats this for every chunk
            shift = float64(shift_of(largest))
            weight = float64(math.exp(float64(sums.max) - shift))
            drift = float64(shift_of(sums.max)) - shift
            entropy = (entropy + drift * total) * weight
            total = total * weight
            dot = dot + drift * sums.mass
        return Sums(
            largest,
            total,
            sums.mass,
            dot,
            entropy,
            sums.argmax,
            sums.target_max,
            sums.target_argmax,
        )

    @register_jitable
    def opened(sums: Any) -> Any:
        """Nothing yet to be added, and the largest so far."""
        return Sums(
            sums.max,
            ZERO,
            ZERO,
            ZERO,
            ZERO,
            sums.argmax,
            sums.target_max,
            sums.target_argmax,
        )

    @register_jitable
    def closed(sums: Any, part: Any, largest: Any) -> Any:
        """Sums with those of a part, which has them for this maximum."""
        sums = moved(sums, largest)
        return Sums(
            largest,
            sums.sum + float64(part.sum),
            sums.mass + float64(part.mass),
            sums.dot + float64(part.dot),
            sums.entropy + float64(part.entropy),
            part.argmax,
            part.target_max,
            part.target_argmax,
        )

    @register_jitable
    def sums_of_thread(p: Any, bend: Any, start: Any, places: Any, thread: Any, window: Any) -> Any:
        words, soft_words = cuda.local.array(WORDS, uint32), cuda.local.array(SOFT_WORDS, uint32)
        nothing = float64(0)
        sums = Sums(LOWEST, nothing, nothing, nothing, nothing, NO_CLASS, LOWEST, NO_CLASS)
        first = int64(thread)
        while first < window.vectors:
            if BACKWARD:
                # the statistics are known, and the mass is that of the probabilities alone
                for index in range(WORDS):
                    words[index] = uint32(0)
            else:
                load_chunk(start + window.head * SIZE, first, window.vectors, words)
            if KEPT:
                near = places.soft + window.head * SIZE
                load_soft_chunk(near, first, window.vectors, places.soft_whole, soft_words)
            largest = sums.max
            if BACKWARD:
                pass
            elif CAPPED:
                for index in range(_CHUNK * LANES):
                    largest = larger(largest, z_of(number_at(words, index), bend[0], bend[1]))
            else:
                largest = larger(largest, z_of(largest_of(words, WORDS), bend[0], bend[1]))
            shift, part = shift_of(largest), opened(sums)
            for v in range(_CHUNK):
                index = first + v * THREADS
                k, inside = window.head + index * LANES, index < window.vectors
                part = add_vector(p, bend, shift, places, words, soft_words, v, k, inside, part)
            sums = closed(sums, part, largest)
            first += STEP
        return sums

    @register_jitable
    def write_thread(
        p: Any, r: Any, start: Any, places: Any, thread: Any, window: Any, lives: Any
    ) -> None:
        words, soft_words = cuda.local.array(WORDS, uint32), cuda.local.array(SOFT_WORDS, uint32)
        count = window.vectors if lives else int64(0)
        # from the end: what was read last is the likeliest to be in the cache still
        first = int64(thread) + (window.vectors // STEP) * STEP
        while first >= 0:
            load_chunk(start + window.head * SIZE, first, count, words)
            if KEPT:
                near = places.soft + window.head * SIZE
                load_soft_chunk(near, first, count, places.soft_whole, soft_words)
            for v in range(_CHUNK):
                index = first + v * THREADS
                k, inside = window.head + index * LANES, index < window.vectors
                write_vector(p, r, places, words, soft_words, v, k, inside)
            first -= STEP

    def body(p: Any) -> None:
        thread, row = int32(machine.thread()), int64(machine.block())
        start = p.logits + row * p.logits_pitch * SIZE
        window, label = window_of(start, p.classes), int64(0)
        if HARD:
            label = label_of(p, row)
        lives = label != SKIPPED
        places, bend = places_of(p, row, window.head), bend_of(p)
        edge, edge_k, has_edge, edge_soft = LOWEST, int64(0), False, ZERO
        if EDGES > 0 and thread < EDGES:
            edge_k, has_edge = edge_of(window, thread)
            if has_edge and lives:
                edge = load(start + edge_k * SIZE)
                edge_soft = soft_at(places, edge_k, True)

        # The label's logit is read before anything is stored: the gradient may go over the logits.
        at, owns = ZERO, False
        if HARD and label >= 0:
            vector, as_edge = place_of(window, label)
            owns = thread == (vector % THREADS if vector >= 0 else as_edge)
            if owns or (thread == 0 and LOSS):
                at = load(start + label * SIZE)

        row_max, row_sum, mass = ZERO, float64(1), float64(0)
        if MERGES:
            reads = window if lives else window_of(start, int64(0))
            sums = sums_of_thread(p, bend, start, places, thread, reads)
            if EDGES > 0:
                largest = larger(sums.max, z_of(edge, bend[0], bend[1]))
                part = opened(sums)
                shift = shift_of(largest)
                part = add(p, bend, shift, edge_k, edge, edge_soft, has_edge and lives, part)
                sums = closed(sums, part, largest)
            largest = largest_of_lanes(sums.max)
            argmax = sums.argmax if sums.max == largest else NO_CLASS
            sums = moved(sums, largest)
            sums = Sums(
                largest,
                sums.sum,
                sums.mass,
                sums.dot,
                sums.entropy,
                argmax,
                sums.target_max,
                sums.target_argmax,
            )
            sums = merged_threads(merged_lanes(sums), thread)
            row_max, row_sum, mass = sums.max, sums.sum, sums.mass
        if BACKWARD:
            row_max = load_number(p.row_max + row * NUMBER_SIZE)
            row_sum = machine.load_f64(p.row_sum + row * 8)
        elif thread == 0:
            loss = finish(p, row, label, z_of(at, bend[0], bend[1]), sums)
            if LOSS and p.partial != 0:
                machine.store_f64(p.partial + row * 8, loss)

        if WRITES:
            r = row_of(p, row, label, row_max, row_sum, mass)
            element = Element(ZERO, ZERO, ZERO, ZERO)
            if HARD and GRADIENT and owns:
                element = at_label(p, r, label, at, row_sum)
            write_thread(p, r, start, places, thread, window, lives)
            if EDGES > 0 and has_edge:
                write(p, r, places, edge_k, edge, edge_soft)
            if HARD and GRADIENT and owns and r.counts:
                write_label(places, label, element)

    return kernel_of(body)
