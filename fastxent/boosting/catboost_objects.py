"""Objective and metric for CatBoost: correct, and as slow as an interface one object at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent import api, checks
from fastxent.boosting.derivatives import logistic_gradient_hessian
from fastxent.boosting.losses import KINDS, mean_of_rows
from fastxent.checks.boosting import check_whole_labels

__all__ = ["CatBoostMetric", "CatBoostObjective"]


class CatBoostObjective:
    """Softmax or logistic objective for CatBoost.

    Pass an instance as ``loss_function``. CatBoost asks for the derivatives of one object at a
    time where there are several classes (``calc_ders_multi``), which no kernel makes fast; with one
    score an object it asks for many at once (``calc_ders_range``). Its own ``MultiClass`` and
    ``Logloss`` run far faster; this class is for code that needs one objective everywhere.

    CatBoost maximizes: the derivatives are those of the log-likelihood, ``w * (y - p)`` and
    ``w * (p * p' - diag(p))``.

    Examples
    --------
    >>> from fastxent.boosting import CatBoostObjective
    >>> objective = CatBoostObjective()
    >>> objective.calc_ders_range([0.0, 0.0], [0.0, 1.0], None)
    [(-0.5, -0.25), (0.5, -0.25)]
    >>> first, second = objective.calc_ders_multi([0.0, 0.0], 1.0, 1.0)
    >>> first
    [-0.5, 0.5]
    >>> second
    [[-0.25, 0.25], [0.25, -0.25]]
    """

    # CatBoost would have Numba compile the methods, and warn that it cannot
    no_jit = True

    def calc_ders_range(
        self, approxes: Any, targets: Any, weights: Any
    ) -> list[tuple[float, float]]:
        """First and second derivative of each object with one score."""
        grad, hess = logistic_gradient_hessian(
            np.array(approxes, np.float64),
            np.array(targets),
            sample_weight=None if weights is None else np.array(weights),
        )
        return list(zip((-grad).tolist(), (-hess).tolist(), strict=True))

    def calc_ders_multi(
        self, approxes: Any, target: Any, weight: Any
    ) -> tuple[list[float], list[list[float]]]:
        """Gradient and Hessian of one object with a score for each class."""
        scores = np.array(approxes, np.float64)
        label = int(check_whole_labels(np.array([target]), len(scores), 1)[0])
        p = api.softmax(scores)
        target_row = np.arange(len(scores)) == label
        factor = 1.0 if weight is None else float(weight)
        first = factor * (target_row - p)
        second = factor * (np.outer(p, p) - np.diag(p))
        return first.tolist(), second.tolist()


class CatBoostMetric:
    """Log-loss or error rate for CatBoost's ``eval_metric``, of raw scores.

    Parameters
    ----------
    kind : {"log_loss", "error_rate"}
        Binary with one score an object, else multiclass.

    Examples
    --------
    >>> from fastxent.boosting import CatBoostMetric
    >>> metric = CatBoostMetric("error_rate")
    >>> total, weight = metric.evaluate([[2.0, -1.0, 3.0, -2.0]], [1, 0, 0, 0], None)
    >>> metric.get_final_error(total, weight)
    0.25
    """

    no_jit = True

    def __init__(self, kind: str = "log_loss") -> None:
        self.kind = checks.check_choice(kind, "kind", KINDS)

    def is_max_optimal(self) -> bool:
        """Whether more is better: it is not."""
        return False

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """Weighted sum over the objects, and the sum of their weights."""
        scores = np.stack([np.array(approx, np.float64) for approx in approxes], axis=-1)
        weights = None if weight is None else np.array(weight, np.float64)
        total = float(len(scores)) if weights is None else float(weights.sum())
        scores = scores[:, 0] if scores.shape[1] == 1 else scores
        return mean_of_rows(self.kind, scores, np.array(target), weights) * total, total

    def get_final_error(self, error: float, weight: float) -> float:
        """Mean over the objects."""
        return error / (weight + 1e-38)
