"""What the libraries take for the diagonal of the Hessian, by name."""

from __future__ import annotations

from fastxent import checks
from fastxent.backends.contract import HessRule

__all__ = ["HESSIANS", "logistic_rule", "softmax_rule"]

HESSIANS = ("exact", "xgboost", "xgboost-distance", "lightgbm")

# XGBoost's kRtEps: no row is without a Hessian.
_FLOOR = 1e-16


def softmax_rule(hessian: str, num_classes: int) -> HessRule:
    """Rule for so many classes."""
    name = checks.check_choice(hessian, "hessian", HESSIANS)
    if name == "xgboost":
        return HessRule("product", 2.0, _FLOOR)
    if name == "xgboost-distance":
        return HessRule("distance", 1.0, _FLOOR)
    factor = num_classes / (num_classes - 1) if name == "lightgbm" else 1.0
    return HessRule("product", factor, 0.0)


def logistic_rule(hessian: str) -> HessRule:
    """Rule for one score a row: the libraries take its exact second derivative."""
    name = checks.check_choice(hessian, "hessian", HESSIANS)
    if name == "xgboost":
        return HessRule("product", 1.0, _FLOOR)
    if name == "xgboost-distance":
        return HessRule("distance", 1.0, _FLOOR)
    return HessRule()
