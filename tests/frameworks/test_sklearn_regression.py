"""SoftmaxRegression beside LogisticRegression: the same coefficients from the same data."""

import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import fastxent
from fastxent.sklearn import SoftmaxRegression

LOADERS = {"iris": load_iris, "wine": load_wine, "two classes": load_breast_cancer}
TIGHT = {"tol": 1e-9, "max_iter": 5000}


@pytest.fixture(autouse=True)
def blas_on_one_thread():
    """For LogisticRegression; on a busy machine its idle threads take seconds."""
    with threadpool_limits(1, user_api="blas"):
        yield


def data(name):
    X, y = LOADERS[name](return_X_y=True)
    return StandardScaler().fit_transform(X), y


def both(X, y, sample_weight=None, **parameters):
    ours = SoftmaxRegression(**parameters).fit(X, y, sample_weight)
    return ours, LogisticRegression(**parameters).fit(X, y, sample_weight)


def same_coefficients(ours, theirs, atol=1e-6):
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=atol)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=0, atol=atol)
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == theirs.intercept_.shape
    assert ours.n_iter_.shape == theirs.n_iter_.shape


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"C": 0.01},
        {"C": 3.0, "fit_intercept": False},
        {"class_weight": "balanced"},
        {"class_weight": {0: 3.0, 1: 0.5}},
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_same_coefficients(name, parameters, weighted):
    X, y = data(name)
    weight = np.random.default_rng(0).integers(0, 4, len(y)).astype(float) if weighted else None
    ours, theirs = both(X, y, weight, **TIGHT, **parameters)
    same_coefficients(ours, theirs)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-5)
    assert ours.score(X, y) == theirs.score(X, y)


@pytest.mark.parametrize("name", LOADERS)
def test_no_penalty(name):
    X, y = data(name)
    X = X[:, :4]  # as the others are all but functions of these, and the optimum is flat
    y = np.random.default_rng(0).permutation(y)  # which no hyperplane separates
    ours, theirs = both(X, y, C=np.inf, **TIGHT)
    same_coefficients(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", LOADERS)
def test_a_weight_of_two_is_the_row_twice(name):
    X, y = data(name)
    times = np.random.default_rng(1).integers(0, 3, len(y))
    weighted = SoftmaxRegression(**TIGHT).fit(X, y, sample_weight=times)
    repeated = SoftmaxRegression(**TIGHT).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    same_coefficients(weighted, repeated, atol=1e-7)


def test_a_class_whose_rows_weigh_nothing():
    X, y = data("wine")
    model = SoftmaxRegression(class_weight="balanced").fit(X, y, sample_weight=y > 0)
    assert np.isfinite(model.coef_).all()
    assert set(model.predict(X)) == {1, 2}


@pytest.mark.parametrize("name", LOADERS)
def test_float32_stays_float32(name):
    X, y = data(name)
    ours, theirs = both(X.astype("float32"), y, C=0.1, tol=1e-5, max_iter=1000)
    assert ours.coef_.dtype == theirs.coef_.dtype == np.float32
    assert ours.intercept_.dtype == np.float32
    narrow = X.astype("float32")
    assert ours.predict_proba(narrow).dtype == np.float32
    assert ours.decision_function(narrow).dtype == np.float32
    exact = SoftmaxRegression(C=0.1, **TIGHT).fit(X, y)
    same_coefficients(ours, exact, atol=1e-3)
    np.testing.assert_array_equal(ours.predict(narrow), theirs.predict(narrow))


@pytest.mark.parametrize("name", ["wine", "two classes"])
def test_labels_are_text(name):
    X, y = data(name)
    names = np.array(["red", "white", "rosé"], dtype=object)[y]
    ours, theirs = both(X, names, class_weight={"white": 2.0}, **TIGHT)
    same_coefficients(ours, theirs)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_sparse(name, container):
    X, y = data(name)
    X = np.where(np.abs(X) > 0.7, X, 0.0)
    dense = SoftmaxRegression(**TIGHT).fit(X, y)
    model = SoftmaxRegression(**TIGHT).fit(container(X), y)
    same_coefficients(model, dense)
    np.testing.assert_allclose(
        model.predict_proba(container(X)), dense.predict_proba(X), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("cython", "iris"),
        ("cython", "two classes"),
        ("numba", "iris"),  # which compiles for 10 s
        ("numpy", "iris"),
        ("numpy", "two classes"),
    ],
)
def test_backends(backend, name):
    reason = fastxent.backends()[backend]
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    X, y = data(name)
    with fastxent.use_backend(backend):
        model = SoftmaxRegression(**TIGHT).fit(X, y)
    same_coefficients(model, SoftmaxRegression(**TIGHT).fit(X, y), atol=1e-7)


@pytest.mark.parametrize("name", ["wine", "two classes"])
def test_warm_start(name):
    X, y = data(name)
    model = SoftmaxRegression(warm_start=True, tol=1e-6, max_iter=500).fit(X, y)
    first = model.n_iter_[0]
    coef = model.coef_.copy()
    model.fit(X, y)
    assert model.n_iter_[0] <= 1 < first
    np.testing.assert_allclose(model.coef_, coef, rtol=0, atol=1e-4)
    model.set_params(warm_start=False).fit(X, y)
    assert model.n_iter_[0] == first


def test_stopping_early_is_said():
    X, y = data("wine")
    with pytest.warns(ConvergenceWarning, match="stopped after 2 iterations .* above tol = 0.0001"):
        model = SoftmaxRegression(max_iter=2).fit(X, y)
    assert model.n_iter_.tolist() == [2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftmaxRegression(max_iter=1000).fit(X, y)


def test_verbose(capsys):
    X, y = data("wine")
    model = SoftmaxRegression(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_[0]
    assert lines[0].startswith("iteration 1: loss ")
    assert float(lines[-1].rpartition(" ")[2]) <= model.tol
    SoftmaxRegression().fit(X, y)
    assert not capsys.readouterr().out


def test_log_probabilities_do_not_run_out():
    X, y = data("wine")
    model = SoftmaxRegression(C=1e3, max_iter=5000).fit(X, y)
    far = 1000 * X
    assert (model.predict_proba(far) == 0).any()
    log_proba = model.predict_log_proba(far)
    assert np.isfinite(log_proba).all()
    np.testing.assert_allclose(np.exp(log_proba), model.predict_proba(far), rtol=1e-10, atol=0)


def test_inside_scikit_learns_tools():
    X, y = load_digits(return_X_y=True)
    X, y = X[:600] / 16, y[:600]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SoftmaxRegression(max_iter=1000)),
        {"softmaxregression__C": [0.01, 1.0]},
        cv=3,
    )
    expected = clone(search).set_params(estimator__softmaxregression=LogisticRegression())
    search.fit(X, y)
    expected.set_params(estimator__softmaxregression__max_iter=1000).fit(X, y)
    scores = expected.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], scores)
    model = search.best_estimator_
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_the_gradient_is_as_small_as_asked():
    from sklearn._loss.loss import HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    X, y = data("wine")
    for model in both(X, y, C=2.0, tol=1e-7, max_iter=1000):
        loss = LinearModelLoss(HalfMultinomialLoss(n_classes=3), fit_intercept=True)
        coef = np.asfortranarray(np.column_stack([model.coef_, model.intercept_]))
        gradient = loss.gradient(coef, X, y.astype(float), None, 1 / (2.0 * len(y)))
        assert np.abs(gradient).max() <= 1e-7
