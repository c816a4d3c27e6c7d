"""Is a result right? Asked of every peer before it is timed.

The loss is checked over all rows. The gradient is checked entry by entry on some rows, evenly
spread, and on all rows by its row sums, which are 0: float64 arrays of the largest workloads would
take longer than the measurement. How far a result may be off is the error of the naive formulas in
float32 on the same rows, carried over to the dtype, times a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent import reference
from fastxent.bench.peers.contract import Result
from fastxent.bench.workloads import Workload, arrays
from fastxent.precision import Array

__all__ = ["Truth"]

CHECKED_ELEMENTS = 1 << 20
BLOCK_ELEMENTS = 1 << 18  # a block in float64 and its exponentials stay in cache

# Peers add up in their own ways, and are right nonetheless. One float32 accumulator for each SIMD
# lane is 30 machine epsilons off at 128,256 classes; a result in half precision is 4,000 off.
# scikit-learn adds one class after the other: in float64 it is 110 off at 1,000 classes, and
# sums of float32 would be half a billion off.
NAIVE_ERRORS = 4.0
ROUNDINGS = {"float32": 64.0, "float64": 16_384.0}
FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Truth:
    """Loss and gradient of a workload in float64, and how far a result may be from them.

    Attributes
    ----------
    loss : float
    checked : array of int
        The rows whose gradient is compared entry by entry.
    grad : array
        Their gradient.
    loss_tolerance : float
        Relative to the loss.
    grad_tolerance : float
        Relative to the largest entry.
    """

    workload: Workload
    loss: float
    checked: Array
    grad: Array
    loss_tolerance: float
    grad_tolerance: float

    @classmethod
    def of(cls, workload: Workload) -> Truth:
        """Compute the truth, and the tolerances from the naive formulas."""
        logits, target = arrays(workload)
        rows = workload.rows
        count = min(rows, max(1, CHECKED_ELEMENTS // workload.classes))
        checked = np.unique(np.linspace(0, rows - 1, count).astype(np.int64))
        loss, grad = _reference(workload, checked, np.float64)
        naive_loss, naive_grad = _reference(workload, checked, np.float32)
        largest = float(np.abs(grad).max())
        epsilon = float(np.finfo(workload.dtype).eps)

        def tolerance(naive: float) -> float:
            return epsilon * (NAIVE_ERRORS * naive / FLOAT32_EPSILON + ROUNDINGS[workload.dtype])

        return cls(
            workload,
            _mean_loss(logits, target),
            checked,
            grad,
            tolerance(abs(float(naive_loss - loss)) / abs(float(loss))),
            tolerance(float(np.abs(naive_grad - grad).max()) / largest),
        )

    def faults(self, result: Result) -> list[str]:
        """Everything that is wrong with a result, in words; empty if nothing is."""
        loss, grad = np.asarray(result[0]), np.asarray(result[1])
        shape = (self.workload.rows, self.workload.classes)
        if loss.shape != () or grad.shape != shape:
            return [f"loss of shape {loss.shape} and gradient of shape {grad.shape}, not {shape}"]
        faults = []
        if grad.dtype != self.workload.dtype:
            faults.append(f"the gradient is {grad.dtype}")
        loss_error = abs(float(loss) - self.loss) / abs(self.loss)
        if not loss_error <= self.loss_tolerance:
            faults.append(f"loss {float(loss):.9g}, not {self.loss:.9g}")
        scale = float(np.abs(self.grad).max())
        grad_error = float(np.abs(grad[self.checked] - self.grad).max()) / scale
        if not grad_error <= self.grad_tolerance:
            faults.append(
                f"gradient off by {grad_error:.1e} of its largest entry, "
                f"{self.grad_tolerance:.1e} allowed"
            )
        # A row of 128,256 entries adds up to 0 within the roundings of its probabilities' sum.
        row_error = float(np.abs(grad.sum(axis=1)).max()) * self.workload.rows
        if not row_error <= 2 * self.grad_tolerance:
            faults.append(f"a row of the gradient adds up to {row_error:.1e} / N, not to 0")
        return faults


def _reference(workload: Workload, rows: Array, dtype: Any) -> tuple[Array, Array]:
    logits, target = arrays(workload)
    return reference.cross_entropy_and_grad(
        logits[rows], target[rows], normalizer=workload.rows, dtype=dtype
    )


def _mean_loss(logits: Array, target: Array) -> float:
    """Mean loss over all rows in float64, some rows at a time."""
    rows, classes = logits.shape
    step = max(1, BLOCK_ELEMENTS // classes)
    total = 0.0
    for begin in range(0, rows, step):
        z = logits[begin : begin + step].astype(np.float64)
        t = target[begin : begin + step]
        lse = reference.logsumexp(z)
        if t.ndim == 1:
            total += float((lse - z[np.arange(len(z)), t]).sum())
        else:
            mass = t.sum(axis=1, dtype=np.float64)
            total += float((mass * lse).sum() - np.einsum("ik,ik->", z, t.astype(np.float64)))
    return float(total / rows)
