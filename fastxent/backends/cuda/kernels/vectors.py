"""One vector of logits at a time, as words in registers: into the row's sums, and to its results.

Arrays beside the logits may be stored in another kind, and begin anywhere. Where a vector of them
is as many numbers as one of logits, and lies at a multiple of 16 bytes, it is moved as one;
otherwise number by number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.epilogue import Sums
from fastxent.backends.cuda.kernels.results import results_of
from fastxent.backends.cuda.kernels.storage import VECTOR, storage_of
from fastxent.backends.cuda.kernels.unrolled import unrolled
from fastxent.backends.cuda.specs import Variant

__all__ = ["Places", "Vectors", "vectors_of"]

cuda = machine.cuda
int64: Any = np.int64
uint32: Any = np.uint32


class Places(NamedTuple):
    """Where a row begins in the other arrays, and whether vectors are at multiples of 16 there.

    Attributes
    ----------
    soft, result, proba, hess, target_grad : int64
        Addresses, 0 for absent arrays; `result` is the gradient or the softmax.
    soft_whole, result_whole, proba_whole, hess_whole, target_grad_whole : bool
    """

    soft: Any
    result: Any
    proba: Any
    hess: Any
    target_grad: Any
    soft_whole: Any
    result_whole: Any
    proba_whole: Any
    hess_whole: Any
    target_grad_whole: Any


class Vectors(NamedTuple):
    """The functions; p is `Arguments`, r is `Row`.

    Attributes
    ----------
    soft_words : int
        Words of probabilities that a thread keeps for each vector of logits: 4 or 0.
    places_of : function of (p, row, head)
        `Places` of a row, whose first vector is at class `head`.
    soft_at : function of (places, k, inside)
        Probability of class k.
    add : function of (p, bend, shift, k, x, soft, inside, sums)
        Sums with one more element; they hold the thread's own maximum, and numbers.
    add_vector : function of (p, bend, shift, places, words, soft_words, v, k, inside, sums)
        Sums with the vector that is number v of `words`, and begins at class k.
    write : function of (p, r, places, k, x, soft)
        Write the results of one class.
    write_label : function of (places, label, element)
        Write what the label has of its own, over what it was written with the others.
    write_vector : function of (p, r, places, words, soft_words, v, k, inside)
        Write those of a vector.
    """

    soft_words: int
    places_of: Any
    soft_at: Any
    add: Any
    add_vector: Any
    write: Any
    write_label: Any
    write_vector: Any


def vectors_of(variant: Variant, aligned: bool, keeps: bool = True) -> Vectors:
    """Make the functions of a variant; `aligned` is said of the result.

    `keeps` says that there are registers for the probabilities; otherwise they are read again.
    """
    elements, results, stored = elements_of(variant), results_of(variant), storage_of(variant.kind)
    NUMBER, ZERO, LANES, SIZE = elements.number, elements.number(0), stored.lanes, stored.size
    SOFT, HAS_MASS = elements.needs_total, elements.has_mass
    soft_kind = variant.target if SOFT else variant.kind
    soft = storage_of(soft_kind)
    SOFT_SIZE, KEPT = soft.size, keeps and SOFT and soft.size == SIZE
    target_grad = storage_of(variant.kind if soft_kind == "uint8" else soft_kind)
    TARGET_SIZE, TARGET_ALIKE = target_grad.size, target_grad.size == SIZE
    STATISTICS, SIDES = variant.task != "backward", variant.sides
    DOT = HAS_MASS and variant.task in ("loss", "grad")
    WRITES_PROBA = variant.task in ("softmax", "log_softmax")
    PROBA, TARGET_GRAD = variant.curvature != "", variant.target_grad
    # beside other results there need not be a gradient
    ALONE = not (PROBA or TARGET_GRAD)
    HESS, ALIGNED = variant.curvature in ("product", "distance"), aligned
    number_at, words_of, store = stored.number_at, stored.words_of, stored.store
    store_words, soft_number_at, load_soft = stored.store_words, soft.number_at, soft.load
    store_target, target_words_of = target_grad.store, target_grad.words_of
    store_target_words = target_grad.store_words
    z_of, exp_of, mass_of = elements.z_of, elements.exp_of, elements.mass_of
    product_of, element_of = elements.product_of, results.element_of

    @register_jitable
    def is_whole(address: Any) -> Any:
        return address & (VECTOR - 1) == 0

    @register_jitable
    def places_of(p: Any, row: Any, head: Any) -> Any:
        first, offset = int64(head), int64(head) * SIZE
        soft, proba, hess, target = int64(0), int64(0), int64(0), int64(0)
        if WRITES_PROBA:
            result = p.proba + row * p.proba_pitch * SIZE
        else:
            result = p.grad + row * p.grad_pitch * SIZE if ALONE or p.grad != 0 else int64(0)
        if SOFT:
            soft = p.soft + row * p.soft_pitch * SOFT_SIZE
        if PROBA:
            proba = int64(0) if p.proba == 0 else p.proba + row * p.proba_pitch * SIZE
        if HESS:
            hess = int64(0) if p.hess == 0 else p.hess + row * p.hess_pitch * SIZE
        if TARGET_GRAD and p.target_grad != 0:
            target = p.target_grad + row * p.target_grad_pitch * TARGET_SIZE
        return Places(
            soft,
            result,
            proba,
            hess,
            target,
            is_whole(soft + first * SOFT_SIZE),
            ALIGNED or is_whole(result + offset),
            is_whole(proba + offset),
            is_whole(hess + offset),
            is_whole(target + first * TARGET_SIZE),
        )

    @register_jitable
    def soft_at(places: Any, k: Any, inside: Any) -> Any:
        if SOFT:
            return NUMBER(load_soft(places.soft + int64(k) * SOFT_SIZE)) if inside else ZERO
        return ZERO

    @register_jitable
    def soft_of(places: Any, soft_words: Any, index: Any, k: Any, inside: Any) -> Any:
        if KEPT:
            return NUMBER(soft_number_at(soft_words, index))
        return soft_at(places, k, inside)

    @register_jitable
    def add(
        p: Any, bend: Any, shift: Any, k: Any, x: Any, soft: Any, inside: Any, sums: Any
    ) -> Any:
        total, mass, dot, entropy = sums.sum, sums.mass, sums.dot, sums.entropy
        largest, argmax = sums.max, sums.argmax
        target_max, target_argmax = sums.target_max, sums.target_argmax
        z = z_of(x, bend[0], bend[1])
        difference = z - shift
        if STATISTICS:
            exp = exp_of(difference)
            total = total + exp
            if SIDES:
                entropy = entropy + product_of(exp, difference)
                if z > largest or (z == largest and k < argmax):
                    largest, argmax = z, int64(k)
                more = soft > target_max or (soft == target_max and k < target_argmax)
                if SOFT and inside and more:
                    target_max, target_argmax = soft, int64(k)
        if SOFT or DOT:
            here = mass_of(p, int64(k), soft) if inside else ZERO
            mass = mass + here
            if DOT:
                dot = dot + product_of(here, difference)
        return Sums(largest, total, mass, dot, entropy, argmax, target_max, target_argmax)

    # Of a long formula LLVM would leave loops over the lanes as they are, and words and results in
    # memory.
    def add_lane(
        j: Any,
        p: Any,
        bend: Any,
        shift: Any,
        places: Any,
        words: Any,
        soft_words: Any,
        v: Any,
        k: Any,
        inside: Any,
        sums: Any,
    ) -> Any:
        x = number_at(words, v * LANES + j)
        soft = soft_of(places, soft_words, v * LANES + j, k + j, inside)
        return add(p, bend, shift, k + j, x, soft, inside, sums)

    add_vector = unrolled(add_lane, LANES)

    @register_jitable
    def write(p: Any, r: Any, places: Any, k: Any, x: Any, soft: Any) -> None:
        at, element = int64(k) * SIZE, element_of(p, r, int64(k), x, soft)
        if ALONE or places.result != 0:
            store(places.result + at, element.main if r.counts else ZERO)
        if PROBA and places.proba != 0:
            store(places.proba + at, element.proba if r.lives else ZERO)
        if HESS and places.hess != 0:
            store(places.hess + at, element.hess if r.counts else ZERO)
        if TARGET_GRAD and places.target_grad != 0:
            there = places.target_grad + int64(k) * TARGET_SIZE
            store_target(there, element.target_grad if r.counts else ZERO)

    @register_jitable
    def write_label(places: Any, label: Any, element: Any) -> None:
        if ALONE or places.result != 0:
            store(places.result + int64(label) * SIZE, element.main)
        if HESS and places.hess != 0:
            store(places.hess + int64(label) * SIZE, element.hess)

    @register_jitable
    def put(address: Any, numbers: Any, lives: Any, inside: Any, whole: Any) -> None:
        # the words are masked and not the numbers: what does not count may be NaN
        a, b, c, d = words_of(numbers)
        mask = uint32(0xFFFFFFFF) if lives else uint32(0)
        a, b, c, d = uint32(a & mask), uint32(b & mask), uint32(c & mask), uint32(d & mask)
        store_words(address, a, b, c, d, inside, whole)

    @register_jitable
    def put_target(address: Any, numbers: Any, lives: Any, inside: Any, whole: Any) -> None:
        if TARGET_ALIKE:
            a, b, c, d = target_words_of(numbers)
            mask = uint32(0xFFFFFFFF) if lives else uint32(0)
            a, b, c, d = uint32(a & mask), uint32(b & mask), uint32(c & mask), uint32(d & mask)
            store_target_words(address, a, b, c, d, inside, whole)
        elif inside:
            for j in range(LANES):
                store_target(address + j * TARGET_SIZE, numbers[j] if lives else ZERO)

    def results_of_lane(
        j: Any,
        p: Any,
        r: Any,
        places: Any,
        words: Any,
        soft_words: Any,
        v: Any,
        k: Any,
        inside: Any,
        found: Any,
    ) -> Any:
        main, proba, hess, target = found
        x = number_at(words, v * LANES + j)
        soft = soft_of(places, soft_words, v * LANES + j, k + j, inside)
        # outside no class has a weight to read
        element = element_of(p, r, int64(k + j if inside else 0), x, soft)
        main[j] = element.main
        proba[j] = element.proba
        hess[j] = element.hess
        target[j] = element.target_grad
        return found

    results_of_vector = unrolled(results_of_lane, LANES)

    @register_jitable
    def write_vector(
        p: Any,
        r: Any,
        places: Any,
        words: Any,
        soft_words: Any,
        v: Any,
        k: Any,
        inside: Any,
    ) -> None:
        main, proba = cuda.local.array(LANES, NUMBER), cuda.local.array(LANES, NUMBER)
        hess, target = cuda.local.array(LANES, NUMBER), cuda.local.array(LANES, NUMBER)
        found = (main, proba, hess, target)
        results_of_vector(p, r, places, words, soft_words, v, k, inside, found)
        at = int64(k) * SIZE
        if ALONE or places.result != 0:
            put(places.result + at, main, r.counts, inside, places.result_whole)
        if PROBA and places.proba != 0:
            put(places.proba + at, proba, r.lives, inside, places.proba_whole)
        if HESS and places.hess != 0:
            put(places.hess + at, hess, r.counts, inside, places.hess_whole)
        if TARGET_GRAD and places.target_grad != 0:
            there = places.target_grad + int64(k) * TARGET_SIZE
            put_target(there, target, r.counts, inside, places.target_grad_whole)

    return Vectors(
        4 if KEPT else 0,
        places_of,
        soft_at,
        add,
        add_vector,
        write,
        write_label,
        write_vector,
    )
