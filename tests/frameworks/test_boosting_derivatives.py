"""Gradient and Hessian of raw scores: the formulas, every layout, what is refused."""

import pickle
import threading

import numpy as np
import pytest

import fastxent as fx
from fastxent import boosting
from fastxent.boosting import (
    XGBoostObjective,
    logistic_gradient_hessian,
    softmax_gradient_hessian,
)

RULES = ("exact", "xgboost", "xgboost-distance", "lightgbm")


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_formulas(x, labels, weights, rule):
    """The libraries' own formulas in float64."""
    p, w = softmax(x.astype(np.float64)), weights[:, None]
    y = np.eye(x.shape[1])[labels]
    classes = x.shape[1]
    hess = {
        "exact": p * (1 - p) * w,
        "xgboost": np.maximum(2 * p * (1 - p) * w, 1e-16),
        "xgboost-distance": np.maximum(np.abs(p - y) * w, 1e-16),
        "lightgbm": classes / (classes - 1) * p * (1 - p) * w,
    }[rule]
    return (p - y) * w, hess


def logistic_formulas(x, labels, weights, rule):
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    hess = {
        "exact": p * (1 - p) * weights,
        "xgboost": np.maximum(p * (1 - p) * weights, 1e-16),
        "xgboost-distance": np.maximum(np.abs(p - labels) * weights, 1e-16),
        "lightgbm": p * (1 - p) * weights,
    }[rule]
    return (p - labels) * weights, hess


def scores_of(rows, classes, dtype):
    rng = np.random.default_rng(rows + classes)
    x = (3 * rng.normal(size=(rows, classes))).astype(dtype)
    weights = rng.uniform(0, 2, rows).astype(np.float32)
    weights[0] = 0
    return x, rng.integers(0, classes, rows), weights


# a few roundings of 1, times the largest weight and factor
def tolerance(dtype):
    return 16 * float(np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 2), (203, 3), (37, 10), (19, 130), (3, 1300)])
@pytest.mark.parametrize("rule", RULES)
def test_softmax_equals_its_formula(rule, shape, dtype):
    x, labels, weights = scores_of(*shape, dtype)
    plain = np.ones(len(x))
    for given, w in ((None, plain), (weights, weights.astype(np.float64))):
        grad, hess = softmax_formulas(x, labels, w, rule)
        wide = np.zeros((shape[0], 2 * shape[1]), dtype)
        wide[:, ::2] = x
        for scores, axis in (
            (x, -1),
            (np.asfortranarray(x), 1),
            (x.T.copy(), 0),
            (wide[:, ::2], 1),
        ):
            found = softmax_gradient_hessian(
                scores, labels, sample_weight=given, hessian=rule, axis=axis
            )
            for result, truth in zip(found, (grad, hess), strict=True):
                assert result.dtype == dtype
                assert result.shape == scores.shape
                result = result.T if axis == 0 else result
                np.testing.assert_allclose(result, truth, rtol=0, atol=tolerance(dtype))
        assert found[0].flags.c_contiguous  # no gaps are laid out anew


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_logistic_equals_its_formula(rule, dtype):
    x, labels, weights = scores_of(501, 2, dtype)
    x = x[:, 0].copy()
    for given, w in ((None, np.ones(len(x))), (weights, weights.astype(np.float64))):
        truths = logistic_formulas(x, labels, w, rule)
        for scores in (x, np.repeat(x, 2)[::2]):
            found = logistic_gradient_hessian(scores, labels, sample_weight=given, hessian=rule)
            for result, truth in zip(found, truths, strict=True):
                assert result.dtype == dtype
                np.testing.assert_allclose(result, truth, rtol=0, atol=tolerance(dtype))


def test_rows_of_weight_0_keep_the_floor():
    x, labels, weights = scores_of(37, 10, np.float64)
    hess = softmax_gradient_hessian(x, labels, sample_weight=weights, hessian="xgboost")[1]
    assert (hess[0] == 1e-16).all()
    assert (softmax_gradient_hessian(x, labels, sample_weight=weights)[1][0] == 0).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_scores_keep_their_layout_and_are_left_alone(order):
    x, labels, _ = scores_of(40, 10, np.float64)
    x = np.asarray(x, order=order)
    given = x.copy()
    for result in softmax_gradient_hessian(x, labels):
        assert result.flags.c_contiguous == (order == "C")
        assert result.flags.f_contiguous == (order == "F")
    assert np.array_equal(x, given)


