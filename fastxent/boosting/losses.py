"""Log-loss and error rate of raw scores: the weighted mean over the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent import api, checks
from fastxent.checks.boosting import check_row_scores, check_scores, check_whole_labels
from fastxent.precision import Array

__all__ = ["KINDS", "mean_of_rows"]

KINDS = ("log_loss", "error_rate")


def mean_of_rows(
    kind: str,
    raw_scores: Any,
    labels: Any,
    weights: Any = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> float:
    """Mean over the rows; NaN where there are none, or none with a weight."""
    one_score = getattr(raw_scores, "ndim", 2) == 1
    scores, axis = (check_row_scores(raw_scores), 0) if one_score else check_scores(raw_scores, -1)
    num_classes = 2 if one_score else scores.shape[axis]
    whole = check_whole_labels(labels, num_classes, len(scores))
    weights = checks.check_sample_weight(weights, (len(scores),))
    runtime: dict[str, Any] = {"num_threads": num_threads, "backend": backend}
    if kind == "log_loss" and not one_score:
        options = {"ignore_index": None, "sample_weight": weights}
        return float(api.cross_entropy(scores, whole, **options, **runtime))
    if kind == "log_loss":
        of_rows = api.binary_cross_entropy_with_logits(scores, whole, reduction="none", **runtime)
    elif one_score:
        of_rows = ((scores > 0) != whole) | np.isnan(scores)
    else:
        options = {"ignore_index": None, "reduction": "none", "aux": ("correct",)}
        of_rows = ~api.cross_entropy(scores, whole, **options, **runtime)[1].correct
    return _mean(np.atleast_1d(of_rows), weights)


def _mean(of_rows: Array, weights: Array | None) -> float:
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing was counted
        if weights is None:
            return float(np.sum(of_rows, dtype=np.float64) / np.float64(len(of_rows)))
        return float(np.sum(of_rows * weights) / np.sum(weights))
