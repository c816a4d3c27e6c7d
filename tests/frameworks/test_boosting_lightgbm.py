"""The objective and metrics in LightGBM's own protocols, on real data."""

import pickle

import numpy as np
import pytest

lightgbm = pytest.importorskip("lightgbm", reason="lightgbm is not installed")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")

from sklearn.base import clone  # noqa: E402

import fastxent as fx  # noqa: E402
from fastxent.boosting import LightGBMMetric, LightGBMObjective  # noqa: E402

ROUNDS = 20
SHARED = {
    "num_leaves": 7,
    "learning_rate": 0.3,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
    "min_data_in_leaf": 5,
}
MULTICLASS = ("digits", "wine")


def data_of(name, weighted=False):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    return X, y, weights


def curve(name, metric, weighted=False, params=None, feval=None):
    """The metric on the training data after every round."""
    X, y, weights = data_of(name, weighted)
    params, found = SHARED | params, {}
    if name in MULTICLASS:
        params["num_class"] = int(y.max()) + 1
    data = lightgbm.Dataset(X, y, weight=weights, params={"verbose": -1})
    lightgbm.train(
        params, data, ROUNDS, valid_sets=[data], valid_names=["train"], feval=feval,
        callbacks=[lightgbm.record_evaluation(found)],
    )  # fmt: skip
    return np.array(found["train"][metric])


def native_curve(name, metric, weighted=False):
    objective = "multiclass" if name in MULTICLASS else "binary"
    params = {"objective": objective, "metric": metric, "boost_from_average": False}
    return curve(name, metric, weighted, params)


def our_curve(name, metric, weighted=False, objective=None, kind="log_loss"):
    params = {"objective": objective or LightGBMObjective(), "metric": "none"}
    return curve(name, metric, weighted, params, LightGBMMetric(kind, name=metric))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["digits", "wine", "breast_cancer"])
def test_the_curve_of_20_rounds_is_that_of_the_native_objective(name, weighted):
    metric = "multi_logloss" if name in MULTICLASS else "binary_logloss"
    ours, native = our_curve(name, metric, weighted), native_curve(name, metric, weighted)
    assert native[-1] < native[0] / 2
    np.testing.assert_allclose(ours, native, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_the_error_rate_is_the_native_one(name):
    metric = "multi_error" if name in MULTICLASS else "binary_error"
    ours = our_curve(name, metric, weighted=True, kind="error_rate")
    np.testing.assert_allclose(ours, native_curve(name, metric, weighted=True), rtol=0, atol=1e-6)


def test_other_rules_give_other_curves_that_learn():
    curves = [
        our_curve("wine", "multi_logloss", objective=LightGBMObjective(rule))
        for rule in ("lightgbm", "exact", "xgboost", "xgboost-distance")
    ]
    assert all(losses[-1] < losses[0] / 2 for losses in curves)
    assert len({losses[-1] for losses in curves}) == len(curves)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_the_scikit_learn_api_gives_the_native_objective_s_model(name):
    X, y, weights = data_of(name, weighted=True)
    options = {"n_estimators": 5, "num_leaves": 7, "learning_rate": 0.3, "n_jobs": 1, "verbose": -1}
    options |= {"deterministic": True, "force_row_wise": True}
    kind = "multiclass" if name in MULTICLASS else "binary"
    metric = "multi_logloss" if name in MULTICLASS else "binary_logloss"
    native = lightgbm.LGBMClassifier(objective=kind, boost_from_average=False, **options)
    model = clone(lightgbm.LGBMClassifier(objective=LightGBMObjective(), **options))
    sets = {"eval_X": (X,), "eval_y": (y,), "eval_sample_weight": [weights]}
    native.fit(X, y, sample_weight=weights, eval_metric=metric, **sets)
    model.fit(X, y, sample_weight=weights, eval_metric=LightGBMMetric(), **sets)
    ours, wanted = (next(iter(m.evals_result_.values())) for m in (model, native))
    np.testing.assert_allclose(ours["log_loss"], wanted[metric], atol=1e-5)
    np.testing.assert_allclose(
        model.predict(X, raw_score=True), native.predict(X, raw_score=True), atol=1e-4
    )
    # a model is pickled with its objective, and fits again
    again = pickle.loads(pickle.dumps(model)).fit(X, y, sample_weight=weights)
    assert np.array_equal(again.predict(X, raw_score=True), model.predict(X, raw_score=True))


def test_labels_are_checked_at_the_door():
    X, y, _ = data_of("wine")
    y = y.astype(np.float32)
    y[17] = 3
    data = lightgbm.Dataset(X, y, params={"verbose": -1})
    params = SHARED | {"objective": LightGBMObjective(), "num_class": 3}
    with pytest.raises(fx.LabelError, match=r"labels\[17\] is 3"):
        lightgbm.train(params, data, 1)


def test_the_class_order_of_scores_is_kept():
    X, y, _ = data_of("wine")
    seen = []

    class Watched(LightGBMObjective):
        def __call__(self, first, second, weight=None):
            grad, hess = super().__call__(first, second, weight)
            seen.append((first.flags.f_contiguous, grad.flags.f_contiguous, hess.shape))
            return grad, hess

    data = lightgbm.Dataset(X, y, params={"verbose": -1})
    lightgbm.train(SHARED | {"objective": Watched(), "num_class": 3}, data, 2)
    assert seen == [(True, True, (178, 3))] * 2