def test_out_may_go_over_the_scores():
    x, labels, _ = scores_of(40, 10, np.float32)
    expected = softmax_gradient_hessian(x, labels)
    hess = np.empty_like(x)
    found = softmax_gradient_hessian(x, labels, out=(x, hess))
    assert found[0] is x
    assert found[1] is hess
    for result, other in zip(found, expected, strict=True):
        assert np.array_equal(result, other)
    scores, labels = np.linspace(-3, 3, 70), np.arange(70) % 2
    expected = logistic_gradient_hessian(scores, labels)
    found = logistic_gradient_hessian(scores, labels, out=(scores, np.empty(70)))
    assert found[0] is scores
    assert np.array_equal(found, expected)


def test_labels_may_be_stored_in_any_dtype():
    x, labels, _ = scores_of(40, 10, np.float32)
    expected = softmax_gradient_hessian(x, labels)
    for dtype in (np.uint8, np.int16, np.uint64, np.float16, np.float32, np.float64):
        assert np.array_equal(softmax_gradient_hessian(x, labels.astype(dtype)), expected)
    x, labels, _ = scores_of(400, 300, np.float32)  # more classes than a byte names
    expected = softmax_gradient_hessian(x, labels)
    assert np.array_equal(softmax_gradient_hessian(x, labels.astype(np.float32)), expected)
    x, labels = x[:, 0], labels % 2
    expected = logistic_gradient_hessian(x, labels)
    for dtype in (bool, np.int8, np.float32):
        assert np.array_equal(logistic_gradient_hessian(x, labels.astype(dtype)), expected)


@pytest.mark.parametrize(
    ("bad", "dtype"),
    [(bad, dtype) for bad in (-1, 10, 266) for dtype in (np.float32, np.float64, np.int64)]
    + [(bad, dtype) for bad in (1.5, np.nan, np.inf, 1e30) for dtype in (np.float32, np.float64)],
)
def test_a_bad_label_is_named(bad, dtype):
    x, labels, _ = scores_of(40, 10, np.float32)
    labels = labels.astype(dtype)
    labels[[7, 9]] = bad
    given = x.copy()
    for call in (
        lambda: softmax_gradient_hessian(x, labels, out=(x, np.empty_like(x))),
        lambda: XGBoostObjective()(labels, x),
    ):
        with pytest.raises(fx.LabelError, match=r"labels\[7\] is .* \[0, 10\) for 10 classes"):
            call()
    assert np.array_equal(x, given)
    labels[:7] = 0
    with pytest.raises(fx.LabelError, match=r"labels\[7\] is .* \[0, 2\)"):
        logistic_gradient_hessian(x[:, 0].copy(), labels)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((np.zeros((2, 1)), [0, 0]), {}, fx.ShapeError, "two or more.*logistic_gradient_hessian"),
        ((np.zeros(2), [0, 0]), {}, fx.ShapeError, "logistic_gradient_hessian"),
        ((np.zeros((2, 3), np.float16), [0, 0]), {}, fx.DTypeError, "float16"),
        ((np.zeros((2, 3), int), [0, 0]), {}, fx.DTypeError, "int64"),
        ((np.zeros((2, 3)), [0]), {}, fx.ShapeError, r"labels needs shape \(2,\)"),
        ((np.zeros((2, 3)), ["a", "b"]), {}, fx.DTypeError, "labels"),
        ((np.zeros((2, 3)), [0, 0]), {"hessian": "gauss"}, fx.OptionError, "hessian must be one"),
        ((np.zeros((2, 3)), [0, 0]), {"sample_weight": [1, -1]}, fx.OptionError, "not negative"),
        ((np.zeros((2, 3)), [0, 0]), {"sample_weight": [1]}, fx.ShapeError, "one weight a row"),
        ((np.zeros((2, 3)), [0, 0]), {"out": np.zeros((2, 3))}, fx.DTypeError, "pair of arrays"),
        ((np.zeros((2, 3)), [0, 0]), {"axis": 2}, ValueError, "axis"),
        ((np.zeros((2, 3)), [0, 0]), {"axis": None}, fx.DTypeError, "axis must be one integer"),
        ((np.zeros(2), [0, 0]), {"axis": None}, fx.ShapeError, r"shape \(N, C\)"),
        ((np.zeros((2, 3)), [0, 0]), {"num_threads": 0}, fx.OptionError, "num_threads"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, error, words):
    with pytest.raises(error, match=words):
        softmax_gradient_hessian(*arguments, **options)


