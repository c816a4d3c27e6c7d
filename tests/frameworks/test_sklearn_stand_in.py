"""The losses inside scikit-learn's own machinery: the same fits as with scikit-learn's losses."""

import threading

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from scipy.optimize import minimize
from sklearn import linear_model
from sklearn._loss.loss import BaseLoss, HalfBinomialLoss, HalfMultinomialLoss
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._linear_loss import LinearModelLoss
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import fastxent
from fastxent.sklearn import BinomialLoss, MultinomialLoss

PAIRS = {
    "wine": (load_wine, lambda: MultinomialLoss(n_classes=3), lambda: HalfMultinomialLoss()),
    "breast cancer": (load_breast_cancer, BinomialLoss, HalfBinomialLoss),
}


@pytest.fixture(autouse=True)
def one_thread():
    """What is compared is small; on a busy machine idle threads of two runtimes take seconds."""
    with threadpool_limits(1):
        yield


def data(name, dtype="float64"):
    X, y = PAIRS[name][0](return_X_y=True)
    return StandardScaler().fit_transform(X).astype(dtype), y


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_every_method_of_the_linear_loss(name, dtype, weighted, fit_intercept):
    X, y = data(name, dtype)
    rng = np.random.default_rng(0)
    weight = rng.random(len(y)).astype(dtype) if weighted else None
    ours, theirs = (
        LinearModelLoss(base_loss=make(), fit_intercept=fit_intercept) for make in PAIRS[name][1:]
    )
    start = ours.init_zero_coef(X, dtype=np.dtype(dtype))
    coef = np.asfortranarray(start + rng.normal(0, 0.3, start.shape)).astype(dtype)
    arguments = (coef, X, y.astype(dtype), weight, 0.01, 2)
    close = {"rtol": 0, "atol": 2e-6 if dtype == "float32" else 4e-15}
    assert ours.loss(*arguments) == pytest.approx(theirs.loss(*arguments), abs=close["atol"])
    np.testing.assert_allclose(ours.gradient(*arguments), theirs.gradient(*arguments), **close)
    np.testing.assert_allclose(
        ours.loss_gradient(*arguments)[1], theirs.loss_gradient(*arguments)[1], **close
    )
    gradient, hessian, warned = ours.gradient_hessian(*arguments)
    expected = theirs.gradient_hessian(*arguments)
    np.testing.assert_allclose(gradient, expected[0], **close)
    np.testing.assert_allclose(hessian, expected[1], **close)
    assert warned == expected[2]
    gradient, product = ours.gradient_hessian_product(*arguments)
    expected_gradient, expected_product = theirs.gradient_hessian_product(*arguments)
    np.testing.assert_allclose(gradient, expected_gradient, **close)
    direction = rng.normal(size=coef.shape).astype(dtype)
    scale = 10 * close["atol"]
    np.testing.assert_allclose(product(direction), expected_product(direction), atol=scale)


