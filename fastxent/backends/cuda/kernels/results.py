"""What a row writes for each class: its numbers made ready once, then an element at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.kernels.algebra import elements_of, inverse_of, log_of
from fastxent.backends.cuda.kernels.epilogue import SKIPPED, epilogue_of
from fastxent.backends.cuda.specs import Variant

__all__ = ["Element", "Results", "Row", "results_of"]

float64: Any = np.float64


class Row(NamedTuple):
    """A row's numbers, as its elements need them; what a variant does not ask for is 0.

    Attributes
    ----------
    inner, cap : number
        Of `z_of`.
    shift : number
    share, scale : number
        Of `grad_of`.
    inverse : number
        1 / s.
    log_sum : number
        log s.
    factor : number
        Of the gradient with respect to probabilities, but for the gain.
    wide_share, wide_scale : float64
        What `share` and `scale` are rounded from.
    hess_scale, hess_floor : number
    counts : bool
        Whether gradients and Hessian are not 0, whatever the formula says.
    lives : bool
        Whether the probabilities are not.
    """

    inner: Any
    cap: Any
    shift: Any
    share: Any
    scale: Any
    inverse: Any
    log_sum: Any
    factor: Any
    wide_share: Any
    wide_scale: Any
    hess_scale: Any
    hess_floor: Any
    counts: Any
    lives: Any


class Element(NamedTuple):
    """Results for one class: the gradient or, if that is the task, the softmax or its logarithm."""

    main: Any
    proba: Any
    hess: Any
    target_grad: Any


class Results(NamedTuple):
    """The functions; p is `Arguments`, r is `Row`.

    Attributes
    ----------
    row_of : function of (p, row, label, row_max, row_sum, mass)
        Make a row's numbers ready; `mass` is that of `Sums`.
    element_of : function of (p, r, k, x, soft)
        `Element` of class k with the logit x and the probability `soft`, before it is known
        whether the row counts.
    at_label : function of (p, r, label, x, row_sum)
        `Element` of a good label, its gradient and Hessian computed in float64: they take the
        place of what `element_of` gives, in rows that count.
    """

    row_of: Any
    element_of: Any
    at_label: Any


def results_of(variant: Variant) -> Results:
    """Make the functions of a variant."""
    elements, epilogue = elements_of(variant), epilogue_of(variant)
    NUMBER, ZERO = elements.number, elements.number(0)
    HAS_MASS, CURVATURE = elements.has_mass, variant.curvature
    SOFTMAX, LOG_SOFTMAX = variant.task == "softmax", variant.task == "log_softmax"
    GRADIENT, TARGET_GRAD = not (SOFTMAX or LOG_SOFTMAX), variant.target_grad
    HESS = CURVATURE in ("product", "distance")
    bend_of, z_of, slope_of = elements.bend_of, elements.z_of, elements.slope_of
    shift_of, exp_of, mass_of = elements.shift_of, elements.exp_of, elements.mass_of
    share_of, grad_of, grad_at_label = elements.share_of, elements.grad_of, elements.grad_at_label
    hess_of, hess_at_label = elements.hess_of, elements.hess_at_label
    target_grad_of = elements.target_grad_of
    factor_of, total_of, spike_of = epilogue.factor_of, epilogue.total_of, epilogue.spike_of

    @register_jitable
    def row_of(p: Any, row: Any, label: Any, row_max: Any, row_sum: Any, mass: Any) -> Any:
        inner, cap = bend_of(p)
        factor, counts, share, scale = float64(0), True, ZERO, ZERO
        wide_share, wide_scale = float64(0), float64(0)
        inverse, log_sum, hess_scale, hess_floor = ZERO, ZERO, ZERO, ZERO
        if GRADIENT:
            factor, counts = factor_of(p, row)
            total = total_of(p, label, mass)
            wide_share, wide_scale = share_of(p, factor, total, row_max, row_sum)
            share, scale = NUMBER(wide_share), NUMBER(wide_scale)
        if SOFTMAX or CURVATURE != "":
            inverse = NUMBER(inverse_of(row_sum))
        if LOG_SOFTMAX or TARGET_GRAD:
            log_sum = NUMBER(log_of(row_sum))
        if HESS:
            hess_scale, hess_floor = NUMBER(factor * p.hess_factor), NUMBER(p.hess_floor)
        return Row(
            inner,
            cap,
            shift_of(row_max),
            share,
            scale,
            inverse,
            log_sum,
            NUMBER(factor),
            wide_share,
            wide_scale,
            hess_scale,
            hess_floor,
            counts and label >= 0,
            label != SKIPPED,
        )

    @register_jitable
    def element_of(p: Any, r: Any, k: Any, x: Any, soft: Any) -> Any:
        difference = z_of(x, r.inner, r.cap) - r.shift
        proba, hess, target_grad = ZERO, ZERO, ZERO
        if LOG_SOFTMAX:
            return Element(difference - r.log_sum, proba, hess, target_grad)
        exp = exp_of(difference)
        if SOFTMAX:
            return Element(exp * r.inverse, proba, hess, target_grad)
        mass = ZERO
        if HAS_MASS:
            mass = mass_of(p, k, soft)
        main = grad_of(exp, mass, slope_of(x, r.inner, r.cap), r.share, r.scale)
        if CURVATURE != "":
            proba = exp * r.inverse
        if HESS:
            hess = hess_of(exp, r.inverse, r.hess_scale, r.hess_floor)
        if TARGET_GRAD:
            target_grad = target_grad_of(p, k, difference - r.log_sum, r.factor)
        return Element(main, proba, hess, target_grad)

    @register_jitable
    def at_label(p: Any, r: Any, label: Any, x: Any, row_sum: Any) -> Any:
        exp = exp_of(z_of(x, r.inner, r.cap) - r.shift)
        mass, hess = ZERO, ZERO
        if HAS_MASS:
            mass = mass_of(p, label, ZERO)
        slope, spike = slope_of(x, r.inner, r.cap), spike_of(p, label)
        main = grad_at_label(exp, mass, slope, spike, r.wide_share, r.wide_scale)
        if HESS:
            hess = hess_at_label(exp, row_sum, r.hess_scale, r.hess_floor)
        return Element(main, ZERO, hess, ZERO)

    return Results(row_of, element_of, at_label)
