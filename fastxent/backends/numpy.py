"""The plain vectorised backend: NumPy only, works everywhere, one thread.

Rows are taken in groups that stay in cache. A row's bits do not depend on its group: every
operation is elementwise or a sum along the contiguous class axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fastxent.backends import numpy_jacobian, numpy_shards
from fastxent.backends.contract import (
    BinaryOutputs,
    HessRule,
    LabelSummary,
    Outputs,
    PartialSums,
)
from fastxent.backends.label_summary import summary_of
from fastxent.backends.numpy_binary import binary
from fastxent.backends.numpy_rows import Rows, column, logits_of, of_rows, store, target_mass
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.binary import BinaryProblem
    from fastxent.jacobian import JacobianProblem
    from fastxent.problem import Problem

__all__ = ["BACKEND"]

# Elements a group, 1 MB of float32: the passes after the first read from cache. Time over the
# textbook formulas' at 8192x1000: 1.24 with 2^14, 0.80 with 2^16, 0.72 with 2^18, 0.70 with 2^20.
_GROUP = 1 << 18


def _groups(rows: int, classes: int) -> Iterator[slice]:
    step = max(1, _GROUP // max(1, classes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _sums(exps: Array, row_max: Array) -> Array:
    """s of each row; 0 where every logit is -inf, as the contract has it."""
    sums: Array = exps.sum(axis=1, dtype=np.float64)
    sums[np.isneginf(row_max)] = 0.0
    return sums


def _live_rows(problem: Problem, group: slice) -> tuple[Rows, Array | None]:
    """Rows that count, and those that are skipped: None where there are none."""
    if problem.target is None or problem.skip is None:
        return group, None
    skipped = problem.target[group] == problem.skip
    if not skipped.any():
        return group, None
    return group.start + np.flatnonzero(~skipped), group.start + np.flatnonzero(skipped)


def _dot(mass: Array | float, shifted: Array) -> Array:
    """sum_k t_k (z_k - m), where a class without mass counts for nothing, be it at -inf."""
    products = np.where(np.asarray(mass) != 0, mass * shifted, 0)
    total: Array = products.sum(axis=1, dtype=np.float64)
    return total


class Part:
    """A group of rows on its way from logits to results.

    Attributes
    ----------
    shifted, exps : (n, C) array
        z - m and its exponential.
    slope : (n, C) array or None
        1 - (z / softcap)^2.
    row_max, row_sum : (n,) array
        m and s.
    mass : (n, C) or (C,) array, float, or None
        Target mass but for that on the label.
    total : (n,) array or float
        T, the whole mass of each row.
    """

    def __init__(self, problem: Problem, rows: Rows) -> None:
        self.problem, self.rows = problem, rows
        self._z, self.slope = logits_of(problem, rows)
        self.place: tuple[Array, Array] | None = None
        self.mass: Array | float | None
        self.spike: Array | float = 0.0
        self.total: Array | float
        if problem.soft is not None:
            self.mass = target_mass(problem, rows)
            self.total = self.mass.sum(axis=1, dtype=np.float64)
            return
        self.mass, self.total = problem.background, problem.background_total
        if problem.target is not None:
            labels = problem.target[rows].astype(np.intp)
            self.place = np.arange(len(labels)), labels
            self.spike = of_rows(problem.spike, labels)
            self.total = self.total + self.spike

    def statistics(self) -> None:
        """Find m, z - m, its exponential, and s."""
        self.row_max = self._z.max(axis=1)
        self._shift()
        self.row_sum = _sums(self.exps, self.row_max)

    def resume(self, row_max: Array, row_sum: Array) -> None:
        """Take m and s from a pass before."""
        self.row_max, self.row_sum = row_max, row_sum
        self._shift()

    def _shift(self) -> None:
        self.shifted = self._z - self.row_max[:, None]
        self.exps = np.exp(self.shifted)

    def log_proba(self) -> Array:
        """z - L."""
        log_proba: Array = self.shifted - column(np.log(self.row_sum), self.shifted.dtype)
        return log_proba

    def fill(self, out: Outputs) -> None:
        """Write everything but the gradient of the logits."""
        log_sum, rows = np.log(self.row_sum), self.rows
        if out.row_max is not None:
            out.row_max[rows] = self.row_max
        if out.row_sum is not None:
            out.row_sum[rows] = self.row_sum
        if out.loss is not None or out.total is not None or out.log_prob is not None:
            self._fill_loss(out, log_sum)
        if out.argmax is not None:
            without = np.isnan(self.row_sum) | (self.row_sum == 0)
            out.argmax[rows] = np.where(without, -1, self.shifted.argmax(axis=1))
        if out.entropy is not None:
            out.entropy[rows] = log_sum - _dot(self.exps, self.shifted) / self.row_sum
        if out.target_grad is not None:
            kind = self.problem.target_grad_kind
            assert kind is not None
            factor = column(of_rows(self.problem.row_scale, rows), self.exps.dtype)
            if self.problem.gain is not None:
                factor = factor * self.problem.gain
            store(out.target_grad, kind, rows, -factor * self.log_proba())

    def fill_hess(self, out: Outputs) -> None:
        """Write probabilities and the Hessian."""
        problem, dtype, kind = self.problem, self.exps.dtype, self.problem.precision.kind
        proba = self.exps * column(1 / self.row_sum, dtype)
        if out.proba is not None:
            store(out.proba, kind, self.rows, proba)
        if out.hess is None:
            return
        rule = problem.hess_rule or HessRule()
        scale = np.broadcast_to(of_rows(problem.row_scale, self.rows), self.row_sum.shape)
        scale = scale * rule.factor
        hess = proba if rule.kind == "distance" else proba * (1 - proba)
        hess *= column(scale, dtype)
        if self.place is not None:
            # 1 - p cancels: at the label it is computed in float64
            exps = self.exps[self.place].astype(np.float64)
            rest = (self.row_sum - exps) / self.row_sum
            share = rest if rule.kind == "distance" else exps / self.row_sum * rest
            hess[self.place] = share * scale
        store(out.hess, kind, self.rows, np.maximum(hess, dtype.type(rule.floor)))

    def _fill_loss(self, out: Outputs, log_sum: Array) -> None:
        dot: Array | float = 0.0 if self.mass is None else _dot(self.mass, self.shifted)
        at_label: Array | float = 0.0
        if self.place is not None:
            at_label = self.shifted[self.place].astype(np.float64)
        loss = self.total * log_sum - dot - np.where(self.spike, self.spike * at_label, 0)
        if out.log_prob is not None:
            out.log_prob[self.rows] = -loss if self.place is None else at_label - log_sum
        if self.problem.z_loss:
            loss += self.problem.z_loss * (self.row_max + log_sum) ** 2
        if out.total is not None:
            out.total[0] += loss.sum()
        if out.loss is not None:
            out.loss[self.rows] = loss

    def write_grad(self, grad: Array) -> None:
        """Write the gradient of the logits; the exponentials are used up."""
        problem, exps, mass, place = self.problem, self.exps, self.mass, self.place
        factor = self.total
        if problem.z_loss:
            factor = factor + 2 * problem.z_loss * (self.row_max + np.log(self.row_sum))
        scale = of_rows(problem.row_scale, self.rows)
        if problem.logit_scale != 1.0:
            scale = scale * problem.logit_scale
        if place is not None:
            # p - 1 cancels: the element at the label is computed in float64 before it is rounded
            mass_at_label = self.spike
            if mass is not None:
                mass_at_label = mass_at_label + np.broadcast_to(mass, problem.classes)[place[1]]
            at_label = factor * exps[place].astype(np.float64) / self.row_sum - mass_at_label
            at_label *= scale
        share = factor / self.row_sum
        if mass is None:
            exps *= column(scale * share, exps.dtype)
        else:
            exps *= column(share, exps.dtype)
            exps -= np.asarray(mass, exps.dtype)
            exps *= column(scale, exps.dtype)
        if place is not None:
            exps[place] = at_label
        if self.slope is not None:
            exps *= self.slope
        store(grad, problem.precision.kind, self.rows, exps)


def _clear(problem: Problem, out: Outputs, group: Array) -> None:
    """Write what skipped rows hold."""
    if out.grad is not None:
        store(out.grad, problem.precision.kind, group, 0)
    for zeros in (out.proba, out.hess):
        if zeros is not None:
            store(zeros, problem.precision.kind, group, 0)
    if out.row_max is not None:
        out.row_max[group] = 0
    if out.row_sum is not None:
        out.row_sum[group] = 1
    if out.argmax is not None:
        out.argmax[group] = -1
    for zeros in (out.loss, out.log_prob, out.entropy):
        if zeros is not None:
            zeros[group] = 0


class NumpyBackend:
    """See `fastxent.backends.contract.Backend`."""

    name = "numpy"

    def why_not(self, problem: Problem | None = None) -> str | None:
        """Nothing keeps it from running."""
        return None

    def info(self) -> dict[str, str]:
        """Facts for a bug report."""
        return {"threads": "1, whatever the limit"}

    def check_labels(
        self,
        target: Array,
        num_classes: int,
        skip: int | None,
        class_mass: Array | None,
        row_mass: Array | None,
        num_threads: int,
    ) -> LabelSummary:
        """Find the first bad label, count the live rows and add up their mass."""
        return summary_of(target, num_classes, skip, class_mass, row_mass)

    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill all outputs but `log_proba`, as far as they are not None."""
        if out.total is not None:
            out.total[0] = 0
        with np.errstate(all="ignore"):
            for group in _groups(problem.rows, problem.classes):
                rows, skipped = _live_rows(problem, group)
                if skipped is not None:
                    _clear(problem, out, skipped)
                part = Part(problem, rows)
                part.statistics()
                part.fill(out)
                if out.hess is not None or out.proba is not None:
                    part.fill_hess(out)
                if out.grad is not None:
                    part.write_grad(out.grad)

    def backward(self, problem: Problem, row_max: Array, row_sum: Array, grad: Array) -> None:
        """Fill `grad` from the row statistics that `forward` gave, with the bits of its `grad`."""
        with np.errstate(all="ignore"):
            for group in _groups(problem.rows, problem.classes):
                rows, skipped = _live_rows(problem, group)
                if skipped is not None:
                    store(grad, problem.precision.kind, skipped, 0)
                part = Part(problem, rows)
                part.resume(row_max[rows], row_sum[rows])
                part.write_grad(grad)

    def partial(self, problem: Problem, sums: PartialSums) -> None:
        """Fill what is not None with the sums of each block of classes of `problem`."""
        numpy_shards.partial(problem, sums)

    def merge(self, problem: Problem, sums: PartialSums, out: Outputs) -> None:
        """Fill outputs of rows from the sums of all classes, in class order."""
        numpy_shards.merge(problem, sums, out)

    def partial_backward(
        self, problem: Problem, row_max: Array, row_sum: Array, row_mass: Array, grad: Array
    ) -> None:
        """Fill `grad`, rows like those of `problem`, from the statistics of all classes."""
        numpy_shards.partial_backward(problem, row_max, row_sum, row_mass, grad)

    def softmax(self, problem: Problem, out: Outputs) -> None:
        """Fill `proba` or `log_proba`, and `row_max`, `row_sum`, as far as they are not None."""
        kind = problem.precision.kind
        with np.errstate(all="ignore"):
            for group in _groups(problem.rows, problem.classes):
                part = Part(problem, group)
                part.statistics()
                if out.row_max is not None:
                    out.row_max[group] = part.row_max
                if out.row_sum is not None:
                    out.row_sum[group] = part.row_sum
                if out.proba is not None:
                    proba = part.exps * column(1 / part.row_sum, part.exps.dtype)
                    store(out.proba, kind, group, proba)
                if out.log_proba is not None:
                    store(out.log_proba, kind, group, part.log_proba())

    def mean_loss(
        self,
        logits: Array,
        target: Array,
        skip: int | None,
        grad: Array | None,
        num_threads: int,
    ) -> float | None:
        """No shorter way than `forward`."""
        return None

    def binary(self, problem: BinaryProblem, out: BinaryOutputs) -> bool:
        """Fill what is not None; whether an integer target is neither 0 nor 1."""
        return binary(problem, out)

    def softmax_backward(self, problem: JacobianProblem, out: Array) -> None:
        """Fill `out` with the Jacobian product."""
        numpy_jacobian.softmax_backward(problem, out)


BACKEND = NumpyBackend()
