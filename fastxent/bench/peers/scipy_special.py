"""`scipy.special.log_softmax`, and the gradient from it."""

from __future__ import annotations

import numpy as np

from fastxent.bench.peers.contract import Result, call_returning, why_not_installed
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, arrays
from fastxent.precision import Array

__all__ = ["PEER"]


def _hard(logits: Array, labels: Array) -> Result:
    from scipy.special import log_softmax

    rows = np.arange(len(logits))
    grad = log_softmax(logits, axis=1)
    loss = -grad[rows, labels].mean()
    np.exp(grad, out=grad)
    grad[rows, labels] -= 1
    grad /= len(logits)
    return loss, grad


def _soft(logits: Array, mass: Array) -> Result:
    from scipy.special import log_softmax

    grad = log_softmax(logits, axis=1)
    loss = -np.einsum("ik,ik->i", grad, mass).mean()
    np.exp(grad, out=grad)
    grad *= mass.sum(axis=1, keepdims=True)
    grad -= mass
    grad /= len(logits)
    return loss, grad


class ScipySpecial:
    """SciPy: one thread."""

    name = "SciPy"

    def why_not(self, workload: Workload) -> str | None:
        """Why SciPy cannot run."""
        return why_not_installed("scipy.special")

    def prepare(self, workload: Workload) -> Call:
        """Bind the function for this kind of labels."""
        function = _hard if workload.labels == "hard" else _soft
        return call_returning(function, *arrays(workload))


PEER = ScipySpecial()