@pytest.mark.parametrize("name", PAIRS)
def test_lbfgs_takes_the_same_way(name):
    X, y = data(name)
    results = []
    for make in PAIRS[name][1:]:
        loss = LinearModelLoss(base_loss=make(), fit_intercept=True)
        start = loss.init_zero_coef(X).ravel(order="F")
        arguments = (X, y.astype(float), None, 0.01)
        options = {"gtol": 1e-9, "maxiter": 500}
        results.append(
            minimize(loss.loss_gradient, start, arguments, "L-BFGS-B", jac=True, options=options)
        )
    ours, theirs = results
    assert ours.status == theirs.status == 0
    np.testing.assert_allclose(ours.x, theirs.x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("name", PAIRS)
def test_logistic_regression_with_the_losses_in_place_of_its_own(monkeypatch, name, solver):
    X, y = data(name)
    model = LogisticRegression(solver=solver, tol=1e-10, max_iter=2000)
    expected = model.fit(X, y).coef_
    monkeypatch.setattr("sklearn.linear_model._logistic.HalfMultinomialLoss", MultinomialLoss)
    monkeypatch.setattr("sklearn.linear_model._logistic.HalfBinomialLoss", BinomialLoss)
    monkeypatch.setattr(HalfMultinomialLoss, "loss_gradient", None)
    np.testing.assert_allclose(model.fit(X, y).coef_, expected, rtol=0, atol=1e-6)
    assert linear_model._logistic.HalfBinomialLoss is BinomialLoss


@pytest.mark.parametrize("name", ["wine", "breast cancer", "digits"])
@pytest.mark.parametrize("weighted", [False, True])
def test_boosting_grows_the_same_trees(name, weighted):
    X, y = load_digits(return_X_y=True) if name == "digits" else data(name)
    X, y = X[:600], y[:600]
    classes = len(np.unique(y))
    ours = BinomialLoss() if classes == 2 else MultinomialLoss(n_classes=classes)
    assert isinstance(ours, BaseLoss)
    weight = np.random.default_rng(0).random(len(y)) if weighted else None
    options = {"max_iter": 8, "max_leaf_nodes": 8, "early_stopping": False, "random_state": 0}
    model = HistGradientBoostingClassifier(loss=ours, **options).fit(X, y, weight)
    expected = HistGradientBoostingClassifier(**options).fit(X, y, weight)
    for trees, expected_trees in zip(model._predictors, expected._predictors, strict=True):
        for tree, expected_tree in zip(trees, expected_trees, strict=True):
            for field in ("feature_idx", "bin_threshold", "left", "right", "count"):
                np.testing.assert_array_equal(tree.nodes[field], expected_tree.nodes[field])
            # gradients are rounded to float32, either way, and their sums divided
            np.testing.assert_allclose(
                tree.nodes["value"], expected_tree.nodes["value"], rtol=1e-4, atol=1e-6
            )
    np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X), atol=1e-6)


def test_boosting_stops_early_on_the_same_score():
    X, y = data("wine")
    options = {"max_iter": 30, "max_leaf_nodes": 6, "random_state": 0, "early_stopping": True}
    options |= {"scoring": "loss", "n_iter_no_change": 3}
    ours = HistGradientBoostingClassifier(loss=MultinomialLoss(n_classes=3), **options).fit(X, y)
    expected = HistGradientBoostingClassifier(**options).fit(X, y)
    np.testing.assert_allclose(ours.validation_score_, expected.validation_score_, atol=1e-6)


def test_other_threads_run_meanwhile():
    """The kernels hold no GIL: a thread that counts gets on while a long pass runs."""
    raw = np.random.default_rng(0).normal(size=(20_000, 500))
    y_true = np.zeros(len(raw))
    loss, into = MultinomialLoss(n_classes=500), np.empty_like(raw)
    loss.gradient(y_true, raw, gradient_out=into)
    ticks = 0
    done = threading.Event()
    ready = threading.Event()

    def count():
        nonlocal ticks
        ready.set()
        while not done.wait(0.0005):
            ticks += 1

    counting = threading.Thread(target=count)
    counting.start()
    ready.wait()
    for _ in range(5):
        loss.gradient(y_true, raw, gradient_out=into, n_threads=1)
    done.set()
    counting.join()
    assert ticks >= 5


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("rows", [100, 1_000_000])
def test_threads_are_those_asked_for_where_they_are_worth_it(monkeypatch, n_threads, rows):
    names = set()
    fill = fastxent.sklearn.multinomial._fill, fastxent.sklearn.binomial._fill

    def noted(place):
        def run(problem, *rest):
            names.add(threading.current_thread().name)
            assert problem.num_threads == 1  # no thread of OpenMP beside those of scikit-learn
            fill[place](problem, *rest)

        return run

    monkeypatch.setattr("fastxent.sklearn.multinomial._fill", noted(0))
    monkeypatch.setattr("fastxent.sklearn.binomial._fill", noted(1))
    monkeypatch.setattr("fastxent.threads.most_threads", lambda: 4)
    MultinomialLoss(n_classes=2).gradient(np.zeros(rows), np.zeros((rows, 2)), n_threads=n_threads)
    BinomialLoss().gradient(np.zeros(rows), np.zeros(rows), n_threads=n_threads)
    used = n_threads if rows > 100 else 1
    assert 1 <= len(names) <= max(1, 2 * used - 1)
    assert (len(names) > 1) == (used > 1)
