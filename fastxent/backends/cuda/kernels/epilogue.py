"""What belongs to a whole row: its label, its factors, and the results that one thread writes.

All of it in float64; the rows' sums come in as `Sums`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of, inverse_of, log_of
from fastxent.backends.cuda.kernels.storage import integer_at, storage_of
from fastxent.backends.cuda.specs import Variant

__all__ = ["BAD", "NO_CLASS", "SKIPPED", "Epilogue", "Sums", "epilogue_of"]

float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64
uint32: Any = np.uint32

# What `label_of` gives for a label that is none; it gives 0 for rows that have none.
SKIPPED, BAD = int32(-1), int32(-2)

# Where no class was found: larger than every one, as the first of equals is the smallest.
NO_CLASS = int64(1) << int64(62)

_NAN = float64(math.nan)


class Sums(NamedTuple):
    """Sums over the classes of a row, or of a part of it; what a variant does not ask for is 0.

    Attributes
    ----------
    max : number
        Largest z; -inf where there is none.
    sum : float64
        Of exp(z - shift).
    mass : float64
        Of t.
    dot : float64
        Of t * (z - shift).
    entropy : float64
        Of exp(z - shift) * (z - shift).
    argmax : int64
        First class of the largest z.
    target_max : number
        Largest probability in the target,
    target_argmax : int64
        and its first class.
    """

    max: Any
    sum: Any
    mass: Any
    dot: Any
    entropy: Any
    argmax: Any
    target_max: Any
    target_argmax: Any


class Epilogue(NamedTuple):
    """The functions; p is `Arguments`.

    Attributes
    ----------
    label_of : function of (p, row)
        Label, int64; SKIPPED or BAD.
    spike_of : function of (p, label)
        Mass on a good label, float64.
    factor_of : function of (p, row)
        Factor of the row's gradient, float64, and whether the denominator is another than 0.
    total_of : function of (p, label, mass)
        T, float64: from the sum of the mass for probabilities.
    finish : function of (p, row, label, at_label, sums)
        Write the results of a row, `at_label` being z there; the loss with its weight, float64.
    """

    label_of: Any
    spike_of: Any
    factor_of: Any
    total_of: Any
    finish: Any


def epilogue_of(variant: Variant) -> Epilogue:
    """Make the functions of a variant."""
    HARD, SOFT = variant.target == "label", variant.target not in ("label", "none")
    LOSS, SIDES = variant.task in ("loss", "grad"), variant.sides
    elements = elements_of(variant)
    stored = storage_of(elements.number_kind)
    NUMBER, SIZE, store, shift_of = elements.number, stored.size, stored.store, elements.shift_of

    @register_jitable
    def label_of(p: Any, row: Any) -> Any:
        label = int64(0)
        if HARD:
            label = integer_at(p.labels, row, p.label_kind)
            if p.has_skip != 0 and label == p.skip:
                label = int64(SKIPPED)
            elif label < 0 or label >= p.classes:
                label = int64(BAD)
        return label

    @register_jitable
    def spike_of(p: Any, label: Any) -> Any:
        return p.spike if p.spike_of == 0 else machine.load_f64(p.spike_of + label * 8)

    @register_jitable
    def factor_of(p: Any, row: Any) -> Any:
        factor = p.scale if p.row_scale == 0 else machine.load_f64(p.row_scale + row * 8)
        if p.denominator != 0:
            denominator = machine.load_f64(p.denominator)
            if denominator == 0.0:
                return float64(0), False
            factor = factor * inverse_of(denominator)
        return factor, True

    @register_jitable
    def total_of(p: Any, label: Any, mass: Any) -> Any:
        if SOFT:
            return mass
        total = p.background_total
        if p.background_total_at != 0:
            total = machine.load_f64(p.background_total_at)
        return total + spike_of(p, label) if HARD and label >= 0 else total

    @register_jitable
    def put(array: Any, row: Any, value: Any) -> None:
        if array != 0:
            store(array + row * SIZE, NUMBER(value))

    @register_jitable
    def finish(p: Any, row: Any, label: Any, at_label: Any, sums: Any) -> Any:
        row_max, row_sum, loss = sums.max, sums.sum, float64(0)
        if label == SKIPPED:
            row_max, row_sum = NUMBER(0), float64(1)
        put(p.row_max, row, row_max)
        if p.row_sum != 0:
            machine.store_f64(p.row_sum + row * 8, row_sum)
        if LOSS:
            log_sum, log_prob, z_loss = log_of(row_sum), float64(0), float64(0)
            lse = float64(row_max) + log_sum  # 0 for a skipped row
            if label >= 0:
                loss = total_of(p, label, sums.mass) * log_sum - sums.dot
                log_prob = -loss
                if HARD:
                    difference = float64(at_label) - float64(shift_of(row_max))
                    spike = spike_of(p, label)
                    if spike != 0.0:
                        loss -= spike * difference
                    log_prob = difference - log_sum
            elif label == BAD:
                loss, log_prob = _NAN, _NAN
            if label != SKIPPED:
                z_loss = p.z_loss * lse * lse
                if p.z_loss != 0.0:
                    loss += z_loss
                if p.row_weight != 0:
                    loss *= machine.load_f64(p.row_weight + row * 8)
            put(p.loss, row, loss)
            put(p.log_prob, row, log_prob)
            put(p.lse, row, lse)
            put(p.z_loss_of, row, z_loss)
            if SIDES:
                # there is no most probable class where the sum is 0 or NaN
                argmax, entropy = int64(-1), float64(0)
                if label != SKIPPED:
                    entropy = log_sum - sums.entropy * inverse_of(row_sum)
                    if row_sum > 0.0:
                        argmax = sums.argmax
                if p.argmax != 0:
                    machine.store_i64(p.argmax + row * 8, argmax)
                put(p.entropy, row, entropy)
                if p.correct != 0:
                    target = sums.target_argmax if SOFT else int64(label)
                    correct = argmax >= 0 and argmax == target
                    machine.store_u8(p.correct + row, uint32(1 if correct else 0))
        return loss

    return Epilogue(label_of, spike_of, factor_of, total_of, finish)
