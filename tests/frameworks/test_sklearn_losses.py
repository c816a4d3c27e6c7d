"""MultinomialLoss and BinomialLoss beside scikit-learn's own, method by method."""

import itertools
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss

from fastxent.sklearn import BinomialLoss, MultinomialLoss

ROWS = 211
METHODS = {
    "loss": ("loss_out",),
    "gradient": ("gradient_out",),
    "loss_gradient": ("loss_out", "gradient_out"),
    "gradient_hessian": ("gradient_out", "hessian_out"),
    "gradient_proba": ("gradient_out", "proba_out"),
}
# Eight times the spacing of numbers at 1; scores reach 20, and losses are as large.
TOLERANCE = {"float32": 1e-6, "float64": 2e-15}
LARGEST = 20.0


def case(classes, dtype, order="C", weighted=False, seed=0):
    """Our loss, theirs, and the arguments for both, none of which may be written to."""
    rng = np.random.default_rng(seed)
    shape = ROWS if classes == 2 else (ROWS, classes)
    raw = np.asarray(np.clip(rng.normal(0, 6, shape), -LARGEST, LARGEST), dtype, order=order)
    y_true = (rng.random(ROWS) if classes == 2 else rng.integers(0, classes, ROWS)).astype(dtype)
    arguments = {
        "y_true": y_true,
        "raw_prediction": raw,
        "sample_weight": rng.random(ROWS).astype(dtype) if weighted else None,
    }
    for array in arguments.values():
        if array is not None:
            array.setflags(write=False)
    if classes == 2:
        return BinomialLoss(), HalfBinomialLoss(), arguments
    losses = MultinomialLoss(n_classes=classes), HalfMultinomialLoss(n_classes=classes)
    return *losses, arguments


def called(loss, method, arguments, **more):
    result = getattr(loss, method)(**arguments, **more)
    return result if isinstance(result, tuple) else (result,)


