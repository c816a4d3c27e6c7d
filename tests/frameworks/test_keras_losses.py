"""The losses of fastxent.keras beside those of keras.losses, on the backend that Keras runs on."""

import inspect

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
if keras.backend.backend() == "tensorflow":
    pytest.importorskip("tensorflow", reason="Keras's backend, TensorFlow, is not installed")
fxk = pytest.importorskip("fastxent.keras")

import fastxent as fx  # noqa: E402

# Keras on PyTorch reads arrays through an interface that NumPy 2 wants more of
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

NAMES = ["CategoricalCrossentropy", "SparseCategoricalCrossentropy"]
REDUCTIONS = ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None]


def pair(name, **options):
    return [getattr(place, name)(from_logits=True, **options) for place in (fxk, keras.losses)]


def data(name, shape=(4, 3, 5), seed=0):
    rng = np.random.default_rng(seed)
    y_pred = rng.normal(scale=3.0, size=shape).astype(np.float32)
    if name == "SparseCategoricalCrossentropy":
        return rng.integers(0, shape[-1], shape[:-1]), y_pred
    y_true = rng.random(shape).astype(np.float32)
    return y_true / y_true.sum(-1, keepdims=True), y_pred


def assert_same(ours, theirs, *arguments, **more):
    actual, expected = ours(*arguments, **more), theirs(*arguments, **more)
    assert keras.backend.standardize_dtype(actual.dtype) == keras.backend.standardize_dtype(
        expected.dtype
    )
    assert tuple(actual.shape) == tuple(expected.shape)
    actual, expected = (keras.ops.convert_to_numpy(loss) for loss in (actual, expected))
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_keras(name):
    ours, theirs = (inspect.signature(getattr(place, name)) for place in (fxk, keras.losses))
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, (4,), (4, 3)], ids=str)
def test_reductions_and_sample_weights(name, reduction, weights):
    if weights == (4,):  # Keras multiplies (N, T) by weights of (N,) only where they broadcast
        y_true, y_pred = data(name, (4, 5))
    else:
        y_true, y_pred = data(name)
    sample_weight = None
    if weights is not None:
        sample_weight = np.random.default_rng(1).random(weights).astype(np.float32)
    assert_same(*pair(name, reduction=reduction), y_true, y_pred, sample_weight=sample_weight)


@pytest.mark.parametrize("name", NAMES)
def test_masks(name):
    y_true, y_pred = data(name)
    mask = np.random.default_rng(1).random((4, 3)) < 0.6
    results = []
    for loss in pair(name):
        masked = keras.ops.convert_to_tensor(y_pred)
        keras.src.backend.set_keras_mask(masked, keras.ops.convert_to_tensor(mask))
        results.append(float(loss(y_true, masked)))
    assert results[0] == pytest.approx(results[1], rel=2e-6)
    assert results[0] != pytest.approx(float(pair(name)[0](y_true, y_pred)), rel=1e-3)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_ranks(name, shape):
    y_true, y_pred = data(name, shape)
    assert_same(*pair(name, reduction=None), y_true, y_pred)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing(smoothing):
    y_true, y_pred = data("CategoricalCrossentropy")
    assert_same(*pair("CategoricalCrossentropy", label_smoothing=smoothing), y_true, y_pred)


