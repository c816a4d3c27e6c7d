"""The contests that are held: their titles, and who is in each besides fastxent.

`boosting.contestants(title)` and `fitting.contestants(title)` make the data and the calls.
"""

from __future__ import annotations

__all__ = ["BOOSTING", "FITTING", "LIGHTGBM", "XGBOOST"]

NUMPY = "NumPy formula"
XGBOOST = "gradient and Hessian, 1,000,000 x 10, XGBoost's rule, float32, row after row"
LIGHTGBM = "gradient and Hessian, 1,000,000 x 10, LightGBM's rule, float64, class after class"
BOOSTING = {
    XGBOOST: (NUMPY, "XGBoost's example"),
    LIGHTGBM: (NUMPY, "LightGBM's example"),
}

LOGISTIC = "LogisticRegression"
FITTING = {
    "fit to the same gradient norm, digits": (LOGISTIC,),
    "fit to the same gradient norm, 50,000 x 200, 50 classes": (LOGISTIC,),
}
