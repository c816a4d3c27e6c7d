"""What fastxent.sklearn refuses, and how it says so; nothing is written before."""

import builtins
import importlib
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import fastxent
from fastxent.sklearn import BinomialLoss, MultinomialLoss, SoftmaxRegression

RAW = np.random.default_rng(0).normal(size=(4, 3))
SPREAD = np.broadcast_to(np.zeros(()), (4, 3))


def read_only(shape):
    array = np.zeros(shape)
    array.setflags(write=False)
    return array


def overlapping():
    memory = np.zeros((5, 3))
    return {"raw_prediction": memory[:4], "gradient_out": memory[1:]}


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"y_true": [0.0, 1.0, 1.5, 0.0]}, IndexError, r"y_true\[2\] is 1.5: a class index is a"),
        ({"y_true": [0.0, np.nan, 1.0, 0.0]}, IndexError, r"y_true\[1\] is nan"),
        ({"y_true": [0.0, 1.0, 2.0, 3e9]}, IndexError, r"y_true\[3\] is 3000000000.0"),
        ({"y_true": [0.0, 1.0, 3.0, 0.0]}, IndexError, r"target\[2\] is 3: it lies outside \[0, 3"),
        ({"y_true": [0.0, -1.0, 1.0, 0.0]}, IndexError, r"target\[1\] is -1"),
        ({"y_true": [0, -100, 1, 0]}, IndexError, r"target\[1\] is -100"),
        ({"y_true": [0.0, 1.0]}, ValueError, r"y_true needs shape \(4,\), one class index a row"),
        ({"y_true": np.zeros((4, 3))}, ValueError, r"y_true needs shape \(4,\)"),
        ({"y_true": ["a", "b", "c", "a"]}, TypeError, "y_true has dtype <U1: expected class indic"),
        ({"raw_prediction": RAW.astype("f2")}, TypeError, "raw_prediction has dtype float16"),
        ({"raw_prediction": RAW[0]}, ValueError, r"needs shape \(n_samples, n_classes\)"),
        ({"sample_weight": [1.0, 1.0]}, ValueError, r"sample_weight needs shape \(4,\)"),
        ({"sample_weight": [1.0, -1.0, 1.0, 1.0]}, ValueError, r"sample_weight\[1\] is -1.0"),
        ({"n_threads": 0}, ValueError, "n_threads must be at least 1"),
        ({"loss_out": np.zeros(3)}, ValueError, r"loss_out needs shape \(4,\)"),
        ({"loss_out": np.zeros(4, int)}, TypeError, "loss_out needs dtype float32 or float64"),
        ({"loss_out": [0.0] * 4}, TypeError, "loss_out must be a plain NumPy array, got list"),
        ({"gradient_out": read_only((4, 3))}, ValueError, "gradient_out is read-only"),
        ({"gradient_out": np.zeros((4, 2))}, ValueError, r"gradient_out needs shape \(4, 3\)"),
        ({"gradient_out": SPREAD}, ValueError, "gradient_out is read-only"),
        (overlapping(), ValueError, "gradient_out overlaps raw_prediction without being the same"),
    ],
)
def test_losses_of_classes(changed, kind, message):
    arguments = {"y_true": np.zeros(4), "raw_prediction": RAW, "loss_out": np.full(4, 7.0)}
    arguments |= {"gradient_out": np.full((4, 3), 7.0)} | changed
    with pytest.raises(fastxent.FastxentError, match=message) as caught:
        MultinomialLoss(n_classes=3).loss_gradient(**arguments)
    assert isinstance(caught.value, kind)
    for name in {"loss_out", "gradient_out"} - set(changed):
        assert (arguments[name] == 7.0).all()


def test_a_bad_label_far_down_is_found_before_anything_is_written():
    raw = np.zeros((50_000, 3))
    y_true = np.zeros(50_000)
    y_true[-1] = 3
    into = np.full(raw.shape, 7.0, "float32")
    with pytest.raises(fastxent.LabelError, match=r"target\[49999\] is 3"):
        MultinomialLoss(n_classes=3).gradient(y_true, raw, gradient_out=into)
    assert (into == 7.0).all()
    y_true[-1] = 2
    with pytest.raises(fastxent.LabelError, match=r"target\[49999\] is 2"):
        BinomialLoss().gradient(y_true.astype(int), raw[:, 0], gradient_out=into[:, 0])
    assert (into == 7.0).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"raw_prediction": RAW}, r"needs shape \(n_samples,\) or \(n_samples, 1\)"),
        ({"y_true": np.zeros(3)}, r"target needs shape \(4,\)"),
        ({"y_true": np.full(4, 2)}, r"target\[0\] is 2: integer targets are 0 or 1"),
        ({"sample_weight": np.full(4, np.inf)}, r"weight\[0\] is inf: weights must be finite"),
        ({"sample_weight": np.ones(1)}, r"sample_weight needs shape \(4,\), one weight a row"),
        ({"n_threads": -1}, "n_threads must be at least 1"),
        ({"gradient_out": np.zeros(5)}, r"gradient_out needs shape \(4,\)"),
    ],
)
def test_losses_of_two_classes(changed, message):
    arguments = {"y_true": np.zeros(4), "raw_prediction": RAW[:, 0]} | changed
    with pytest.raises(fastxent.FastxentError, match=message):
        BinomialLoss().loss_gradient(**arguments)


