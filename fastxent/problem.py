"""Problem: the public arguments turned into the one formula that kernels know.

    z[i,k]      = softcap * tanh(logit_scale * x[i,k] / softcap), or logit_scale * x[i,k]
    t[i,k]      = [k = label] * spike[label] + background[k] + gain[k] * soft[i,k]
    loss[i]     = T * log s - sum_k t[i,k] * (z[k] - m) + z_loss * L^2        T = sum_k t[i,k]
    dz[i,k]     = (T + 2 * z_loss * L) * exp(z[k] - m) / s - t[i,k]           L = m + log s
    grad[i,k]   = row_scale[i] * logit_scale * (1 - (z[i,k] / softcap)^2) * dz[i,k]

with m the row's maximum and s = sum_k exp(z[k] - m); docs/math.md derives it. Weights, smoothing,
soft labels, ignored labels, row weights and reductions only choose these factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent import checks, threads
from fastxent.layout import rows_of, vector_of
from fastxent.precision import Array, Precision, kind_of, precision_of
from fastxent.reduction import REDUCTIONS, WHEN_ALL_IGNORED, Reduction

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend, Outputs

__all__ = ["Problem", "representable"]


def representable(label: int | None, dtype: np.dtype[Any]) -> int | None:
    """`label` if an array of this integer dtype can hold it: no other label can ever match."""
    if label is None or not np.iinfo(dtype).min <= label <= np.iinfo(dtype).max:
        return None
    return label


@dataclass(frozen=True, slots=True)
class Problem:
    """One call, in the form that backends compute.

    Attributes
    ----------
    given : array
        The caller's logits, in their own shape.
    logits : (rows.., C) array
        A view of `given` with two to five dimensions, the classes last: the leading ones in C order
        of the caller's rows, adjacent ones merged where a view can, so that the usual case is
        (N, C). Any byte strides (negative, 0, no multiple of the element), maybe unaligned, maybe
        read-only; native byte order. Half precision as its bits, uint16.
    precision : Precision
        `precision.kind` says what the logits are.
    axis : int
        Where the classes are in the caller's arrays.
    num_threads : int
    rows, classes : int
        N and C.
    target : (N,) contiguous integer array or None
        Class indices, in the caller's dtype.
    soft : (rows.., C) array or None
        Probabilities, as `logits` are given but with dimensions and strides of their own.
    soft_kind : {"uint8", "float16", "bfloat16", "float32", "float64"} or None
        What they are; uint8 for booleans, 0 and 1.
    skip : int or None
        The label whose rows count for nothing; their logits are not read.
    spike : float or (C,) float64 array
        Mass on the label itself.
    background : float, (C,) array of the compute dtype, or None
        Mass on every class.
    background_total : float
        Sum of `background` over the classes.
    gain : float, (C,) array of the compute dtype, or None for 1
        Factor of `soft`.
    row_scale : float or (N,) float64 array
        Factor of each row's gradient; that of the logits gets `logit_scale` besides.
    logit_scale : float
    softcap : float or None
    z_loss : float
        lambda, the factor of L^2.
    aux : tuple of str
        Which of log_prob, argmax, entropy and target_grad the call will ask for.
    out : (rows.., C) array or None
        The caller's own memory for the gradient or the softmax, like `logits`; None for new memory.
    reduction : Reduction or None
        Not for kernels: what becomes of the rows' losses.
    """

    given: Array
    logits: Array
    precision: Precision
    axis: int
    num_threads: int
    rows: int
    classes: int
    target: Array | None = None
    soft: Array | None = None
    soft_kind: str | None = None
    skip: int | None = None
    spike: float | Array = 0.0
    background: float | Array | None = None
    background_total: float = 0.0
    gain: float | Array | None = None
    row_scale: float | Array = 1.0
    logit_scale: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0
    aux: tuple[str, ...] = ()
    out: Array | None = None
    reduction: Reduction | None = None

    @property
    def target_grad_kind(self) -> str | None:
        """Kind of the gradient with respect to `soft`: its own, that of the logits for booleans."""
        return self.precision.kind if self.soft_kind == "uint8" else self.soft_kind

    @classmethod
    def of_array(cls, x: Any, axis: Any, num_threads: Any, out: Any = None) -> Problem:
        """Problem without a target: softmax and its relatives over one axis."""
        x = checks.check_logits(x, "x")
        axis = checks.check_axis(axis, x, "x")
        precision = _precision(x)
        checks.check_out(out, x, {}, x.shape, precision.storage)
        workers = threads.plan(num_threads, x.size // x.shape[axis], x.nbytes)
        rows = rows_of(x, axis)
        return cls(x, rows, precision, axis, workers, *rows.shape)

    @classmethod
    def build(
        cls,
        logits: Any,
        target: Any,
        *,
        weight: Any,
        ignore_index: Any,
        label_smoothing: Any,
        reduction: Any,
        normalizer: Any,
        sample_weight: Any,
        axis: Any,
        all_ignored: Any,
        num_threads: Any,
        grad_output: Any = None,
        out: Any = None,
    ) -> Problem:
        """Check every public argument and do the algebra; labels are checked by `with_labels`."""
        logits = checks.check_logits(logits)
        axis = checks.check_axis(axis, logits)
        precision = _precision(logits)
        rows_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
        num_classes = logits.shape[axis]
        target = checks.check_target(target, logits, axis)
        hard = target.dtype.kind in "iu"
        weights = checks.check_weight(weight, num_classes)
        smoothing = checks.check_label_smoothing(label_smoothing)
        kind = checks.check_choice(reduction, "reduction", REDUCTIONS)
        row_weight = checks.check_sample_weight(sample_weight, rows_shape)
        skip = checks.check_ignore_index(ignore_index, target)
        upstream = checks.check_grad_output(grad_output, rows_shape)
        recipe = Reduction(
            kind=kind,
            normalizer=checks.check_normalizer(normalizer, kind),
            all_ignored=checks.check_choice(all_ignored, "all_ignored", WHEN_ALL_IGNORED),
            rows_shape=rows_shape,
            class_mass=weights if hard else None,
            row_weight=row_weight,
            grad_output=upstream,
        )
        others = {
            "target": target,
            "weight": weights,
            "sample_weight": row_weight,
            "grad_output": upstream if isinstance(upstream, np.ndarray) else None,
        }
        checks.check_out(out, logits, others, logits.shape, precision.storage)

        share: float | Array = 1.0 if weights is None else weights
        on_label = share if smoothing == 0.0 else share * (1.0 - smoothing)
        background = None if smoothing == 0.0 else share * (smoothing / num_classes)
        gain = None if hard or (weights is None and smoothing == 0.0) else on_label
        with np.errstate(over="ignore"):  # a weight beyond float32 is infinite there
            background = _in_compute(background, precision)
            gain = _in_compute(gain, precision)
        total = 0.0
        if background is not None:
            total = float(np.sum(np.broadcast_to(background, num_classes), dtype=np.float64))
        return cls(
            given=logits,
            logits=rows_of(logits, axis),
            precision=precision,
            axis=axis,
            num_threads=threads.plan(num_threads, math.prod(rows_shape), logits.nbytes),
            rows=math.prod(rows_shape),
            classes=num_classes,
            target=vector_of(target) if hard else None,
            soft=None if hard else _soft_rows(target, axis),
            soft_kind=None if hard else _soft_kind(target),
            skip=representable(skip, target.dtype) if hard else None,
            spike=on_label if hard else 0.0,
            background=background,
            background_total=total,
            gain=gain,
            reduction=recipe,
        )

    def with_labels(self, backend: Backend) -> tuple[Problem, float]:
        """Check the labels; give the problem with its `row_scale`, and the mean's denominator."""
        assert self.reduction is not None
        recipe = self.reduction
        rows, num_classes = self.rows, self.classes
        if self.target is not None:
            summary = backend.check_labels(
                self.target,
                num_classes,
                self.skip,
                recipe.class_mass if recipe.needs_mass else None,
                recipe.row_weight if recipe.needs_mass else None,
                self.num_threads,
            )
            if summary.bad_row >= 0:
                target = self.target.reshape(recipe.rows_shape)
                checks.raise_bad_label(target, summary.bad_row, num_classes, self.skip)
            mass = summary.mass
        elif recipe.row_weight is not None:
            mass = float(np.sum(recipe.row_weight))
        else:
            mass = float(rows)
        denominator = recipe.denominator(mass)
        if denominator == 0.0:
            return self, denominator
        return replace(self, row_scale=recipe.row_scale(denominator)), denominator

    def reduced_loss(self, backend: Backend, outputs: Outputs, denominator: float) -> Any:
        """Run the forward verb, with a loss for each row where they are needed, and reduce it."""
        recipe, loss_dtype = self.reduction, self.precision.loss
        assert recipe is not None
        if denominator == 0.0:
            if outputs.grad is not None:
                outputs.grad.fill(0)
            return recipe.nothing_counted(loss_dtype.type)
        if recipe.needs_total_only:
            outputs.total = np.empty(1)
            backend.forward(self, outputs)
            return recipe.of_total(float(outputs.total[0]), denominator, loss_dtype.type)
        outputs.loss = np.empty(self.rows, loss_dtype)
        backend.forward(self, outputs)
        return recipe.finish(outputs.loss, denominator)


def _precision(logits: Array) -> Precision:
    precision = precision_of(logits.dtype)
    assert precision is not None  # check_logits has passed
    return precision


def _in_compute(factor: float | Array | None, precision: Precision) -> float | Array | None:
    """A factor of classes, rounded as kernels will use it."""
    if factor is None:
        return None
    rounded = np.asarray(factor).astype(precision.compute)
    return rounded if rounded.ndim else float(rounded)


def _soft_kind(target: Array) -> str | None:
    return "uint8" if target.dtype == np.bool_ else kind_of(target.dtype)


def _soft_rows(target: Array, axis: int) -> Array:
    rows = rows_of(target, axis)
    return rows.view(np.uint8) if rows.dtype == np.bool_ else rows
