"""The formulas of one element, for every kernel of rows.

`elements_of` closes them over what the variant says, so that what it does not ask for is gone when
the kernel is compiled. A target's mass on class k is ``t_k``, without the spike on a hard label;
``shift`` is a maximum of z, by which all exponents are at most 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda import machine
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.specs import Variant

__all__ = ["Elements", "elements_of", "inverse_of", "log_of"]

float32: Any = np.float32
float64: Any = np.float64
int64: Any = np.int64

_LOG2E = float32(math.log2(math.e))
_INFINITY = float64(math.inf)


class Elements(NamedTuple):
    """The formulas; p is `Arguments`, numbers are of type `number` unless they are said float64.

    Attributes
    ----------
    number : type
        What one element is computed in: float32, or float64 for float64.
    number_kind : str
        The same as a kind.
    has_mass : bool
        Whether classes have mass, or the label alone.
    needs_total : bool
        Whether T has to be summed from them: for probabilities.
    bend_of : function of (p)
        The two numbers that `z_of` and `slope_of` need.
    z_of : function of (x, inner, cap)
        z of a logit.
    slope_of : function of (x, inner, cap)
        1 - (z / softcap)^2, and 1 without a cap.
    larger : function of (a, b)
        The larger number, the other one where one is NaN.
    shift_of : function of (largest)
        The largest z itself, but 0 for -inf: where all are -inf, exponentials shall be 0, not NaN.
    exp_of : function of (difference)
        Exponential of z - shift.
    mass_of : function of (p, k, soft)
        t_k, where `soft` is the probability in the target (0 if it is a label).
    product_of : function of (mass, difference)
        Their product; 0 where there is no mass, be the class at -inf.
    share_of : function of (p, factor, total, row_max, row_sum)
        float64 factors of the exponential and of the rest in a row's gradient; `factor` is that
        of the row, float64 like `total`, the mass T.
    grad_of : function of (exp, mass, slope, share, scale)
        Element of the gradient, from the factors rounded.
    grad_at_label : function of (exp, mass, slope, spike, share, scale)
        The same at the label, from the factors in float64: T * p - t cancels there.
    hess_of : function of (exp, inverse, scale, floor)
        Element of the Hessian's diagonal; inverse of s, and the row's factor times the rule's.
    hess_at_label : function of (exp, row_sum, scale, floor)
        The same at the label, by way of float64.
    target_grad_of : function of (p, k, log_proba, factor)
        Element of the gradient with respect to probabilities.
    """

    number: Any
    number_kind: str
    has_mass: bool
    needs_total: bool
    bend_of: Any
    z_of: Any
    slope_of: Any
    larger: Any
    shift_of: Any
    exp_of: Any
    mass_of: Any
    product_of: Any
    share_of: Any
    grad_of: Any
    grad_at_label: Any
    hess_of: Any
    hess_at_label: Any
    target_grad_of: Any


@register_jitable
def log_of(total: Any) -> Any:
    """Logarithm of a sum of exponentials, float64."""
    if total == 0.0:
        return -_INFINITY
    return float64(math.log(total))


@register_jitable
def inverse_of(value: Any) -> Any:
    """1 / value of a float64, within 2 units in the last place; NaN for 0.

    A division has a way out for extreme numbers, a call in the middle of the kernel, and takes the
    registers that it needs from the logits.
    """
    guess = machine.reciprocal(value)
    guess = guess + guess * (1.0 - value * guess)
    return guess + guess * (1.0 - value * guess)


def elements_of(variant: Variant) -> Elements:
    """Make the formulas of a variant."""
    double = variant.kind == "float64"
    number: Any = float64 if double else float32
    number_kind = "float64" if double else "float32"
    return Elements(
        number=number,
        number_kind=number_kind,
        has_mass=variant.mass != "label" or variant.target not in ("label", "none"),
        needs_total=variant.target not in ("label", "none"),
        **_logits(variant.transform, number),
        **_exponentials(number),
        **_mass(variant, number, number_kind),
        **_gradient(variant, number),
        **_curvature(variant.curvature, number),
    )


def _logits(transform: str, number: Any) -> dict[str, Any]:
    CAPPED, SCALED = transform == "capped", transform == "scaled"
    ONE, LOWEST = number(1), number(-math.inf)

    @register_jitable
    def bend_of(p: Any) -> Any:
        if CAPPED:
            return number(p.logit_scale * inverse_of(p.softcap)), number(p.softcap)
        return number(p.logit_scale), ONE

    @register_jitable
    def z_of(x: Any, inner: Any, cap: Any) -> Any:
        if CAPPED:
            # -inf masks its class: the cap would make it -softcap, and give it mass
            bent = number(math.tanh(x * inner)) * cap
            return x if x == LOWEST else bent
        if SCALED:
            return x * inner
        return x

    @register_jitable
    def slope_of(x: Any, inner: Any, cap: Any) -> Any:
        if CAPPED:
            bent = number(math.tanh(x * inner))
            return ONE - bent * bent
        return ONE

    return {"bend_of": bend_of, "z_of": z_of, "slope_of": slope_of}


def _exponentials(number: Any) -> dict[str, Any]:
    DOUBLE = number is float64
    LOWEST, ZERO = number(-math.inf), number(0)

    @register_jitable
    def larger(a: Any, b: Any) -> Any:
        return machine.max_f64(a, b) if DOUBLE else machine.max_f32(a, b)

    @register_jitable
    def shift_of(largest: Any) -> Any:
        return ZERO if largest == LOWEST else largest

    @register_jitable
    def exp_of(difference: Any) -> Any:
        if DOUBLE:
            return float64(math.exp(difference))
        return machine.exp2(difference * _LOG2E)

    return {"larger": larger, "shift_of": shift_of, "exp_of": exp_of}


def _mass(variant: Variant, number: Any, number_kind: str) -> dict[str, Any]:
    SOFT = variant.target not in ("label", "none")
    UNIFORM, CLASSES = variant.mass == "uniform", variant.mass == "classes"
    ZERO = number(0)
    stored = storage_of(number_kind)
    SIZE, load = stored.size, stored.load

    @register_jitable
    def gain_of(p: Any, k: Any) -> Any:
        if CLASSES:
            return number(p.gain) if p.gain_of == 0 else load(p.gain_of + k * SIZE)
        return number(p.gain)

    @register_jitable
    def background_of(p: Any, k: Any) -> Any:
        if CLASSES:
            if p.background_of == 0:
                return number(p.background)
            return load(p.background_of + k * SIZE)
        return number(p.background)

    @register_jitable
    def mass_of(p: Any, k: Any, soft: Any) -> Any:
        if UNIFORM or CLASSES:
            if SOFT:
                return gain_of(p, k) * soft + background_of(p, k)
            return background_of(p, k)
        if SOFT:
            return soft
        return ZERO

    @register_jitable
    def product_of(mass: Any, difference: Any) -> Any:
        return ZERO if mass == ZERO else mass * difference

    @register_jitable
    def target_grad_of(p: Any, k: Any, log_proba: Any, factor: Any) -> Any:
        if UNIFORM or CLASSES:
            return -(factor * gain_of(p, k)) * log_proba
        return -factor * log_proba

    return {"mass_of": mass_of, "product_of": product_of, "target_grad_of": target_grad_of}


def _gradient(variant: Variant, number: Any) -> dict[str, Any]:
    HAS_MASS = variant.mass != "label" or variant.target not in ("label", "none")
    CAPPED, PLAIN = variant.transform == "capped", variant.transform == "plain"

    @register_jitable
    def share_of(p: Any, factor: Any, total: Any, row_max: Any, row_sum: Any) -> Any:
        if p.z_loss != 0.0:
            total += 2.0 * p.z_loss * (float64(row_max) + log_of(row_sum))
        scale = factor if PLAIN else factor * p.logit_scale
        share = total * inverse_of(row_sum)
        return (share if HAS_MASS else share * scale), scale

    @register_jitable
    def grad_of(exp: Any, mass: Any, slope: Any, share: Any, scale: Any) -> Any:
        grad = exp * share
        if HAS_MASS:
            grad = (grad - mass) * scale
        return grad * slope if CAPPED else grad

    @register_jitable
    def grad_at_label(exp: Any, mass: Any, slope: Any, spike: Any, share: Any, scale: Any) -> Any:
        grad = float64(exp) * share
        if HAS_MASS:
            grad = (grad - (spike + float64(mass))) * scale
        else:
            grad -= spike * scale
        return number(grad * float64(slope)) if CAPPED else number(grad)

    return {"share_of": share_of, "grad_of": grad_of, "grad_at_label": grad_at_label}


def _curvature(curvature: str, number: Any) -> dict[str, Any]:
    DISTANCE, ONE = curvature == "distance", number(1)

    @register_jitable
    def hess_of(exp: Any, inverse: Any, scale: Any, floor: Any) -> Any:
        proba = exp * inverse
        hess = (proba if DISTANCE else proba * (ONE - proba)) * scale
        return floor if hess < floor else hess  # a NaN stays one

    @register_jitable
    def hess_at_label(exp: Any, row_sum: Any, scale: Any, floor: Any) -> Any:
        inverse = inverse_of(row_sum)
        rest = (row_sum - float64(exp)) * inverse
        share = rest if DISTANCE else float64(exp) * inverse * rest
        hess = number(share * float64(scale))
        return floor if hess < floor else hess

    return {"hess_of": hess_of, "hess_at_label": hess_at_label}
