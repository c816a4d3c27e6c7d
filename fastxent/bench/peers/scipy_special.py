"""`scipy.special`: softmax, log_softmax, and the gradient from that."""

from __future__ import annotations

import numpy as np

from fastxent.bench.peers.contract import (
    Result,
    call_returning,
    output_alone,
    why_not_installed,
    why_not_plain,
)
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
        if workload.operation == "binary":
            return "SciPy has no binary cross-entropy of logits"
        return why_not_plain(workload) or why_not_installed("scipy.special")

    def prepare(self, workload: Workload) -> Call:
        """Bind the function for this operation and kind of labels."""
        logits, _ = arrays(workload)
        if not workload.has_loss:
            from scipy import special

            softmax = getattr(special, workload.operation)
            return Call(lambda: softmax(logits, axis=1), read=output_alone)
        function = _hard if workload.labels == "hard" else _soft
        return call_returning(function, *arrays(workload))


PEER = ScipySpecial()
