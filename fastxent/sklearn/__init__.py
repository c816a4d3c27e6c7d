"""scikit-learn: its losses for classes, and a logistic regression on top of them.

`MultinomialLoss` and `BinomialLoss` stand in for the losses that scikit-learn's own estimators
compute with; `SoftmaxRegression` is an estimator. docs/scikit-learn.md tells how to use them.
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastxent.sklearn needs scikit-learn, which cannot be imported "
        f"({error}): pip install 'fastxent[sklearn]'"
    ) from error

from fastxent.sklearn.binomial import BinomialLoss
from fastxent.sklearn.multinomial import MultinomialLoss
from fastxent.sklearn.regression import SoftmaxRegression

__all__ = ["BinomialLoss", "MultinomialLoss", "SoftmaxRegression"]
