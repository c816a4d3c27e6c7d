"""A row for each warp, part of a warp, block or cluster: every logit is read once, into registers.

All loads are in flight before the first number is used; then come maximum, exponentials and sum,
one exchange among the warps, and the stores. `aligned` means that rows of the logits begin at
multiples of 16 bytes and are whole vectors long, and `alike` that the result (gradient, or softmax)
does so too; else its vectors are moved in pieces where they have to be. In rows not aligned the
vectors are those that lie within the row at multiples of 16 bytes, and the few numbers before
and behind them are one number more for each of the row's first threads: there have to be as many
threads in a block as two vectors have numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.arguments import kernel_of
from fastxent.backends.cuda.kernels.epilogue import BAD, NO_CLASS, Sums, epilogue_of
from fastxent.backends.cuda.kernels.merge import merge_of
from fastxent.backends.cuda.kernels.results import Element, results_of
from fastxent.backends.cuda.kernels.storage import VECTOR, storage_of
from fastxent.backends.cuda.kernels.unrolled import unrolled
from fastxent.backends.cuda.kernels.vectors import vectors_of
from fastxent.backends.cuda.kernels.window import Window, cutting_of
from fastxent.backends.cuda.specs import RowGeometry, Variant

__all__ = ["make"]

cuda = machine.cuda
float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64
uint32: Any = np.uint32


def make(variant: Variant, geometry: RowGeometry) -> Callable[..., None]:
    """Make the kernel."""
    THREADS, ROWS, VECTORS, CLUSTER = geometry[:4]
    THREAD_BITS, CLUSTER_BITS = THREADS.bit_length() - 1, CLUSTER.bit_length() - 1
    elements, epilogue, results = elements_of(variant), epilogue_of(variant), results_of(variant)
    stored, stored_number = storage_of(variant.kind), storage_of(elements.number_kind)
    # a block of 1024 has no more than 64 registers a thread
    vectors = vectors_of(variant, geometry.aligned and geometry.alike, THREADS <= 512)
    merge = merge_of(variant, THREADS, CLUSTER)
    cutting = cutting_of(variant.kind, geometry.aligned)
    NUMBER, SIZE, LANES, EDGES = elements.number, stored.size, stored.lanes, cutting.edges
    ZERO, LOWEST, WORDS = NUMBER(0), NUMBER(-math.inf), 4 * VECTORS
    KEPT, SOFT = vectors.soft_words > 0, elements.needs_total
    LOSS_BYTES = 8 * ROWS
    SOFT_WORDS = max(1, vectors.soft_words * VECTORS)
    HARD, BACKWARD = variant.target == "label", variant.task == "backward"
    GRADIENT, LOSS = variant.task in ("grad", "backward"), variant.task in ("loss", "grad")
    WRITES, MERGES = variant.task != "loss", not BACKWARD or SOFT
    EXCHANGES = THREADS > 32 or CLUSTER > 1
    number_at, load = stored.number_at, stored.load
    load_masked, largest_of = stored.load_masked, stored.largest_of
    CAPPED = variant.transform == "capped"
    # whether what a pass makes of the words would take more registers than they do
    RENEWS = MERGES and (LANES == 8 or variant.transform != "plain")
    load_soft_words: Any = storage_of(variant.target).load_words if KEPT else None
    window_of, edge_of, place_of = cutting.window_of, cutting.edge_of, cutting.place_of
    larger, z_of, bend_of = elements.larger, elements.z_of, elements.bend_of
    shift_of, label_of, finish = elements.shift_of, epilogue.label_of, epilogue.finish
    places_of, soft_at, add, add_vector = vectors[1:5]
    write, write_label, write_vector = vectors[5:]
    largest_of_lanes, merged_lanes, merged_threads = merge
    row_of, at_label = results.row_of, results.at_label
    NUMBER_SIZE, load_number = stored_number.size, stored_number.load

    # The vectors of a thread: number v is number `first + v * THREADS` of the row.

    def load_soft(v: Any, places: Any, soft_words: Any, first: Any, window: Any) -> Any:
        index = int32(first + v * THREADS)
        near = places.soft + int64(window.head) * SIZE + int64(index) * VECTOR
        a, b, c, d = load_soft_words(near, index < window.vectors, places.soft_whole)
        soft_words[4 * v] = a
        soft_words[4 * v + 1] = b
        soft_words[4 * v + 2] = c
        soft_words[4 * v + 3] = d
        return window

    def add_one(
        v: Any,
        p: Any,
        bend: Any,
        shift: Any,
        places: Any,
        words: Any,
        soft_words: Any,
        first: Any,
        window: Any,
        sums: Any,
    ) -> Any:
        index = int32(first + v * THREADS)
        k, inside = int32(window.head + index * LANES), index < window.vectors
        return add_vector(p, bend, shift, places, words, soft_words, v, k, inside, sums)

    def write_one(
        v: Any, p: Any, r: Any, places: Any, words: Any, soft_words: Any, first: Any, window: Any
    ) -> Any:
        index = int32(first + v * THREADS)
        k, inside = int32(window.head + index * LANES), index < window.vectors
        write_vector(p, r, places, words, soft_words, v, k, inside)
        return window

    def larger_one(v: Any, words: Any, bend: Any, largest: Any) -> Any:
        for j in range(LANES):
            x = number_at(words, v * LANES + j)
            largest = larger(largest, z_of(x, bend[0], bend[1]))
        return largest

    largest_of_vectors = unrolled(larger_one, VECTORS)
    load_soft_vectors, add_vectors = unrolled(load_soft, VECTORS), unrolled(add_one, VECTORS)
    write_vectors = unrolled(write_one, VECTORS)

    def body(p: Any) -> None:
        thread = int32(machine.thread())
        block = int64(machine.block())
        rank = int32(0)
        member = thread
        if CLUSTER > 1:
            rank = int32(machine.cluster_rank())
            member = int32(rank * THREADS + thread)
            row = block >> CLUSTER_BITS
        elif ROWS > 1:
            member = int32(thread & (THREADS - 1))
            row = block * ROWS + (thread >> THREAD_BITS)
        else:
            row = block
        lives = ROWS == 1 or row < p.rows
        label, at = int32(0), ZERO
        start = p.logits + row * p.logits_pitch * SIZE
        window = window_of(start, int32(p.classes))
        if not lives:
            window = Window(int32(0), int32(0), int32(0))

        first = int32(rank * (THREADS * VECTORS) + (member - rank * THREADS))
        words = cuda.local.array(WORDS, uint32)
        inner = start + int64(window.head) * SIZE + int64(first) * VECTOR
        for v in range(VECTORS):
            a, b, c, d = load_masked(
                inner + v * (THREADS * VECTOR), int32(first + v * THREADS) < window.vectors
            )
            words[4 * v] = a
            words[4 * v + 1] = b
            words[4 * v + 2] = c
            words[4 * v + 3] = d
        # after the loads of the row: whether the label is good is known when it has come
        if HARD:
            label = int32(label_of(p, row)) if lives else BAD
        places = places_of(p, row, window.head)
        soft_words = cuda.local.array(SOFT_WORDS, uint32)
        if KEPT:
            load_soft_vectors(places, soft_words, first, window)
        edge, edge_k, has_edge, edge_soft = LOWEST, int32(0), False, ZERO
        if EDGES > 0 and member < EDGES:
            edge_k, has_edge = edge_of(window, member)
            if has_edge:
                edge = load(start + int64(edge_k) * SIZE)
                edge_soft = soft_at(places, edge_k, True)

        # The label's logit is read before anything is stored: the gradient may go over the logits.
        owns, leads = False, lives and member == 0
        if HARD and label >= 0:
            vector, as_edge = place_of(window, label)
            if vector >= 0:
                within = int32(vector - rank * (THREADS * VECTORS))
                owns = 0 <= within < THREADS * VECTORS and within % THREADS == first - (
                    rank * (THREADS * VECTORS)
                )
            else:
                owns = member == as_edge
            if owns or (leads and LOSS):
                at = load(start + int64(label) * SIZE)

        bend = bend_of(p)
        row_max, row_sum, mass = ZERO, float64(1), float64(0)
        if MERGES:
            largest = LOWEST
            if not BACKWARD:
                if CAPPED:
                    largest = largest_of_vectors(words, bend, largest)
                else:
                    largest = z_of(largest_of(words, WORDS), bend[0], bend[1])
                if EDGES > 0:
                    largest = larger(largest, z_of(edge, bend[0], bend[1]))
                largest = largest_of_lanes(largest)
            shift = shift_of(largest)
            sums = Sums(LOWEST, ZERO, ZERO, ZERO, ZERO, NO_CLASS, LOWEST, NO_CLASS)
            sums = add_vectors(p, bend, shift, places, words, soft_words, first, window, sums)
            if EDGES > 0:
                sums = add(p, bend, shift, edge_k, edge, edge_soft, has_edge, sums)
            argmax = sums.argmax if sums.max == largest else NO_CLASS
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
            if not EXCHANGES:
                machine.warp_barrier()
            row_max, row_sum, mass = sums.max, sums.sum, sums.mass
        if BACKWARD and lives:
            row_max = load_number(p.row_max + row * NUMBER_SIZE)
            row_sum = machine.load_f64(p.row_sum + row * 8)

        if WRITES and lives:
            r = row_of(p, row, label, row_max, row_sum, mass)
            element = Element(ZERO, ZERO, ZERO, ZERO)
            if HARD and GRADIENT and owns:
                element = at_label(p, r, label, at, row_sum)
            if RENEWS:
                for index in range(WORDS):
                    words[index] = machine.renewed(words[index])
                if KEPT:
                    for index in range(SOFT_WORDS):
                        soft_words[index] = machine.renewed(soft_words[index])
            write_vectors(p, r, places, words, soft_words, first, window)
            if EDGES > 0 and has_edge:
                write(p, r, places, edge_k, edge, edge_soft)
            if HARD and GRADIENT and owns and r.counts:
                write_label(places, label, element)
        if not BACKWARD:
            loss = float64(0)
            if leads:
                loss = finish(p, row, label, z_of(at, bend[0], bend[1]), sums)
            if LOSS and p.partial != 0:
                if ROWS > 1:
                    losses = machine.shared_memory(LOSS_BYTES)
                    if member == 0:
                        machine.store_shared_f64(int32(losses + (thread >> THREAD_BITS) * 8), loss)
                    machine.barrier()
                    if thread == 0:
                        loss = float64(0)
                        for index in range(ROWS):
                            loss += machine.load_shared_f64(int32(losses + index * 8))
                        machine.store_f64(p.partial + block * 8, loss)
                elif leads:
                    machine.store_f64(p.partial + row * 8, loss)
        if CLUSTER > 1 and MERGES:
            machine.cluster_wait()

    return kernel_of(body)
