"""What the verbs of a backend hand back, and how they are asked for it.

Absence is None all the way down: an output that is None is not computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastxent.device_array import DeviceArray
    from fastxent.precision import Array

__all__ = ["BinaryOutputs", "HessRule", "LabelSummary", "Outputs", "PartialSums"]


class HessRule(NamedTuple):
    """What the diagonal of the Hessian is: see `Outputs.hess` and `BinaryOutputs.hess`.

    Attributes
    ----------
    kind : {"product", "distance"}
        Of p * (1 - p), or of the distance from p to the target.
    factor : float
    floor : float
        The least value, also where the row's factor is 0; a NaN stays one.
    """

    kind: str = "product"
    factor: float = 1.0
    floor: float = 0.0


@dataclass(slots=True)
class Outputs:
    """Arrays that a backend fills; None means do not compute.

    Arrays of (rows.., C) are views like `Problem.logits`, each with its own dimensions and strides;
    row number n in C order is what they share. Arrays of (N,) are contiguous. A skipped row holds
    loss 0, grad 0, proba 0, hess 0, row_max 0, row_sum 1, log_prob 0, argmax -1, entropy 0.

    Attributes
    ----------
    loss : (N,) array of the loss dtype
        Loss of each row before `row_scale`.
    total : (1,) float64 array
        Sum of the rows' losses before they are rounded, added up in an order that depends on the
        shape only.
    grad : (rows.., C) array of the storage dtype, may be the logits themselves
        Gradient of each row times `row_scale`.
    hess : (rows.., C) array of the storage dtype
        The diagonal of the Hessian by `Problem.hess_rule`: max(factor * row_scale * p * (1 - p),
        floor), or with "distance" max(factor * row_scale * |p - [k = label]|, floor). Soft caps,
        scales and the mass of targets do not enter it.
    row_max, row_sum : (N,) arrays, compute dtype and float64
        m = max z and s = sum exp(z - m): the state between forward and backward.
    proba, log_proba : (rows.., C) arrays of the storage dtype, may be the logits themselves
        Softmax and its logarithm. `forward` gives the softmax beside the gradient, in an array of
        its own.
    log_prob : (N,) array of the loss dtype
        Hard labels: log p of the label, (z_y - m) - log s. Probabilities: sum_k t_k (z_k - L) with
        the mass t as `gain` and `background` make it; a class without mass adds nothing.
    argmax : (N,) int64 array
        First class of the largest z; -1 where `row_sum` is NaN or 0.
    entropy : (N,) array of the loss dtype
        -sum_k p_k log p_k; a class with p = 0 adds nothing.
    target_grad : (rows.., C) array of `Problem.target_grad_kind`
        Gradient with respect to `soft`: -row_scale * gain_k * (z_k - L).
    mass : (N,) float64 array
        T, the mass of the row's target, without what `z_loss` adds; 0 of a skipped row. Only
        `merge` gives it.
    partial, lse, z_loss, correct : DeviceArray
        On a GPU only; None on the host, which computes them from the others. `partial` is float64,
        of `DeviceBackend.partial_count` entries: sums of loss * `row_weight_at` of the rows, not
        rounded before. The others are (N,): L and z_loss * L^2 in the loss dtype, 0 for a skipped
        row, and as uint8 whether `argmax` is the label, or the first class of the largest
        probability. There `total` is not asked for, and `loss` has the factor `row_weight_at`.
    """

    loss: Array | None = None
    total: Array | None = None
    grad: Array | None = None
    hess: Array | None = None
    row_max: Array | None = None
    row_sum: Array | None = None
    proba: Array | None = None
    log_proba: Array | None = None
    log_prob: Array | None = None
    argmax: Array | None = None
    entropy: Array | None = None
    target_grad: Array | None = None
    mass: Array | None = None
    partial: DeviceArray | None = None
    lse: DeviceArray | None = None
    z_loss: DeviceArray | None = None
    correct: DeviceArray | None = None


@dataclass(slots=True)
class BinaryOutputs:
    """Arrays that the verb `binary` fills; None means do not compute.

    Attributes
    ----------
    loss : array of the logits' shape, of the compute dtype
        Loss of each element times its `factor`.
    grad : array of the logits' shape, stored as the logits, maybe the logits themselves
        Gradient of each element times its `factor` and `upstream`.
    proba : array of the logits' shape, stored as the logits
        sigma(x).
    hess : array of the logits' shape, stored as the logits
        By `BinaryProblem.hess_rule`: max(rule.factor * factor * upstream * sigma * (1 - sigma),
        floor), or with "distance" the size of the gradient without its factors, |sigma - target|
        where nothing is weighed or smoothed, for sigma * (1 - sigma).
    total : (1,) float64 array
        Sum of the losses, added up in an order that depends on the shape only.
    partial : DeviceArray
        On a GPU only, in the place of `total`: `DeviceBackend.binary_partial_count` sums, float64.
    """

    loss: Array | None = None
    grad: Array | None = None
    proba: Array | None = None
    hess: Array | None = None
    total: Array | None = None
    partial: DeviceArray | None = None


@dataclass(slots=True)
class PartialSums:
    """What rows hand up of some classes, in parts: `partial` fills it and `merge` reads it.

    None means do not compute, or not needed. A part is a run of classes; `partial` makes one of
    each `BLOCK` classes of its problem, the last maybe shorter. Arrays are contiguous, float64 and
    of shape (parts, N), but for `argmax` and `label_logit`. A skipped row, whose logits are not
    read, holds max 0, sum 1, mass 0, dot 0, spread 0, argmax -1 and label_logit 0.

    Attributes
    ----------
    max : array
        Largest z, a NaN passed by; -inf where there is none. Below, m is that, but 0 for -inf.
    sum : array
        sum exp(z - m): 0 where all classes are masked, NaN beside a NaN or +inf.
    mass : array or None
        sum t without the label's `spike`: of `background`, or of probabilities. None where
        there is neither.
    dot : array or None
        sum t * (z - m), likewise; a class without mass adds nothing.
    spread : array or None
        sum exp(z - m) * (z - m), to which masked classes add nothing.
    argmax : int64 array or None
        Number, among all `num_classes` classes, of the first that holds `max`; any of the part
        where none does. A part whose maximum does not pass that of every part before it in the
        same call may hold -1: it is not asked.
    label_logit : (N,) float64 array or None
        z of the label; 0 where the label is none of these classes. None for probabilities.
    """

    max: Array
    sum: Array
    mass: Array | None = None
    dot: Array | None = None
    spread: Array | None = None
    argmax: Array | None = None
    label_logit: Array | None = None


class LabelSummary(NamedTuple):
    """What one pass over the labels finds.

    Attributes
    ----------
    bad_row : int
        First row whose label is neither the skipped one nor in ``[0, C)``; -1 if there is none.
    live : int
        Rows that are not skipped.
    mass : float
        Sum of ``class_mass[label] * row_mass[row]`` over the live rows (a factor that is None
        counts as 1), added up in chunks of `LABEL_CHUNK` rows.
    """

    bad_row: int
    live: int
    mass: float
