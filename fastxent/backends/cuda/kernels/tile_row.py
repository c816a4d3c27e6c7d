"""The formulas of a row that is in the registers of one thread.

Those of a class are `algebra`'s. Those of the row are its `epilogue`'s, but in what computes
instead of float64: the row's sum has few terms and is no more exact than that, and of a row of ten
classes they are most of the work. Where p - 1 cancels, at the label, it is computed from exp - s.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.algebra import elements_of
from fastxent.backends.cuda.kernels.epilogue import BAD, SKIPPED
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.specs import Variant

__all__ = ["Row", "TileRow", "tile_row_of"]

float64: Any = np.float64
int32: Any = np.int32
int64: Any = np.int64
uint32: Any = np.uint32

_NO_CLASS = int32(-1)


class Row(NamedTuple):
    """What is known of a row: numbers, but for the label as `label_of` has it and the two classes.

    Attributes
    ----------
    label, x_at_label
        And the logit there.
    max, sum
        As forward found them, where the task is "backward".
    inverse
        Of the sum.
    spike
        On the label.
    total
        T, the target's mass.
    dot
        Sum of t * (z - shift), without the label's.
    entropy
        Sum of exp(z - shift) * (z - shift).
    argmax, target_argmax
        -1 where there is none.
    """

    label: Any
    x_at_label: Any
    max: Any
    sum: Any
    inverse: Any
    spike: Any
    total: Any
    dot: Any
    entropy: Any
    argmax: Any
    target_argmax: Any


class TileRow(NamedTuple):
    """The functions; p is `Arguments`, r is `Row`, arrays are local and hold a row.

    Attributes
    ----------
    sums : function of (p, row, label, x_at_label, values, softs, exps)
        `Row`; `exps` gets the exponentials. For the task "backward" from what forward found.
    finish : function of (p, row, r)
        Write the results of a row; its loss with its weight.
    main : function of (p, row, r, values, softs, exps, out)
        Compute the task's result: the gradient, or the softmax or its logarithm. What belongs at
        the label, and whether anything does.
    proba : function of (r, exps, out)
    hess : function of (p, row, r, exps, out)
    target_grad : function of (p, row, r, values, out)
    """

    sums: Any
    finish: Any
    main: Any
    proba: Any
    hess: Any
    target_grad: Any


def tile_row_of(variant: Variant, classes: int) -> TileRow:
    """Make the functions for rows of so many classes."""
    return TileRow(
        _sums(variant, classes),
        _finish(variant),
        _main(variant, classes),
        *_besides(variant, classes),
    )


def _sums(variant: Variant, classes: int) -> Any:
    elements = elements_of(variant)
    CLASSES, NUMBER, ZERO = classes, elements.number, elements.number(0)
    LOWEST = NUMBER(-math.inf)
    HARD, SOFT = variant.target == "label", elements.needs_total
    BACKWARD, SIDES = variant.task == "backward", variant.sides
    HAS_MASS = elements.has_mass
    DOT = HAS_MASS and variant.task in ("loss", "grad")
    bend_of, z_of, larger = elements.bend_of, elements.z_of, elements.larger
    shift_of, exp_of = elements.shift_of, elements.exp_of
    mass_of, product_of = elements.mass_of, elements.product_of
    of_number = storage_of(elements.number_kind)
    load_number, NUMBER_SIZE = of_number.load, of_number.size

    @register_jitable
    def sums(
        p: Any,
        row: Any,
        label: Any,
        x_at_label: Any,
        values: Any,
        softs: Any,
        exps: Any,
    ) -> Any:
        inner, cap = bend_of(p)
        largest, argmax, target_max, target_argmax = LOWEST, _NO_CLASS, LOWEST, _NO_CLASS
        summed, total, dot, entropy, spike = ZERO, ZERO, ZERO, ZERO, ZERO
        if BACKWARD:
            largest = load_number(p.row_max + row * NUMBER_SIZE)
        else:
            for k in range(CLASSES):
                largest = larger(largest, z_of(values[k], inner, cap))
        shift = shift_of(largest)
        for k in range(CLASSES):
            difference = z_of(values[k], inner, cap) - shift
            exp = exp_of(difference)
            exps[k] = exp
            summed += exp
            if DOT:
                dot += product_of(mass_of(p, int64(k), softs[k]), difference)
            if SOFT:
                total += mass_of(p, int64(k), softs[k])
            if SIDES:
                entropy += product_of(exp, difference)
                if argmax < 0 and difference == ZERO:
                    argmax = int32(k)
                if SOFT and softs[k] > target_max:
                    target_max, target_argmax = softs[k], int32(k)
        if BACKWARD:
            summed = NUMBER(machine.load_f64(p.row_sum + row * 8))
        if HARD and label >= 0:
            spike = NUMBER(p.spike)
            if p.spike_of != 0:
                spike = NUMBER(machine.load_f64(p.spike_of + int64(label) * 8))
        if HARD:
            total = spike
            if HAS_MASS:
                background = NUMBER(p.background_total)
                if p.background_total_at != 0:
                    background = NUMBER(machine.load_f64(p.background_total_at))
                total += background
        return Row(
            label,
            x_at_label,
            largest,
            summed,
            NUMBER(1) / summed,
            spike,
            total,
            dot,
            entropy,
            argmax,
            target_argmax,
        )

    return sums


def _finish(variant: Variant) -> Any:
    elements = elements_of(variant)
    NUMBER, ZERO, NAN = elements.number, elements.number(0), elements.number(math.nan)
    HARD, SOFT, SIDES = variant.target == "label", elements.needs_total, variant.sides
    LOSS = variant.task in ("loss", "grad")
    stored = storage_of(elements.number_kind)
    SIZE, store = stored.size, stored.store
    bend_of, z_of, shift_of = elements.bend_of, elements.z_of, elements.shift_of

    @register_jitable
    def put(array: Any, row: Any, value: Any) -> None:
        if array != 0:
            store(array + row * SIZE, value)

    @register_jitable
    def put_sides(p: Any, row: Any, r: Any, log_sum: Any) -> None:
        # there is no most probable class where the sum is 0 or NaN
        argmax, entropy = _NO_CLASS, ZERO
        if r.label != SKIPPED:
            entropy = log_sum - r.entropy * r.inverse
            if r.sum > ZERO:
                argmax = r.argmax
        if p.argmax != 0:
            machine.store_i64(p.argmax + row * 8, int64(argmax))
        put(p.entropy, row, entropy)
        if p.correct != 0:
            target = r.target_argmax if SOFT else r.label
            correct = argmax >= 0 and argmax == target
            machine.store_u8(p.correct + row, uint32(1 if correct else 0))

    @register_jitable
    def finish(p: Any, row: Any, r: Any) -> Any:
        row_max, row_sum, loss = r.max, r.sum, ZERO
        if r.label == SKIPPED:
            row_max, row_sum = ZERO, NUMBER(1)
        if p.row_max | p.row_sum != 0:
            put(p.row_max, row, row_max)
            if p.row_sum != 0:
                machine.store_f64(p.row_sum + row * 8, float64(row_sum))
        if LOSS:
            log_sum, log_prob, z_loss = NUMBER(math.log(row_sum)), ZERO, ZERO
            lse = row_max + log_sum  # 0 for a skipped row
            if r.label >= 0:
                loss = r.total * log_sum - r.dot
                log_prob = -loss
                if HARD:
                    inner, cap = bend_of(p)
                    difference = z_of(r.x_at_label, inner, cap) - shift_of(row_max)
                    if r.spike != ZERO:
                        loss -= r.spike * difference
                    log_prob = difference - log_sum
            elif r.label == BAD:
                loss, log_prob = NAN, NAN
            if r.label != SKIPPED:
                z_loss = NUMBER(p.z_loss) * lse * lse
                if p.z_loss != 0.0:
                    loss += z_loss
                if p.row_weight != 0:
                    loss *= NUMBER(machine.load_f64(p.row_weight + row * 8))
            put(p.loss, row, loss)
            if p.log_prob | p.lse | p.z_loss_of != 0:
                put(p.log_prob, row, log_prob)
                put(p.lse, row, lse)
                put(p.z_loss_of, row, z_loss)
            if SIDES:
                put_sides(p, row, r, log_sum)
        return loss

    return finish


def _factor(number: Any) -> Any:
    NUMBER = number

    @register_jitable
    def factor_of(p: Any, row: Any) -> Any:
        """Factor of the row's gradient, and whether the denominator is another than 0."""
        factor = NUMBER(p.scale)
        if p.row_scale != 0:
            factor = NUMBER(machine.load_f64(p.row_scale + row * 8))
        if p.denominator != 0:
            denominator = NUMBER(machine.load_f64(p.denominator))
            return factor / denominator, denominator != NUMBER(0)
        return factor, True

    return factor_of


