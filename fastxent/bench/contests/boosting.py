"""Boosting: gradient and Hessian of the multiclass softmax, as XGBoost and LightGBM ask for them.

Everybody is called as the library calls a custom objective, with what the library hands over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent import boosting
from fastxent.bench.contest import FASTXENT, Contestant
from fastxent.bench.contests import LIGHTGBM, NUMPY, XGBOOST
from fastxent.precision import Array

__all__ = ["contestants"]

ROWS, CLASSES = 1_000_000, 10
# XGBoost's example goes through rows and classes in Python: minutes for all of them.
SHARE_OF_EXAMPLE = 500
XGBOOST_FLOOR = 1e-16
CHECKED = 1_000  # rows, evenly spread

Pair = tuple[Array, Array]


def contestants(title: str, rows: int = ROWS) -> dict[str, Contestant]:
    """Give everybody of a contest of `fastxent.bench.contests.BOOSTING`."""
    return {XGBOOST: _for_xgboost, LIGHTGBM: _for_lightgbm}[title](rows)


def _scores(rows: int, dtype: Any) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    scores = 3 * rng.standard_normal((rows, CLASSES), np.float32)
    return scores.astype(dtype), rng.integers(0, CLASSES, rows)


def _for_xgboost(rows: int) -> dict[str, Contestant]:
    import xgboost

    scores, labels = _scores(rows, np.float32)
    data = xgboost.DMatrix(np.zeros((rows, 1), np.float32), label=labels)
    few = slice(0, max(1, rows // SHARE_OF_EXAMPLE))
    objective = boosting.XGBoostObjective()
    expected = functools.partial(_formula, factor=2.0, floor=XGBOOST_FLOOR)
    check = _check(scores, labels, expected)
    return {
        FASTXENT: Contestant(lambda: objective(scores, data), check),
        NUMPY: Contestant(lambda: expected(scores, data.get_label().astype(np.int64)), check),
        "XGBoost's example": Contestant(
            lambda: _row_by_row(scores[few], data.get_label()[few]),
            _check(scores[few], labels[few], expected),
            share=rows // (few.stop - few.start),
        ),
    }


def _for_lightgbm(rows: int) -> dict[str, Contestant]:
    import lightgbm

    scores, labels = _scores(rows, np.float64)
    scores = np.asfortranarray(scores)
    data = lightgbm.Dataset(np.zeros((rows, 1)), label=labels).construct()
    objective = boosting.LightGBMObjective()
    expected = functools.partial(_formula, factor=CLASSES / (CLASSES - 1), floor=0.0)
    check = _check(scores, labels, expected)
    return {
        FASTXENT: Contestant(lambda: objective(scores, data), check),
        NUMPY: Contestant(lambda: expected(scores, labels), check),
        "LightGBM's example": Contestant(lambda: _lightgbm_example(scores, data), check),
    }


def _formula(scores: Array, labels: Array, *, factor: float, floor: float) -> Pair:
    """Write it as the textbooks do."""
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    grad = exponentials / exponentials.sum(axis=1, keepdims=True)
    hess = np.maximum(factor * grad * (1 - grad), floor)
    grad[np.arange(len(labels)), labels] -= 1
    return grad, hess


def _row_by_row(scores: Array, labels: Array) -> Pair:
    """Go through rows and classes, as XGBoost's demo of a custom softmax objective does."""
    grad, hess = np.zeros_like(scores), np.zeros_like(scores)
    for row in range(len(scores)):
        exponentials = np.exp(scores[row])
        proba = exponentials / np.sum(exponentials)
        for k in range(scores.shape[1]):
            grad[row, k] = proba[k] - 1.0 if k == labels[row] else proba[k]
            hess[row, k] = max(2.0 * proba[k] * (1.0 - proba[k]), XGBOOST_FLOOR)
    return grad, hess


def _lightgbm_example(scores: Array, data: Any) -> Pair:
    """Do what the custom multiclass objective in LightGBM's tests does: an array of its own for
    the labels, and labels read from the data set.
    """
    exponentials = np.exp(scores - np.max(scores, axis=1).reshape(-1, 1))
    proba = exponentials / np.sum(exponentials, axis=1).reshape(-1, 1)
    of_labels = np.zeros_like(proba)
    of_labels[np.arange(len(scores)), data.get_label().astype(np.int32)] = -1.0
    return proba + of_labels, CLASSES / (CLASSES - 1) * proba * (1 - proba)


def _check(
    scores: Array, labels: Array, expected: Callable[[Array, Array], Pair]
) -> Callable[[Pair], list[str]]:
    """Compare with the formula in float64, on some rows."""
    some = slice(None, None, max(1, len(scores) // CHECKED))
    truth = expected(scores[some].astype(np.float64), labels[some])
    allowed = 16 * np.finfo(scores.dtype).eps

    def faults(result: Pair) -> list[str]:
        pairs = zip(("gradient", "Hessian"), result, truth, strict=True)
        errors = {name: float(np.abs(found[some] - right).max()) for name, found, right in pairs}
        return [f"{name} off by {e:.1e}" for name, e in errors.items() if not e <= allowed]

    return faults