@pytest.mark.parametrize("axis", [1, -2])
def test_axis(axis):
    y_true, y_pred = data("CategoricalCrossentropy")
    moved = [np.moveaxis(array, -1, axis) for array in (y_true, y_pred)]
    plain, _ = pair("CategoricalCrossentropy", reduction="none", label_smoothing=0.1)
    loss, _ = pair("CategoricalCrossentropy", reduction="none", label_smoothing=0.1, axis=axis)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loss(*moved)),
        keras.ops.convert_to_numpy(plain(y_true, y_pred)),
        rtol=1e-6,
    )
    labels, y_pred = data("SparseCategoricalCrossentropy")
    plain, _ = pair("SparseCategoricalCrossentropy", reduction="none")
    loss, _ = pair("SparseCategoricalCrossentropy", reduction="none", axis=axis)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loss(labels, np.moveaxis(y_pred, -1, axis))),
        keras.ops.convert_to_numpy(plain(labels, y_pred)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("ignored", [-1, 255, 2])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none"])
def test_ignore_class(ignored, reduction):
    y_true, y_pred = data("SparseCategoricalCrossentropy", (6, 5))
    y_true[[1, 4]] = ignored
    losses = pair("SparseCategoricalCrossentropy", ignore_class=ignored, reduction=reduction)
    assert_same(*losses, y_true, y_pred)
    weights = np.arange(6, dtype=np.float32)
    assert_same(*losses, y_true, y_pred, sample_weight=weights)


def test_labels_with_an_axis_of_one():
    y_true, y_pred = data("SparseCategoricalCrossentropy", (6, 5))
    assert_same(*pair("SparseCategoricalCrossentropy", reduction=None), y_true[:, None], y_pred)
    y_true, y_pred = data("CategoricalCrossentropy", (6, 5))
    ours, _ = pair("CategoricalCrossentropy")
    assert float(ours(y_true[..., None], y_pred)) == float(ours(y_true, y_pred))


@pytest.mark.parametrize("name", NAMES)
def test_dtype_is_that_of_the_computation(name):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is switched on")
    y_true, y_pred = data(name)
    assert_same(*pair(name, dtype="float64"), y_true, y_pred.astype(np.float64))
    ours, _ = pair(name, dtype="float16", reduction=None)
    theirs = pair(name, reduction=None)[1](y_true, y_pred.astype(np.float16))
    losses = ours(y_true, y_pred)
    assert keras.backend.standardize_dtype(losses.dtype) == "float16"
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(losses), keras.ops.convert_to_numpy(theirs), rtol=2e-3
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", [{}, {"from_logits": False}, {"from_logits": 1}])
def test_probabilities_are_refused(name, given):
    with pytest.raises(fx.FastxentError, match="from_logits=True"):
        getattr(fxk, name)(**given)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="label_smoothing"):
        fxk.CategoricalCrossentropy(from_logits=True, label_smoothing=1.5)
    with pytest.raises(TypeError, match="ignore_index"):
        fxk.SparseCategoricalCrossentropy(from_logits=True, ignore_class="a")
    with pytest.raises(ValueError, match="reduction"):
        fxk.SparseCategoricalCrossentropy(from_logits=True, reduction="median")


@pytest.mark.parametrize(("dtype", "classes"), [("float16", 2050), ("bfloat16", 258)])
def test_labels_that_the_dtype_would_merge_are_refused(dtype, classes):
    loss = fxk.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
    with pytest.raises(ValueError, match="pass dtype='float32'"):
        loss(np.array([classes - 1]), np.zeros((1, classes), np.float32))
    exact = loss(np.array([classes - 2]), np.zeros((1, classes - 1), np.float32))
    assert float(exact) == pytest.approx(np.log(classes - 1), rel=1e-2)


@pytest.mark.parametrize(
    "loss",
    [
        fxk.CategoricalCrossentropy(
            True, label_smoothing=0.1, axis=1, reduction="sum", name="a", dtype="float64"
        ),
        fxk.SparseCategoricalCrossentropy(
            True, ignore_class=3, axis=1, reduction="none", name="b", dtype="float64"
        ),
    ],
    ids=lambda loss: loss.name,
)
def test_serialisation(loss):
    config = loss.get_config()
    for again in (
        type(loss).from_config(config),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss)),
        keras.losses.deserialize(keras.losses.serialize(loss)),
    ):
        assert type(again) is type(loss)
        assert again.get_config() == config
        for attribute in ("axis", "reduction", "name", "dtype"):
            assert getattr(again, attribute) == getattr(loss, attribute)


def test_a_backend_without_adapter_is_refused(monkeypatch):
    loss = fxk.SparseCategoricalCrossentropy(from_logits=True)
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    with pytest.raises(fx.BackendError, match="set KERAS_BACKEND to one of tensorflow, torch"):
        loss(np.array([0]), np.zeros((1, 2)))


@pytest.mark.parametrize("label", [1.5, -0.25])
def test_labels_with_digits_after_the_point_are_refused(label):
    y_pred = np.zeros((3, 4), np.float32)
    loss = fxk.SparseCategoricalCrossentropy(from_logits=True)
    assert np.isclose(float(loss(np.array([0.0, 1.0, 3.0]), y_pred)), np.log(4))
    with pytest.raises(fx.LabelError, match=f"the label of row 1 is {label}: class indices"):
        loss(np.array([0.0, label, 3.0]), y_pred)


def test_an_integer_dtype_to_compute_in_is_refused():
    loss = fxk.SparseCategoricalCrossentropy(from_logits=True, dtype="int32")
    with pytest.raises(fx.DTypeError, match="int32 is none to compute in: pass dtype='float32'"):
        loss(np.array([0, 1]), np.zeros((2, 3), np.float32))