def _main(variant: Variant, classes: int) -> Any:
    elements = elements_of(variant)
    CLASSES, NUMBER, ZERO = classes, elements.number, elements.number(0)
    HARD, HAS_MASS = variant.target == "label", elements.has_mass
    PLAIN, CAPPED = variant.transform == "plain", variant.transform == "capped"
    SOFTMAX, LOG_SOFTMAX = variant.task == "softmax", variant.task == "log_softmax"
    bend_of, z_of, slope_of = elements.bend_of, elements.z_of, elements.slope_of
    shift_of, exp_of = elements.shift_of, elements.exp_of
    mass_of, grad_of = elements.mass_of, elements.grad_of
    factor_of = _factor(NUMBER)

    @register_jitable
    def at_label(p: Any, r: Any, total: Any, scale: Any) -> Any:
        inner, cap = bend_of(p)
        exp = exp_of(z_of(r.x_at_label, inner, cap) - shift_of(r.max))
        mass = r.spike
        if HAS_MASS:
            mass += mass_of(p, int64(r.label), ZERO)
        share = total * r.inverse
        grad = exp * share - mass
        if exp + exp > r.sum:
            grad = (exp - r.sum) * share + (total - mass)
        grad *= scale
        return grad * slope_of(r.x_at_label, inner, cap) if CAPPED else grad

    @register_jitable
    def main(p: Any, row: Any, r: Any, values: Any, softs: Any, exps: Any, out: Any) -> Any:
        inner, cap = bend_of(p)
        special, counts = ZERO, False
        if LOG_SOFTMAX:
            shift, log_sum = shift_of(r.max), NUMBER(math.log(r.sum))
            for k in range(CLASSES):
                out[k] = z_of(values[k], inner, cap) - shift - log_sum
        elif SOFTMAX:
            for k in range(CLASSES):
                out[k] = exps[k] * r.inverse
        else:
            factor, counts = factor_of(p, row)
            counts = counts and r.label >= 0
            if counts:
                total, scale = r.total, factor
                if p.z_loss != 0.0:
                    total += NUMBER(2.0 * p.z_loss) * (r.max + NUMBER(math.log(r.sum)))
                if not PLAIN:
                    scale *= NUMBER(p.logit_scale)
                share = total * r.inverse
                if not HAS_MASS:
                    share *= scale
                for k in range(CLASSES):
                    mass, slope = ZERO, slope_of(values[k], inner, cap)
                    if HAS_MASS:
                        mass = mass_of(p, int64(k), softs[k])
                    out[k] = grad_of(exps[k], mass, slope, share, scale)
                if HARD:
                    special = at_label(p, r, total, scale)
            else:
                for k in range(CLASSES):
                    out[k] = ZERO
        return special, HARD and counts

    return main


