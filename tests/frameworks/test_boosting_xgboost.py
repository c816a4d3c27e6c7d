"""The objective and metrics in XGBoost's own protocols, on real data."""

import pickle

import numpy as np
import pytest

xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")

from sklearn.base import clone  # noqa: E402

import fastxent as fx  # noqa: E402
from fastxent.boosting import XGBoostMetric, XGBoostObjective  # noqa: E402

ROUNDS = 20
SHARED = {"max_depth": 3, "eta": 0.3, "nthread": 1, "seed": 0, "verbosity": 0}
MULTICLASS = ("digits", "wine")


def data_of(name, weighted=False):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    return X.astype(np.float32), y, weights


def curve(name, metric, weighted=False, **options):
    """The metric on the training data after every round."""
    X, y, weights = data_of(name, weighted)
    matrix, found = xgboost.DMatrix(X, y, weight=weights), {}
    params = SHARED | options.pop("params")
    if name in MULTICLASS:
        params["num_class"] = int(y.max()) + 1
    xgboost.train(
        params, matrix, ROUNDS, evals=[(matrix, "train")], evals_result=found,
        verbose_eval=False, **options,
    )  # fmt: skip
    return np.array(found["train"][metric])


def native_curve(name, metric, weighted=False):
    objective = "multi:softprob" if name in MULTICLASS else "binary:logistic"
    params = {"objective": objective, "eval_metric": metric, "base_score": 0.5}
    return curve(name, metric, weighted, params=params)


def our_curve(name, metric, weighted=False, objective=None, kind="log_loss"):
    params = {"disable_default_eval_metric": True, "base_score": 0.0}
    return curve(
        name, metric, weighted, params=params, obj=objective or XGBoostObjective(),
        custom_metric=XGBoostMetric(kind, name=metric),
    )  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["digits", "wine", "breast_cancer"])
def test_the_curve_of_20_rounds_is_that_of_the_native_objective(name, weighted):
    metric = "mlogloss" if name in MULTICLASS else "logloss"
    ours, native = our_curve(name, metric, weighted), native_curve(name, metric, weighted)
    assert native[-1] < native[0] / 2
    np.testing.assert_allclose(ours, native, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_the_error_rate_is_the_native_one(name):
    metric = "merror" if name in MULTICLASS else "error"
    ours = our_curve(name, metric, weighted=True, kind="error_rate")
    np.testing.assert_allclose(ours, native_curve(name, metric, weighted=True), rtol=0, atol=1e-6)


def test_other_rules_give_other_curves_that_learn():
    curves = [
        our_curve("wine", "mlogloss", objective=XGBoostObjective(rule))
        for rule in ("xgboost", "exact", "lightgbm", "xgboost-distance")
    ]
    assert all(losses[-1] < losses[0] / 2 for losses in curves)
    assert len({losses[-1] for losses in curves}) == len(curves)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_the_scikit_learn_api_gives_the_native_api_s_model(name):
    X, y, weights = data_of(name, weighted=True)
    options = {"n_estimators": 5, "max_depth": 3, "learning_rate": 0.3, "n_jobs": 1}
    model = xgboost.XGBClassifier(
        objective=XGBoostObjective(), eval_metric=XGBoostMetric(), base_score=0.5, **options
    )
    model = clone(model).fit(X, y, sample_weight=weights, eval_set=[(X, y)],
                             sample_weight_eval_set=[weights], verbose=False)  # fmt: skip
    kind = "multi:softprob" if name in MULTICLASS else "binary:logistic"
    metric = "mlogloss" if name in MULTICLASS else "logloss"
    native = xgboost.XGBClassifier(objective=kind, base_score=0.5, eval_metric=metric, **options)
    native.fit(X, y, sample_weight=weights, eval_set=[(X, y)],
               sample_weight_eval_set=[weights], verbose=False)  # fmt: skip
    ours = model.evals_result()["validation_0"]["log_loss"]
    np.testing.assert_allclose(ours, native.evals_result()["validation_0"][metric], atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(X), native.predict_proba(X), atol=1e-5)
    # a model is pickled with its objective, and fits again
    again = pickle.loads(pickle.dumps(model))
    again.fit(X, y, sample_weight=weights)
    assert np.array_equal(again.get_booster().predict(xgboost.DMatrix(X)),
                          model.get_booster().predict(xgboost.DMatrix(X)))  # fmt: skip


def test_labels_are_checked_at_the_door():
    X, y, _ = data_of("wine")
    y = y.astype(np.float32)
    y[17] = 1.5
    with pytest.raises(fx.LabelError, match=r"labels\[17\] is 1.5"):
        xgboost.train(SHARED | {"num_class": 3}, xgboost.DMatrix(X, y), 1, obj=XGBoostObjective())


def test_new_labels_of_the_same_matrix_count():
    X, y, _ = data_of("wine")
    objective, scores = XGBoostObjective(), np.zeros((len(y), 3), np.float32)
    matrix = xgboost.DMatrix(X, y)
    first = objective(scores, matrix)[0]
    matrix.set_label((y + 1) % 3)
    second = objective(scores, matrix)[0]
    assert np.array_equal(second.argmin(axis=1), (y + 1) % 3)
    assert np.array_equal(first.argmin(axis=1), y)
