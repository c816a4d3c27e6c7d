"""Is a result right? Asked of every peer before it is timed.

The loss is checked over all rows. The gradient (or softmax) is checked entry by entry on some rows,
evenly spread, and on all rows by its row sums: float64 arrays of the largest workloads would take
longer than the measurement. How far a result may be off is the error of the naive formulas in
float32 on the same rows, carried over to the dtype, times a constant. In half precision the
reference has the same rounded logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastxent.bench import truth
from fastxent.bench.workloads import HALVES, Workload, dtype_of
from fastxent.precision import Array

__all__ = ["Truth"]

CHECKED_ELEMENTS = 1 << 20

# Peers add up in their own ways, and are right nonetheless. One float32 accumulator for each SIMD
# lane is 30 machine epsilons off at 128,256 classes; a result in half precision is 4,000 off.
# scikit-learn adds one class after the other: in float64 it is 110 off at 1,000 classes, and
# sums of float32 would be half a billion off.
NAIVE_ERRORS = 4.0
ROUNDINGS = {"float32": 64.0, "float64": 16_384.0}
# PyTorch has one accumulator for all classes where they are not side by side: 110 off at 1,000.
APART = 4.0
FLOAT32_EPSILON = float(np.finfo(np.float32).eps)

# PyTorch rounds the logarithm of the softmax to half precision, and makes the gradient from that:
# p is off by p |log p| / 2 epsilons. A loss in half precision is a sum of such logarithms.
HALF_ROUNDINGS, HALF_LOSS_ROUNDINGS = 2.0, 4.0


@dataclass(frozen=True)
class Truth:
    """What a workload gives in float64, and how far a result may be from it.

    Attributes
    ----------
    loss : float or None
        None where there is no loss.
    checked : array of int
        The rows whose gradient (or softmax) is compared entry by entry.
    output : array
        That of these rows.
    sums : array, float or None
        Sums of all rows of the output; None where all rows are checked.
    loss_tolerance : callable
        Relative to the loss; by the dtype of the loss.
    tolerance : float
        Relative to the largest entry of the output.
    asides : dict of str to array
        By name, what a call gives besides, of the checked rows.
    """

    workload: Workload
    loss: float | None
    checked: Array
    output: Array
    sums: Array | float | None
    loss_tolerance: Callable[[np.dtype[Any]], float]
    tolerance: float
    asides: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, workload: Workload) -> Truth:
        """Compute the truth, and the tolerances from the naive formulas."""
        rows = workload.rows
        count = min(rows, max(1, CHECKED_ELEMENTS // workload.classes))
        checked = np.unique(np.linspace(0, rows - 1, count).astype(np.int64))
        if workload.operation == "binary":
            checked = np.arange(rows)
        loss, output = truth.of_rows(workload, checked, np.float64)
        naive_loss, naive_output = truth.of_rows(workload, checked, np.float32)
        naive = float(np.abs(naive_output - output).max()) / float(np.abs(output).max())
        naive_of_loss = abs(naive_loss - loss) / abs(loss) if workload.has_loss else 0.0
        whole_loss, sums = truth.of_all_rows(workload)
        return cls(
            workload,
            whole_loss,
            checked,
            output,
            sums,
            lambda dtype: _tolerance(naive_of_loss, dtype, HALF_LOSS_ROUNDINGS),
            _tolerance(naive, dtype_of(workload.dtype), HALF_ROUNDINGS)
            * (APART if workload.shape else 1.0),
            truth.asides(workload, checked),
        )

    def faults(self, result: Sequence[Any]) -> list[str]:
        """Everything that is wrong with a result, in words; empty if nothing is."""
        loss, output = result[0], np.asarray(result[1])
        shape = self.workload.logits_shape
        if (self.loss is not None and np.shape(loss) != ()) or output.shape != shape:
            of_loss = "" if self.loss is None else f"loss of shape {np.shape(loss)} and "
            return [f"{of_loss}{self._output_name} of shape {output.shape}, not {shape}"]
        faults = [] if self.loss is None else self._faults_of_loss(np.asarray(loss))
        if output.dtype != dtype_of(self.workload.dtype):
            faults.append(f"the {self._output_name} is {output.dtype}")
        faults += self._faults_of_output(self.workload.as_rows(output))
        for name, expected in self.asides.items():
            found = np.asarray(getattr(result[2], name))[self.checked]
            if not np.allclose(found, expected, rtol=64 * FLOAT32_EPSILON, atol=0):
                faults.append(f"{name} is off")
        return faults

    @property
    def _output_name(self) -> str:
        return "gradient" if self.loss is not None else self.workload.operation

    def _faults_of_loss(self, loss: Array) -> list[str]:
        expected = float(self.loss or 0.0)
        error = abs(float(loss) - expected) / abs(expected)
        if error <= self.loss_tolerance(loss.dtype):
            return []
        return [f"loss {float(loss):.9g}, not {expected:.9g}"]

    def _faults_of_output(self, output: Array) -> list[str]:
        faults = []
        scale = float(np.abs(self.output).max())
        found = output[self.checked].astype(np.float64)
        error = float(np.abs(found - self.output).max()) / scale
        if not error <= self.tolerance:
            faults.append(
                f"{self._output_name} off by {error:.1e} of its largest entry, "
                f"{self.tolerance:.1e} allowed"
            )
        if self.sums is None:
            return faults
        wide = output.astype(np.float32) if self.workload.dtype in HALVES else output
        errors = np.abs(wide.sum(axis=1) - self.sums)
        error = float(errors.max()) / self._unit_of_sums
        # A row of 128,256 entries adds up to 0 within the roundings of its probabilities' sum.
        if not error <= 2 * self.tolerance + self._lost_in_sums:
            where = int(errors.argmax())
            sums = np.broadcast_to(self.sums, errors.shape)
            faults.append(
                f"a row of the {self._output_name} adds up to {float(wide[where].sum()):.3g}, "
                f"not to {float(sums[where]):.3g}"
            )
        return faults

    @property
    def _unit_of_sums(self) -> float:
        """What the error of a row's sum is relative to."""
        if self.workload.operation == "log_softmax":
            return self.workload.classes * float(np.abs(self.output).max())
        return 1.0 if self.loss is None else 1 / self.workload.rows

    @property
    def _lost_in_sums(self) -> float:
        """Where float16 has no numbers small enough for the entries, half of the smallest each."""
        if self.workload.dtype != "float16":
            return 0.0
        smallest = float(np.finfo(np.float16).smallest_subnormal)
        return 0.5 * smallest * self.workload.classes / self._unit_of_sums


def _tolerance(naive: float, dtype: np.dtype[Any], half_roundings: float) -> float:
    """Carry the error of the naive formulas in float32 over to a dtype."""
    half = dtype.name in HALVES
    computed = np.finfo(np.float32 if half else dtype)
    roundings = NAIVE_ERRORS * naive / FLOAT32_EPSILON + ROUNDINGS[computed.dtype.name]
    return float(computed.eps) * roundings + (half_roundings * _epsilon(dtype) if half else 0.0)


def _epsilon(half: np.dtype[Any]) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(half).eps)  # type: ignore[no-untyped-call]
