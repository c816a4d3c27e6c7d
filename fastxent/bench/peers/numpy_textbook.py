"""The formulas of a textbook, in NumPy."""

from __future__ import annotations

import numpy as np

from fastxent.bench.peers.contract import Result, call_returning, why_not_plain
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, arrays
from fastxent.precision import Array

__all__ = ["PEER"]


def _hard(logits: Array, labels: Array) -> Result:
    rows = np.arange(len(logits))
    grad = logits - logits.max(axis=1, keepdims=True)
    at_label = grad[rows, labels]
    np.exp(grad, out=grad)
    sums = grad.sum(axis=1, keepdims=True)
    loss = (np.log(sums[:, 0]) - at_label).mean()
    grad /= sums
    grad[rows, labels] -= 1
    grad /= len(logits)
    return loss, grad


def _soft(logits: Array, mass: Array) -> Result:
    shifted = logits - logits.max(axis=1, keepdims=True)
    grad = np.exp(shifted)
    sums = grad.sum(axis=1, keepdims=True)
    shifted -= np.log(sums)
    shifted *= mass
    loss = -shifted.sum(axis=1).mean()
    grad /= sums
    grad *= mass.sum(axis=1, keepdims=True)
    grad -= mass
    grad /= len(logits)
    return loss, grad


class NumpyTextbook:
    """NumPy, as one writes it down: one thread, some passes over fresh arrays."""

    name = "NumPy"

    def why_not(self, workload: Workload) -> str | None:
        """NumPy is always there; the formulas are those of the loss."""
        if workload.operation != "cross_entropy":
            return "a textbook's loss only"
        return why_not_plain(workload)

    def prepare(self, workload: Workload) -> Call:
        """Bind the formula for this kind of labels."""
        formula = _hard if workload.labels == "hard" else _soft
        return call_returning(formula, *arrays(workload))


PEER = NumpyTextbook()
