"""Objectives and metrics for XGBoost, LightGBM and CatBoost; none of them is imported here."""

from fastxent.boosting.catboost_objects import CatBoostMetric, CatBoostObjective
from fastxent.boosting.derivatives import logistic_gradient_hessian, softmax_gradient_hessian
from fastxent.boosting.metrics import LightGBMMetric, XGBoostMetric
from fastxent.boosting.objectives import LightGBMObjective, XGBoostObjective

__all__ = [
    "CatBoostMetric",
    "CatBoostObjective",
    "LightGBMMetric",
    "LightGBMObjective",
    "XGBoostMetric",
    "XGBoostObjective",
    "logistic_gradient_hessian",
    "softmax_gradient_hessian",
]