def _besides(variant: Variant, classes: int) -> tuple[Any, Any, Any]:
    """Make the functions for probabilities, Hessian and the gradient of the target."""
    elements = elements_of(variant)
    CLASSES, NUMBER, ZERO = classes, elements.number, elements.number(0)
    HARD, DISTANCE = variant.target == "label", variant.curvature == "distance"
    bend_of, z_of, shift_of = elements.bend_of, elements.z_of, elements.shift_of
    exp_of, hess_of, target_grad_of = elements.exp_of, elements.hess_of, elements.target_grad_of
    factor_of = _factor(NUMBER)

    @register_jitable
    def proba(r: Any, exps: Any, out: Any) -> None:
        for k in range(CLASSES):
            out[k] = ZERO if r.label == SKIPPED else exps[k] * r.inverse

    @register_jitable
    def hess_at_label(p: Any, r: Any, scale: Any, floor: Any) -> Any:
        inner, cap = bend_of(p)
        exp = exp_of(z_of(r.x_at_label, inner, cap) - shift_of(r.max))
        rest = (r.sum - exp) * r.inverse
        found = (rest if DISTANCE else exp * r.inverse * rest) * scale
        return floor if found < floor else found

    @register_jitable
    def hess(p: Any, row: Any, r: Any, exps: Any, out: Any) -> None:
        factor, counts = factor_of(p, row)
        counts = counts and r.label >= 0
        floor = NUMBER(p.hess_floor)
        scale = factor * NUMBER(p.hess_factor)
        special = ZERO
        if HARD:
            special = hess_at_label(p, r, scale, floor)
        for k in range(CLASSES):
            usual = hess_of(exps[k], r.inverse, scale, floor)
            if HARD and k == r.label:
                usual = special
            out[k] = usual if counts else ZERO

    @register_jitable
    def target_grad(p: Any, row: Any, r: Any, values: Any, out: Any) -> None:
        factor, counts = factor_of(p, row)
        inner, cap = bend_of(p)
        shift, log_sum = shift_of(r.max), NUMBER(math.log(r.sum))
        for k in range(CLASSES):
            log_proba = z_of(values[k], inner, cap) - shift - log_sum
            found = target_grad_of(p, int64(k), log_proba, factor)
            out[k] = found if counts else ZERO

    return proba, hess, target_grad