def test_results_have_memory_of_their_own():
    loss, raw, y_true, both = (
        MultinomialLoss(n_classes=3),
        RAW.copy(),
        np.zeros(4),
        np.zeros((4, 3)),
    )
    with pytest.raises(fastxent.OutputError, match="hessian_out shares memory with gradient_out"):
        loss.gradient_hessian(y_true, raw, gradient_out=both, hessian_out=both)
    with pytest.raises(fastxent.OutputError, match="only gradient_out may be written over it"):
        loss.gradient_hessian(y_true, raw, hessian_out=raw)
    with pytest.raises(fastxent.OutputError, match="only gradient_out may be written over it"):
        loss.gradient_proba(y_true, raw, proba_out=raw)
    with pytest.raises(fastxent.OutputError, match="loss_out shares memory with y_true"):
        loss.loss(y_true, raw, loss_out=y_true)
    weight = np.ones(4)
    with pytest.raises(fastxent.OutputError, match="loss_out shares memory with sample_weight"):
        loss.loss(y_true, raw, sample_weight=weight, loss_out=weight)


@pytest.mark.parametrize(
    ("parameters", "kind", "message"),
    [
        ({"C": 0.0}, ValueError, "C must be above 0"),
        ({"C": np.nan}, ValueError, "C must be above 0"),
        ({"C": "1"}, TypeError, "C must be one real number"),
        ({"tol": -1.0}, ValueError, "tol must be finite and not negative"),
        ({"max_iter": -1}, ValueError, "max_iter must not be negative"),
        ({"max_iter": 2.5}, TypeError, "max_iter must be an integer"),
        ({"verbose": -1}, ValueError, "verbose must not be negative"),
        ({"fit_intercept": "yes"}, TypeError, "fit_intercept must be True or False"),
        ({"warm_start": 1}, TypeError, "warm_start must be True or False"),
        ({"class_weight": "equal"}, ValueError, "class_weight must be None, 'balanced' or a dict"),
        ({"class_weight": {0: -1.0}}, ValueError, r"weight\[0\] is -1.0"),
        ({"class_weight": {0: 0.0, 1: 0.0}}, ValueError, "not all may be zero"),
        ({"n_threads": 0}, ValueError, "n_threads must be at least 1"),
    ],
)
def test_parameters_of_the_estimator(parameters, kind, message):
    with pytest.raises(fastxent.FastxentError, match=message) as caught:
        SoftmaxRegression(**parameters).fit(RAW, [0, 1, 0, 1])
    assert isinstance(caught.value, kind)


def test_data_that_cannot_be_learned_from():
    model = SoftmaxRegression()
    with pytest.raises(fastxent.OptionError, match="only one class: 'a'"):
        model.fit(RAW, ["a"] * 4)
    with pytest.raises(fastxent.OptionError, match=r"sample_weight\[3\] is -1.0"):
        model.fit(RAW, [0, 1, 0, 1], sample_weight=[1, 1, 1, -1])
    with pytest.raises(fastxent.ShapeError, match=r"sample_weight needs shape \(4,\)"):
        model.fit(RAW, [0, 1, 0, 1], sample_weight=[1, 1, 1])


def test_going_on_from_another_problem():
    model = SoftmaxRegression(warm_start=True).fit(RAW, [0, 1, 0, 1])
    with pytest.raises(
        fastxent.ShapeError, match=r"coef_, which has shape \(1, 3\): this fit need"
    ):
        model.fit(RAW, [0, 1, 2, 1])


def test_without_scikit_learn(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'")
        return real(name, *rest, **more)

    for name in [name for name in sys.modules if name.startswith("fastxent.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'fastxent\[sklearn\]'"):
        importlib.import_module("fastxent.sklearn")
