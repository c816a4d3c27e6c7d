"""Parameters of estimators, and data that they cannot learn from."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from fastxent.checks.options import check_num_threads
from fastxent.checks.reading import integer, number
from fastxent.errors import DTypeError, OptionError, ShapeError
from fastxent.precision import Array

__all__ = ["check_fit_parameters", "check_start", "check_total_weight", "raise_single_class"]


def check_fit_parameters(parameters: dict[str, Any]) -> None:
    """Values of `SoftmaxRegression`'s parameters, by their names."""
    strength = number(parameters["C"], "C")
    if not strength > 0:
        raise OptionError(f"C must be above 0, or infinite for no penalty; got {strength!r}")
    tolerance = number(parameters["tol"], "tol")
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise OptionError(f"tol must be finite and not negative, got {tolerance!r}")
    for name in ("max_iter", "verbose"):
        if integer(parameters[name], name) < 0:
            raise OptionError(f"{name} must not be negative, got {parameters[name]!r}")
    for name in ("fit_intercept", "warm_start"):
        if not isinstance(parameters[name], bool | np.bool_):
            raise DTypeError(f"{name} must be True or False, got {parameters[name]!r}")
    class_weight = parameters["class_weight"]
    named = isinstance(class_weight, str) and class_weight == "balanced"
    if not (class_weight is None or named or isinstance(class_weight, dict)):
        raise OptionError(
            "class_weight must be None, 'balanced' or a dictionary with the weight of each label; "
            f"got {class_weight!r}"
        )
    if parameters["n_threads"] is not None:
        check_num_threads(parameters["n_threads"], "n_threads")


def check_total_weight(total: float) -> float:
    """Sum of the weights of all rows: some row must count."""
    if not (total > 0 and math.isfinite(total)):
        raise OptionError(
            f"the weights of the rows, those of their classes included, sum to {total:g}: not all "
            "may be zero, and the sum must be finite"
        )
    return total


def check_start(coef: Array, shape: tuple[int, ...]) -> Array:
    """Coefficients of an earlier fit, to go on from."""
    if coef.shape != shape:
        raise ShapeError(
            f"warm_start=True goes on from coef_, which has shape {coef.shape}: this fit needs "
            f"{shape}; fit with the same features and classes, or a new estimator"
        )
    return coef


def raise_single_class(label: Any) -> NoReturn:
    """Report labels that are all the same."""
    raise OptionError(
        "SoftmaxRegression needs samples of at least 2 classes in the data, but the data contains "
        f"only one class: {label!r}"
    )
