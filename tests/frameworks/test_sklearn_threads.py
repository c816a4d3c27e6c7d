"""A fit in blocks of rows and on several threads: the same bits, and BLAS left as it was."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from scipy import sparse
from threadpoolctl import ThreadpoolController

import fastxent
from fastxent.sklearn import SoftmaxRegression
from fastxent.sklearn.blas import on_one_thread
from fastxent.sklearn.objective import Objective


def problem(rows, features, classes, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)).astype(dtype)
    scores = X @ rng.normal(size=(features, classes)) + rng.gumbel(size=(rows, classes))
    return X, scores.argmax(axis=1)


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_and_threads_change_nothing(monkeypatch, classes, layout, weighted):
    """Many blocks a share and threads that take them in any order: the bits of one thread."""
    monkeypatch.setattr("fastxent.sklearn.blocks._BYTES", 1 << 12)
    monkeypatch.setattr("fastxent.threads.most_threads", lambda: 8)
    X, y = problem(5_000, 9, max(classes, 2))
    given = X if layout == "dense" else sparse.csr_array(X)
    weights = np.random.default_rng(2).random(len(y)) if weighted else None
    total = len(y) if weights is None else weights.sum()
    results = []
    for n_threads in (1, 2, 5):
        objective = Objective(
            *(given, y, weights, total),
            n_columns=classes,
            fit_intercept=True,
            penalty=0.1,
            n_threads=n_threads,
        )
        parameters = np.random.default_rng(3).normal(size=objective.shape)
        with objective.running() as function:
            results.append(function(parameters.ravel()))
    for loss, gradient in results[1:]:
        assert loss == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])
    # and what they are: the formula, by fastxent's public functions on all rows at once
    scores = X @ parameters[:-1] + parameters[-1]
    if classes == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    loss, grad = fastxent.cross_entropy_and_grad(
        scores, y, normalizer=float(total), sample_weight=weights
    )
    grad = grad[:, -classes:]
    loss += 0.05 * np.sum(parameters[:-1] ** 2)
    expected = np.vstack([X.T @ grad + 0.1 * parameters[:-1], grad.sum(axis=0)])
    assert results[0][0] == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(results[0][1], expected.ravel(), rtol=0, atol=1e-14)


def test_threads_of_a_fit(monkeypatch):
    X, y = problem(20_000, 40, 5)
    models = [SoftmaxRegression(n_threads=n).fit(X, y) for n in (1, 2, None)]
    for model in models[1:]:
        np.testing.assert_array_equal(model.coef_, models[0].coef_)
    before = fastxent.get_num_threads()
    try:
        fastxent.set_num_threads(1)
        monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", None)
        SoftmaxRegression().fit(X, y)
    finally:
        fastxent.set_num_threads(before)


def test_fits_that_overlap_leave_blas_as_it_was():
    def limits():
        return [entry["num_threads"] for entry in ThreadpoolController().info()]

    with ThreadpoolController().limit(limits=2, user_api="blas"):
        before = limits()
        with on_one_thread():
            inner = [e for e in ThreadpoolController().info() if e["user_api"] == "blas"]
            assert inner
            assert {entry["num_threads"] for entry in inner} == {1}
        assert limits() == before
        first, second = on_one_thread(), on_one_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert limits() != before
        second.__exit__(None, None, None)
        assert limits() == before
