"""Fitting: `SoftmaxRegression` and scikit-learn's `LogisticRegression` to the same gradient norm.

Both minimise the same objective with L-BFGS until no entry of its gradient is larger than asked.
That is checked: NumPy computes the gradient anew from the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.bench.contest import FASTXENT, Contestant
from fastxent.bench.contests import FITTING, LOGISTIC
from fastxent.precision import Array

__all__ = ["contestants"]

# Rows, features, classes of the synthetic problem.
SYNTHETIC = (50_000, 200, 50)
TOLERANCE = 1e-4  # of the gradient's largest entry, scikit-learn's default
MOST_ITERATIONS = 1_000


def contestants(title: str, synthetic: tuple[int, int, int] = SYNTHETIC) -> dict[str, Contestant]:
    """Give everybody of a contest of `fastxent.bench.contests.FITTING`."""
    from sklearn.linear_model import LogisticRegression

    from fastxent.sklearn import SoftmaxRegression

    X, y = _digits() if title == next(iter(FITTING)) else _synthetic(*synthetic)
    options: dict[str, Any] = {"tol": TOLERANCE, "max_iter": MOST_ITERATIONS}
    check = _check(X, y)
    return {
        FASTXENT: Contestant(lambda: SoftmaxRegression(**options).fit(X, y), check),
        LOGISTIC: Contestant(lambda: LogisticRegression(**options).fit(X, y), check),
    }


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X / 16, y


def _synthetic(rows: int, features: int, classes: int) -> tuple[Array, Array]:
    """Labels drawn from a softmax of the features, so that there is something to find."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, features))
    scores = X @ rng.standard_normal((features, classes)) / np.sqrt(features)
    return X, (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


def _check(X: Array, y: Array) -> Callable[[Any], list[str]]:
    def faults(model: Any) -> list[str]:
        largest = _largest_gradient(model, X, y)
        # The solver looks at its own gradient; NumPy's sums may differ in the last digits.
        if largest <= TOLERANCE * 1.01:
            return []
        return [f"its gradient's largest entry is {largest:.1e}, not {TOLERANCE:g} or less"]

    return faults


def _largest_gradient(model: Any, X: Array, y: Array) -> float:
    """Largest entry of the gradient of mean loss + |coef|^2 / (2 C N), which both minimise."""
    scores = X @ model.coef_.T + model.intercept_
    proba = np.exp(scores - scores.max(axis=1, keepdims=True))
    proba /= proba.sum(axis=1, keepdims=True)
    proba[np.arange(len(y)), np.searchsorted(model.classes_, y)] -= 1
    of_coef = proba.T @ X / len(y) + model.coef_ / (model.C * len(y))
    return float(max(np.abs(of_coef).max(), np.abs(proba.mean(axis=0)).max()))
