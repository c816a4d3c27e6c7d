"""The objective and metric in CatBoost's protocol, on real data."""

import numpy as np
import pytest

catboost = pytest.importorskip("catboost", reason="catboost is not installed")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")

import fastxent as fx  # noqa: E402
from fastxent.boosting import CatBoostMetric, CatBoostObjective  # noqa: E402

SHARED = {
    "iterations": 20,
    "depth": 3,
    "learning_rate": 0.3,
    "leaf_estimation_iterations": 1,
    "bootstrap_type": "No",
    "boost_from_average": False,
    "random_seed": 0,
    "random_strength": 0,
    "allow_writing_files": False,
    "thread_count": 1,
    "logging_level": "Silent",
}


def curve(name, loss, metric, **more):
    """The metric on the training data after every round."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    pool = catboost.Pool(X, y, weight=weights)
    options = SHARED | more | {"loss_function": loss, "eval_metric": metric}
    if name == "wine":
        options["classes_count"] = 3
    model = catboost.CatBoost(options).fit(pool)
    return np.array(next(iter(model.get_evals_result()["learn"].values())))


# Newton's leaves use the second derivatives, those of gradient descent the first alone
@pytest.mark.parametrize("method", ["Gradient", "Newton"])
def test_the_curve_is_that_of_the_native_loss(method):
    options = {"leaf_estimation_method": method}
    ours = curve("wine", CatBoostObjective(), CatBoostMetric(), **options)
    native = curve("wine", "MultiClass", "MultiClass", **options)
    assert native[-1] < 0.6 * native[0]
    np.testing.assert_allclose(ours, native, rtol=0, atol=1e-10)


class Logistic:
    """The derivatives of the log-loss, in NumPy."""

    def calc_ders_range(self, approxes, targets, weights):  # which CatBoost compiles with Numba
        found = []
        for i in range(len(targets)):
            p = 1 / (1 + np.exp(-approxes[i]))
            found.append((weights[i] * (targets[i] - p), -weights[i] * p * (1 - p)))
        return found


@pytest.mark.parametrize("method", ["Gradient", "Newton"])
def test_the_curve_of_one_score_is_that_of_the_formula(method):
    options = {"leaf_estimation_method": method}
    ours = curve("breast_cancer", CatBoostObjective(), CatBoostMetric(), **options)
    native = curve("breast_cancer", "Logloss", "Logloss", **options)
    assert native[-1] < 0.6 * native[0]
    formula = curve("breast_cancer", Logistic(), CatBoostMetric(), **options)
    np.testing.assert_allclose(ours, formula, rtol=0, atol=1e-12)
    # CatBoost's Logloss is not quite its formula: any custom objective is 4e-5 to 7e-5 away
    np.testing.assert_allclose(ours, native, rtol=0, atol=2e-4)
    measured = curve("breast_cancer", CatBoostObjective(), "Logloss", **options)
    np.testing.assert_allclose(ours, measured, rtol=0, atol=1e-10)


def test_multiclass_derivatives_equal_their_formula():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, label, weight = 3 * rng.normal(size=5), rng.integers(5), rng.uniform(0, 2)
        p = np.exp(x) / np.exp(x).sum()
        first, second = CatBoostObjective().calc_ders_multi(x.tolist(), float(label), weight)
        np.testing.assert_allclose(first, weight * (np.eye(5)[label] - p), atol=1e-14)
        hessian = weight * (np.outer(p, p) - np.diag(p))
        np.testing.assert_allclose(second, hessian, atol=1e-14)


def test_range_derivatives_equal_their_formula():
    rng = np.random.default_rng(0)
    x, labels, weights = 3 * rng.normal(size=50), rng.integers(0, 2, 50), rng.uniform(0, 2, 50)
    p = 1 / (1 + np.exp(-x))
    found = CatBoostObjective().calc_ders_range(x.tolist(), labels.tolist(), weights.tolist())
    np.testing.assert_allclose([first for first, _ in found], weights * (labels - p), atol=1e-14)
    np.testing.assert_allclose([der for _, der in found], -weights * p * (1 - p), atol=1e-14)
    with pytest.raises(fx.LabelError, match=r"labels\[0\] is 2"):
        CatBoostObjective().calc_ders_range([0.0], [2.0], None)


def test_the_error_rate_of_many_classes_is_the_native_one():
    ours = curve("wine", CatBoostObjective(), CatBoostMetric("error_rate"))
    native = 1 - curve("wine", CatBoostObjective(), "Accuracy")
    assert 0 < ours[0] < 0.2
    np.testing.assert_allclose(ours, native, rtol=0, atol=1e-10)
