"""scikit-learn's own conformance suite for estimators, all of it."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.utils.estimator_checks import parametrize_with_checks

from fastxent.sklearn import SoftmaxRegression


# Some checks fit unscaled data for few iterations, and LogisticRegression warns there as well.
@pytest.mark.filterwarnings("ignore:L-BFGS stopped:sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([SoftmaxRegression(), SoftmaxRegression(class_weight="balanced")])
def test_estimator_checks(estimator, check):
    check(estimator)
