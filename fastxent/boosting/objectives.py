"""Objectives for XGBoost and LightGBM, in the protocol of each, native and scikit-learn's."""

from __future__ import annotations

from typing import Any

from fastxent import checks
from fastxent.boosting.memory import Remembered, new_pair
from fastxent.boosting.passes import logistic_pass, softmax_pass
from fastxent.boosting.rules import HESSIANS, logistic_rule, softmax_rule
from fastxent.checks.boosting import check_row_scores, check_scores, check_whole_labels
from fastxent.precision import Array
from fastxent.spare import Spare

__all__ = ["LightGBMObjective", "XGBoostObjective"]


# What an objective keeps between rounds.
_KEPT = ("_labels", "_weights", "_spare")


class _Objective:
    """What both libraries' objectives share: options, memory, one pass.

    What an instance keeps between rounds is left behind when it is pickled or copied.
    """

    def __init__(self, hessian: str, num_threads: int | None, backend: str | None) -> None:
        self.hessian = checks.check_choice(hessian, "hessian", HESSIANS)
        self.num_threads = num_threads
        self.backend = backend
        self._labels, self._weights, self._spare = Remembered(), Remembered(), Spare()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _KEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._labels, self._weights, self._spare = Remembered(), Remembered(), Spare()

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.__getstate__().items())
        return f"{type(self).__name__}({options})"

    def _derivatives(self, raw_scores: Any, labels: Any, weights: Any) -> tuple[Array, Array]:
        """Gradient and Hessian of two-dimensional scores, or of one score a row."""
        if getattr(raw_scores, "ndim", 2) == 1:
            scores, axis, num_classes = check_row_scores(raw_scores), 0, 2
        else:
            scores, axis = check_scores(raw_scores, -1)
            num_classes = scores.shape[axis]
        rows = len(scores)
        labels = self._labels.of(
            labels,
            (num_classes, rows),
            lambda kept: check_whole_labels(kept, num_classes, rows),
        )
        if weights is not None:
            binary = scores.ndim == 1
            weights = self._weights.of(
                weights,
                (rows, scores.dtype if binary else None),
                lambda kept: _checked_weights(kept, rows, scores if binary else None),
            )
        grad, hess = new_pair(scores, self._spare)
        options = (grad, hess, self.num_threads, self.backend)
        if scores.ndim == 1:
            logistic_pass(scores, labels, weights, logistic_rule(self.hessian), *options)
        else:
            rule = softmax_rule(self.hessian, num_classes)
            softmax_pass(scores, axis, labels, weights, rule, *options)
        return grad, hess


def _checked_weights(weights: Any, rows: int, scores: Array | None) -> Array:
    checked = checks.check_sample_weight(weights, (rows,))
    assert checked is not None  # weights are not None
    return checked if scores is None else checked.astype(scores.dtype, copy=False)


def _fields(dataset: Any) -> tuple[Any, Any]:
    """Labels and weights of a DMatrix or Dataset; an empty array of weights is none."""
    weights = dataset.get_weight()
    return dataset.get_label(), None if weights is None or not len(weights) else weights


class XGBoostObjective(_Objective):
    """Softmax or logistic objective for XGBoost: gradient and Hessian in one pass.

    Pass an instance as ``obj`` to ``xgboost.train`` or as ``objective`` to ``XGBClassifier``.
    Scores of shape (N, C) get the multiclass log-loss, those of shape (N,) the binary one; tell
    ``xgboost.train`` about ``num_class``. Weights of the DMatrix count.

    Parameters
    ----------
    hessian : {"xgboost", "xgboost-distance", "exact", "lightgbm"}
        The rule of `fastxent.boosting.softmax_gradient_hessian`; the default is XGBoost's own.
    num_threads : int, optional
        At most so many threads.
    backend : str, optional
        The backend to use.

    Notes
    -----
    ``xgboost.train`` adds ``base_score`` to the raw scores of a custom objective, so 0 is what
    ``multi:softprob`` and ``binary:logistic`` do by 0.5; ``XGBClassifier`` keeps
    ``binary:logistic`` behind it, so there it is 0.5 too. `fastxent.softmax` makes probabilities of
    ``booster.predict(..., output_margin=True)``.

    Labels and weights are checked once and compared afterwards, and the memory of gradient and
    Hessian is used again when nobody has them any more. Several threads may share an instance.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.boosting import XGBoostObjective
    >>> objective = XGBoostObjective()
    >>> gradient, hessian = objective(np.array([0.0, 1.0]), np.zeros((2, 2), np.float32))
    >>> gradient
    array([[-0.5,  0.5],
           [ 0.5, -0.5]], dtype=float32)
    """

    def __init__(
        self,
        hessian: str = "xgboost",
        num_threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(hessian, num_threads, backend)

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """Gradient and Hessian.

        Parameters
        ----------
        first, second : arrays, or an array and a DMatrix
            Raw scores and the DMatrix, as ``xgboost.train`` calls; labels and raw scores, as the
            scikit-learn API calls.
        sample_weight : array, optional
            In the latter case.

        Returns
        -------
        gradient, hessian : arrays like the scores
        """
        if hasattr(second, "get_label"):
            return self._derivatives(first, *_fields(second))
        return self._derivatives(second, first, sample_weight)


class LightGBMObjective(_Objective):
    """Softmax or logistic objective for LightGBM: gradient and Hessian in one pass.

    Pass an instance as ``objective`` in the parameters of ``lightgbm.train`` or to
    ``LGBMClassifier``. Scores of shape (N, C) get the multiclass log-loss, those of shape (N,) the
    binary one; tell ``lightgbm.train`` about ``num_class``. Weights of the Dataset count.

    Parameters
    ----------
    hessian : {"lightgbm", "exact", "xgboost", "xgboost-distance"}
        The rule of `fastxent.boosting.softmax_gradient_hessian`; the default is LightGBM's own.
    num_threads : int, optional
        At most so many threads.
    backend : str, optional
        The backend to use.

    Notes
    -----
    LightGBM starts a custom objective from scores of 0: its own objectives do so with
    ``boost_from_average=False``. Predictions are raw scores: `fastxent.softmax` makes
    probabilities of them.

    Labels and weights are checked once and compared afterwards, and the memory of gradient and
    Hessian is used again when nobody has them any more. Several threads may share an instance.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.boosting import LightGBMObjective
    >>> objective = LightGBMObjective()
    >>> gradient, hessian = objective(np.array([0.0, 1.0]), np.zeros(2))
    >>> gradient
    array([ 0.5, -0.5])
    """

    def __init__(
        self,
        hessian: str = "lightgbm",
        num_threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(hessian, num_threads, backend)

    # LightGBM counts parameters: three are labels, raw scores and weights
    def __call__(self, first: Any, second: Any, weight: Any = None) -> tuple[Array, Array]:
        """Gradient and Hessian.

        Parameters
        ----------
        first, second : arrays, or an array and a Dataset
            Raw scores and the Dataset, as ``lightgbm.train`` calls; labels and raw scores, as the
            scikit-learn API calls.
        weight : array, optional
            In the latter case.

        Returns
        -------
        gradient, hessian : arrays like the scores
        """
        if hasattr(second, "get_label"):
            return self._derivatives(first, *_fields(second))
        return self._derivatives(second, first, weight)
