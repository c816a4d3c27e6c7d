"""SoftmaxRegression: logistic regression whose loss and gradient are fastxent's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fastxent import api, checks
from fastxent.checks.estimators import (
    check_fit_parameters,
    check_start,
    check_total_weight,
    raise_single_class,
)
from fastxent.precision import Array
from fastxent.sklearn.objective import Objective

__all__ = ["SoftmaxRegression"]

# As LogisticRegression calls the same optimiser: what stops a fit is the gradient, not the loss.
_LINE_SEARCH_STEPS = 50
_LEAST_DECREASE = 64 * np.finfo(np.float64).eps


class SoftmaxRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multinomial logistic regression with an L2 penalty, fitted by L-BFGS.

    It minimises what ``sklearn.linear_model.LogisticRegression(solver="lbfgs")`` minimises, with
    the same optimiser from the same start to the same norm of the gradient, and takes the same
    parameters. Two classes have one row of coefficients, as there.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty, above 0; ``numpy.inf`` for no penalty. The objective is
        ``sum_i s_i * loss_i + |coef|^2 / (2 * C)`` with the weights s; the intercept is free.
    tol : float, default 1e-4
        The fit ends when no entry of the gradient of the objective, divided by the sum of the
        weights, is larger than this by magnitude.
    fit_intercept : bool, default True
    class_weight : dict or "balanced", optional
        Weight of each label, a factor of the weights of its rows; a label that the dictionary
        leaves out has 1. "balanced" makes all classes weigh the same.
    max_iter : int, default 100
        Most iterations of L-BFGS.
    warm_start : bool, default False
        Whether `fit` begins at the coefficients of the last one.
    verbose : int, default 0
        Above 0, each iteration prints its loss and the largest entry of its gradient.
    n_threads : int, optional
        Threads of `fit`; by default as many as the data are worth, up to
        `fastxent.get_num_threads()`. Each computes its own rows, and BLAS is held to one thread a
        call meanwhile, in the whole process. The coefficients are the same for any number.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
    coef_ : array of shape (n_classes, n_features), or (1, n_features) for two classes
        In the dtype of X.
    intercept_ : array of shape (n_classes,), or (1,) for two classes
    n_iter_ : array of shape (1,)
        Iterations of L-BFGS.
    n_features_in_ : int
    feature_names_in_ : array of shape (n_features_in_,)
        Only where X has feature names that are all strings.

    Notes
    -----
    A fit reads X once an evaluation, in blocks of rows that stay in the cache from their scores to
    their gradient. X of float32 is computed with in float32, sums across blocks and the optimiser
    are float64. Sparse X is used as csr; its products run in SciPy.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastxent.sklearn import SoftmaxRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxRegression(C=10.0, max_iter=1000).fit(X, y)
    >>> model.predict(X[:3])
    array([0, 0, 0])
    >>> round(model.score(X, y), 2)
    0.98
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        class_weight: Any = None,
        max_iter: int = 100,
        warm_start: bool = False,
        verbose: int = 0,
        n_threads: int | None = None,
    ) -> None:
        self.C = C
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.verbose = verbose
        self.n_threads = n_threads

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SoftmaxRegression:
        """Fit the coefficients.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            float32 and float64 stay what they are, other dtypes become float64.
        y : array of shape (n_samples,)
            Labels of any kind.
        sample_weight : array of shape (n_samples,), optional
            Weight of each row, finite and not negative. A weight of 2 equals the row twice.

        Returns
        -------
        SoftmaxRegression
            Itself.

        Raises
        ------
        OptionError, DTypeError, ShapeError
            A parameter or a weight is out of its range, or there is one class only. Also a
            ``ValueError`` or ``TypeError``. What scikit-learn finds wrong with X and y is a
            ``ValueError`` of its own.

        Warns
        -----
        ConvergenceWarning
            If the optimiser stopped before the gradient was small enough.
        """
        check_fit_parameters(self.get_params(deep=False))
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C"
        )
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise_single_class(classes[0].item())
        weights = self._weights(y, classes, labels, sample_weight)
        total = float(len(y)) if weights is None else float(weights.sum())
        check_total_weight(total)
        objective = Objective(
            X,
            labels,
            weights,
            total,
            n_columns=1 if len(classes) == 2 else len(classes),
            fit_intercept=bool(self.fit_intercept),
            penalty=1.0 / (self.C * total),
            n_threads=self.n_threads,
        )
        parameters = self._minimised(objective, self._start(objective.shape))
        self.classes_ = classes
        rows = parameters.reshape(objective.shape).astype(X.dtype)
        features = X.shape[1]
        self.coef_ = np.ascontiguousarray(rows[:features].T)
        self.intercept_ = rows[-1] if self.fit_intercept else np.zeros(rows.shape[1], X.dtype)
        return self

    def _weights(self, y: Array, classes: Array, labels: Array, sample_weight: Any) -> Array | None:
        """Weight of each row, or None if all are 1."""
        weights: Array | None = checks.check_sample_weight(sample_weight, y.shape)
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, dict):
            of_class = compute_class_weight(self.class_weight, classes=classes, y=y)
        else:
            mass = np.bincount(labels, weights=weights)
            # a class whose rows all weigh nothing counts for nothing, and not for 0 * inf
            of_class = mass.sum() / (len(classes) * np.where(mass > 0, mass, np.inf))
        checks.check_weight(of_class, len(classes), np.dtype(np.float64))
        of_row: Array = of_class[labels]
        return of_row if weights is None else weights * of_row

    def _start(self, shape: tuple[int, int]) -> Array:
        """Where the optimiser begins: at zero, or where the last fit ended."""
        start = np.zeros(shape)
        if self.warm_start and hasattr(self, "coef_"):
            features = shape[0] - bool(self.fit_intercept)
            start[:features] = check_start(self.coef_, (shape[1], features)).T
            if self.fit_intercept:
                start[-1] = self.intercept_
        return start.reshape(-1)

    def _minimised(self, objective: Objective, start: Array) -> Array:
        numbers = iter(range(1, self.max_iter + 1))

        def report(_: Array) -> None:
            print(
                f"iteration {next(numbers)}: loss {objective.loss:.6g}, "
                f"largest entry of the gradient {objective.largest:.3g}"
            )

        with objective.running() as function:
            result = minimize(
                function,
                start,
                method="L-BFGS-B",
                jac=True,
                options={
                    "maxiter": self.max_iter,
                    "maxls": _LINE_SEARCH_STEPS,
                    "gtol": self.tol,
                    "ftol": _LEAST_DECREASE,
                },
                callback=report if self.verbose else None,
            )
        self.n_iter_ = np.array([min(result.nit, self.max_iter)], np.int32)
        if result.status != 0:
            largest = np.abs(result.jac).max()
            warnings.warn(
                f"L-BFGS stopped after {self.n_iter_[0]} iterations ({result.message}) with a "
                f"gradient of {largest:.3g}, above tol = {self.tol:g}: raise max_iter, or scale "
                "the features, as with sklearn.preprocessing.StandardScaler",
                ConvergenceWarning,
                stacklevel=3,
            )
        parameters: Array = result.x
        return parameters

    def decision_function(self, X: Any) -> Array:
        """Scores, from which the probabilities follow.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        scores : array of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes the score of ``classes_[1]``: above 0 it is the one predicted.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        scores = np.asarray(X @ self.coef_.T)
        scores += self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> Array:
        """Most probable label of each row.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        labels : array of shape (n_samples,)
        """
        scores = self.decision_function(X)
        chosen = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        labels: Array = self.classes_[chosen]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Probability of each label.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        proba : array of shape (n_samples, n_classes)
            Columns in the order of `classes_`.
        """
        scores = self._class_scores(X)
        proba: Array = api.softmax(scores, out=scores)
        return proba

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithm of the probability of each label, finite where the probability is rounded to 0.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        log_proba : array of shape (n_samples, n_classes)
            Columns in the order of `classes_`.
        """
        scores = self._class_scores(X)
        log_proba: Array = api.log_softmax(scores, out=scores)
        return log_proba

    def _class_scores(self, X: Any) -> Array:
        """A score for each class: of two, the first has 0."""
        scores = self.decision_function(X)
        if scores.ndim == 2:
            return scores
        return np.stack([np.zeros_like(scores), scores], axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