def test_logistic_refuses_rows_of_classes():
    with pytest.raises(fx.ShapeError, match="softmax_gradient_hessian"):
        logistic_gradient_hessian(np.zeros((2, 3)), [0, 1])


def test_out_must_not_share_memory():
    x, hess = np.zeros((4, 3)), np.zeros((4, 3))
    for out, words in (
        ((hess, x), "raw_scores"),
        ((hess, hess), "the gradient's array"),
        ((hess, np.zeros((4, 3), np.float32)), "float64"),
        ((hess, np.zeros((3, 4))), r"\(4, 3\)"),
        ((x[::-1], hess), "overlaps raw_scores"),
    ):
        with pytest.raises(fx.FastxentError, match=words):
            softmax_gradient_hessian(x, [0, 1, 2, 0], out=out)


def test_no_rows():
    for result in softmax_gradient_hessian(np.zeros((0, 3)), np.zeros(0)):
        assert result.shape == (0, 3)
    for result in logistic_gradient_hessian(np.zeros(0), np.zeros(0)):
        assert result.shape == (0,)


# --- what objectives keep from round to round


def many_scores(order="C"):
    """So many that the memory of the results is worth keeping."""
    x = np.random.default_rng(0).normal(size=(40_000, 5))
    return np.asarray(x, order=order), np.arange(40_000) % 5


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_is_used_again_only_when_nobody_has_it(order):
    x, labels = many_scores(order)
    objective = XGBoostObjective()
    grad, hess = objective(labels, x)
    assert grad.flags.c_contiguous == (order == "C")
    kept, kept_hess = grad.copy(order="K"), hess.copy(order="K")
    view = hess.ravel(order="K")[5:]  # keeps the memory of both
    del grad, hess
    again = objective(labels, x + 1)
    assert not np.shares_memory(again[1], view)
    assert np.array_equal(view, kept_hess.ravel(order="K")[5:])
    place = again[0].ctypes.data
    del again, view
    third = objective(labels, x)
    assert third[0].ctypes.data == place
    assert np.array_equal(third[0], kept)
    assert np.array_equal(third[1], kept_hess)


def test_threads_may_share_an_objective():
    x, labels = many_scores()
    objective = XGBoostObjective(num_threads=1)
    expected = [softmax_gradient_hessian(x * i, labels, hessian="xgboost") for i in (1, 2)]
    wrong = []

    def work(i):
        for _ in range(20):
            found = objective(labels, x * i)
            if not np.array_equal(found, expected[i - 1]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", [n for n in boosting.__all__ if n.endswith(("Metric", "tive"))])
def test_objects_survive_pickling_with_their_options(name):
    cls = getattr(boosting, name)
    options = {"num_threads": 1, "backend": "numpy"} if not name.startswith("CatBoost") else {}
    if name.endswith("Metric"):
        options["kind"] = "error_rate"
    elif options:
        options["hessian"] = "xgboost-distance"
    one = cls(**options)
    if options and name.endswith("Objective"):
        one(np.array([0.0, 1.0]), np.zeros((2, 2)))
        assert len(pickle.dumps(one)) < 300  # what it keeps from round to round stays behind
    other = pickle.loads(pickle.dumps(one))
    assert type(other) is cls
    for option, value in options.items():
        assert getattr(other, option) == value