def outputs(method, raw, dtype, order):
    shapes = {name: ROWS if name == "loss_out" else raw.shape for name in METHODS[method]}
    return {name: np.full(shape, np.nan, dtype, order=order) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("classes", "method"),
    [
        (classes, method)
        for classes, method in itertools.product((2, 3, 40, 130), METHODS)
        if classes > 2 or method != "gradient_proba"
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_method_gives_what_scikit_learns_gives(classes, method, weighted):
    for dtype, order, out_dtype in itertools.product(
        ("float32", "float64"), "CF", (None, "float32", "float64")
    ):
        ours, theirs, arguments = case(classes, dtype, order, weighted)
        raw = arguments["raw_prediction"]
        into = {} if out_dtype is None else outputs(method, raw, out_dtype, order)
        expected_into = {name: array.copy(order="K") for name, array in into.items()}
        found = called(ours, method, arguments, **into)
        expected = called(theirs, method, arguments, **expected_into)
        narrow = "float32" in (dtype, out_dtype)
        tolerance = LARGEST * TOLERANCE["float32" if narrow else "float64"]
        assert len(found) == len(expected)
        for name, array, truth in zip(METHODS[method], found, expected, strict=True):
            assert array is into.get(name, array)
            assert array.dtype == truth.dtype
            assert array.flags.f_contiguous == truth.flags.f_contiguous
            scale = 1 if name == "loss_out" else 1 / LARGEST
            np.testing.assert_allclose(array, truth, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("stored", ["float32", "float64", "int64", "uint8", "bool"])
def test_targets_of_any_dtype(classes, stored):
    ours, _, arguments = case(classes, "float32", weighted=True)
    y_true = (arguments["y_true"] > 0.5).astype(stored) if classes == 2 else None
    if y_true is None:
        y_true = (arguments["y_true"] % (2 if stored == "bool" else 5)).astype(stored)
    arguments["y_true"] = y_true.astype("float32")
    expected = called(ours, "loss_gradient", arguments)
    if classes > 2 and stored == "bool":
        with pytest.raises(TypeError, match="y_true has dtype bool"):
            called(ours, "loss_gradient", {**arguments, "y_true": y_true})
        return
    found = called(ours, "loss_gradient", {**arguments, "y_true": y_true})
    for array, truth in zip(found, expected, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, truth)


@pytest.mark.parametrize("classes", [2, 3, 130])
@pytest.mark.parametrize("out_dtype", ["float32", "float64"])
def test_threads_change_no_bit(classes, out_dtype):
    rng = np.random.default_rng(3)
    shape = (300_000,) if classes == 2 else (300_000 // classes, classes)
    raw = rng.normal(0, 3, shape)
    y_true = rng.integers(0, classes, len(raw)).astype("float64")
    weight = rng.random(len(raw))
    loss = BinomialLoss() if classes == 2 else MultinomialLoss(n_classes=classes)
    results = [
        loss.gradient_hessian(
            y_true, raw, weight, gradient_out=np.empty(shape, out_dtype), n_threads=n_threads
        )
        for n_threads in (1, 2, 5)
    ]
    for gradient, hessian in results[1:]:
        np.testing.assert_array_equal(gradient, results[0][0])
        np.testing.assert_array_equal(hessian, results[0][1])
    # many blocks of scratch, where the results are narrower: the same as no scratch at all
    whole = loss.gradient_hessian(y_true, raw, weight)
    for found, truth in zip(results[0], whole, strict=True):
        np.testing.assert_array_equal(found, truth.astype(out_dtype))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("method", ["gradient", "loss_gradient", "gradient_hessian"])
def test_gradient_goes_over_the_scores(classes, method):
    ours, _, arguments = case(classes, "float64", weighted=True)
    expected = called(ours, method, arguments)
    raw = arguments["raw_prediction"].copy()
    found = called(ours, method, {**arguments, "raw_prediction": raw}, gradient_out=raw)
    assert any(array is raw for array in found)
    for array, truth in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, truth)


def test_any_layout_of_scores_and_results():
    ours, _, arguments = case(6, "float64", weighted=True)
    raw = arguments["raw_prediction"]
    expected = called(ours, "gradient_hessian", arguments)
    strided = np.zeros((2 * ROWS, 12))[::2, ::-2]
    strided[...] = raw
    into = np.zeros((12, 2 * ROWS)).T[::-2, 1::2]
    gradient, hessian = ours.gradient_hessian(
        arguments["y_true"], strided, arguments["sample_weight"], gradient_out=into
    )
    assert gradient is into
    np.testing.assert_array_equal(gradient, expected[0])
    np.testing.assert_array_equal(hessian, expected[1])
    swapped = raw.astype(">f8")
    for array, truth in zip(
        called(ours, "gradient_hessian", {**arguments, "raw_prediction": swapped}),
        expected,
        strict=True,
    ):
        assert array.dtype.isnative
        np.testing.assert_array_equal(array, truth)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_pass_over_the_scores(classes, weighted, dtype):
    ours, theirs, arguments = case(classes, dtype, weighted=weighted)
    y_true, raw, weight = arguments.values()
    close = {"rtol": 0, "atol": LARGEST * TOLERANCE[dtype]}
    np.testing.assert_allclose(ours(**arguments), theirs(**arguments), **close)
    for method in ("fit_intercept_only", "constant_to_optimal_zero"):
        found = getattr(ours, method)(y_true=y_true, sample_weight=weight)
        np.testing.assert_array_equal(found, getattr(theirs, method)(y_true, weight))
    proba = ours.predict_proba(raw)
    assert proba.dtype == dtype
    np.testing.assert_allclose(proba, theirs.predict_proba(raw), rtol=0, atol=TOLERANCE[dtype])
    for order in "CF":
        pair = ours.init_gradient_and_hessian(7, dtype=np.dtype(dtype).type, order=order)
        their_pair = theirs.init_gradient_and_hessian(7, dtype=np.dtype(dtype).type, order=order)
        for array, truth in zip(pair, their_pair, strict=True):
            assert (array.shape, array.dtype) == (truth.shape, truth.dtype)
            assert array.flags.f_contiguous == truth.flags.f_contiguous
    for name in (
        *("n_classes", "is_multiclass", "differentiable", "approx_hessian", "constant_hessian"),
        *("interval_y_true", "interval_y_pred"),
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert type(ours.link) is type(theirs.link)
    assert ours.in_y_true_range(y_true)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.gradient(**arguments), ours.gradient(**arguments))


def test_one_column_of_scores_is_a_vector():
    ours, _, arguments = case(2, "float64")
    loss, gradient = called(ours, "loss_gradient", arguments)
    column = arguments["raw_prediction"][:, None]
    into = np.empty_like(column)
    found = ours.loss_gradient(arguments["y_true"], column, gradient_out=into)
    np.testing.assert_array_equal(found[0], loss)
    np.testing.assert_array_equal(into[:, 0], gradient)
    theirs = HalfBinomialLoss().loss_gradient(arguments["y_true"], column, gradient_out=into.copy())
    assert found[1].shape == theirs[1].shape == gradient.shape
    vector = arguments["raw_prediction"]
    np.testing.assert_array_equal(ours.predict_proba(column), ours.predict_proba(vector))


def test_a_score_of_minus_infinity_excludes_its_class():
    raw = np.array([[0.0, -np.inf, 0.0], [1.0, 1.0, -np.inf]])
    loss = MultinomialLoss(n_classes=3)
    gradient, proba = loss.gradient_proba(np.array([0.0, 1.0]), raw, sample_weight=[2.0, 0.5])
    np.testing.assert_allclose(proba, [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], atol=1e-15)
    np.testing.assert_allclose(gradient, [[-1.0, 0.0, 1.0], [0.25, -0.25, 0.0]], atol=1e-15)
    assert loss.loss(np.array([2.0]), raw[1:]).tolist() == [np.inf]


def test_nothing_is_nothing():
    loss = MultinomialLoss(n_classes=3)
    losses, gradient = loss.loss_gradient(np.empty(0), np.empty((0, 3)))
    assert losses.shape == (0,)
    assert gradient.shape == (0, 3)
    losses, gradient = BinomialLoss().loss_gradient(np.empty(0), np.empty(0))
    assert losses.shape == gradient.shape == (0,)
