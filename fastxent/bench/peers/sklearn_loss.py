"""scikit-learn's own losses: `HalfMultinomialLoss` and `HalfBinomialLoss`, private classes."""

from __future__ import annotations

import numpy as np

from fastxent.bench.peers.contract import Result, why_not_installed, why_not_plain
from fastxent.bench.timer import Call
from fastxent.bench.workloads import Workload, aligned, arrays

__all__ = ["PEER"]


class SklearnLoss:
    """Loss and gradient from one call, into arrays that are given and used again."""

    name = "scikit-learn"

    def why_not(self, workload: Workload) -> str | None:
        """Why scikit-learn cannot run this."""
        if not workload.has_loss:
            return "scikit-learn's softmax takes one thread and overwrites its argument"
        if workload.labels != "hard":
            return "HalfMultinomialLoss takes class indices only"
        return why_not_plain(workload) or why_not_installed("sklearn._loss")

    def prepare(self, workload: Workload) -> Call:
        """Allocate; rows contiguous, which is never slower than columns (100 classes: 0.65)."""
        from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss

        logits, labels = arrays(workload)
        if workload.operation == "binary":
            loss = HalfBinomialLoss()
        else:
            loss = HalfMultinomialLoss(n_classes=workload.classes)
        arguments = {
            "y_true": labels.astype(logits.dtype, copy=False),
            "raw_prediction": logits,
            # The gradient is that of the sum: the weights make it that of the mean.
            "sample_weight": np.full(workload.rows, 1 / workload.rows, logits.dtype),
            "loss_out": np.empty(workload.rows, logits.dtype),
            "gradient_out": aligned(np.full_like(logits, np.nan)),
            "n_threads": workload.threads,
        }

        def run() -> Result:
            losses, grad = loss.loss_gradient(**arguments)
            return losses.sum(), grad

        return Call(run, allocates_output=False)


PEER = SklearnLoss()
