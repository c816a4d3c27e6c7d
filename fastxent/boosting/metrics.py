"""Evaluation metrics in the protocols of XGBoost and LightGBM."""

from __future__ import annotations

from typing import Any

from fastxent import checks
from fastxent.boosting.losses import KINDS, mean_of_rows

__all__ = ["LightGBMMetric", "XGBoostMetric"]


class _Metric:
    def __init__(
        self, kind: str, name: str | None, num_threads: int | None, backend: str | None
    ) -> None:
        self.kind = checks.check_choice(kind, "kind", KINDS)
        self.name = kind if name is None else name
        self.num_threads = num_threads
        self.backend = backend
        # XGBoost's scikit-learn API asks functions for theirs
        self.__name__ = self.name

    def _value(self, scores: Any, labels: Any, weights: Any) -> float:
        return mean_of_rows(self.kind, scores, labels, weights, self.num_threads, self.backend)

    def _of_dataset(self, scores: Any, dataset: Any) -> float:
        weights = dataset.get_weight()
        weights = None if weights is None or not len(weights) else weights
        return self._value(scores, dataset.get_label(), weights)


class XGBoostMetric(_Metric):
    """Log-loss or error rate of raw scores, for XGBoost.

    Pass an instance as ``custom_metric`` to ``xgboost.train``, or as ``eval_metric`` to
    ``XGBClassifier``, together with a custom objective such as `XGBoostObjective`: then XGBoost
    hands out raw scores. With its own objectives it hands out probabilities, which this metric
    would take for scores.

    Parameters
    ----------
    kind : {"log_loss", "error_rate"}
        Mean over the rows, weighted by the DMatrix's weights. Of scores of shape (N,) the binary
        one, of shape (N, C) the multiclass one. The log-loss is not clipped.
    name : str, optional
        What the results are called: `kind`, if nothing is said.
    num_threads : int, optional
        At most so many threads.
    backend : str, optional
        The backend to use.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.boosting import XGBoostMetric
    >>> round(XGBoostMetric("log_loss")(np.array([0, 1]), np.zeros((2, 4))), 6)
    1.386294
    """

    def __init__(
        self,
        kind: str = "log_loss",
        name: str | None = None,
        num_threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(kind, name, num_threads, backend)

    def __call__(
        self, first: Any, second: Any, sample_weight: Any = None
    ) -> tuple[str, float] | float:
        """Name and value for raw scores and a DMatrix; the value for labels and raw scores."""
        if hasattr(second, "get_label"):
            return self.name, self._of_dataset(first, second)
        return self._value(second, first, sample_weight)


class LightGBMMetric(_Metric):
    """Log-loss or error rate of raw scores, for LightGBM.

    Pass an instance as ``feval`` to ``lightgbm.train``, or as ``eval_metric`` to the ``fit`` of
    ``LGBMClassifier``, together with a custom objective such as `LightGBMObjective`: then LightGBM
    hands out raw scores. With its own objectives it hands out probabilities, which this metric
    would take for scores.

    Parameters
    ----------
    kind : {"log_loss", "error_rate"}
        Mean over the rows, weighted by the Dataset's weights. Of scores of shape (N,) the binary
        one, of shape (N, C) the multiclass one. The log-loss is not clipped.
    name : str, optional
        What the results are called: `kind`, if nothing is said.
    num_threads : int, optional
        At most so many threads.
    backend : str, optional
        The backend to use.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.boosting import LightGBMMetric
    >>> LightGBMMetric("error_rate")(np.array([0, 1]), np.array([[2.0, 1], [3, 1]]))
    ('error_rate', 0.5, False)
    """

    def __init__(
        self,
        kind: str = "log_loss",
        name: str | None = None,
        num_threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(kind, name, num_threads, backend)

    def __call__(self, first: Any, second: Any, weight: Any = None) -> tuple[str, float, bool]:
        """Name, value and whether more is better, for either protocol."""
        if hasattr(second, "get_label"):
            return self.name, self._of_dataset(first, second), False
        return self.name, self._value(second, first, weight), False
