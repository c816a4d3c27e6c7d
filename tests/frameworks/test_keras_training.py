"""Models that train with the losses of fastxent.keras: the curves of Keras's own losses."""

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    tf = pytest.importorskip("tensorflow", reason="Keras's backend, TensorFlow, is not installed")
fxk = pytest.importorskip("fastxent.keras")
if BACKEND == "numpy":
    pytest.skip("Keras cannot train on NumPy", allow_module_level=True)

# Keras calls NumPy as it was before 2.0 when it loads a model
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SPARSE, SOFT = "SparseCategoricalCrossentropy", "CategoricalCrossentropy"


def digits():
    X, y = datasets.load_digits(return_X_y=True)
    return (X[:512] / 16).astype(np.float32), y[:512]


def curve(loss, y, epochs=4, sample_weight=None, **compiled):
    """Losses of the epochs, and the last loss that `evaluate` gives."""
    keras.utils.set_random_seed(0)
    X, _ = digits()
    model = keras.Sequential(
        [keras.layers.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss=loss, **compiled)
    options = {"batch_size": 100, "verbose": 0, "sample_weight": sample_weight}
    history = model.fit(X, y, epochs=epochs, shuffle=False, **options)  # the last batch has 12 rows
    return [*history.history["loss"], model.evaluate(X, y, **options)]


def targets_of(name):
    _, y = digits()
    return y if name == SPARSE else np.eye(10, dtype=np.float32)[y]


@pytest.mark.parametrize("name", [SPARSE, SOFT])
@pytest.mark.parametrize("weighted", [False, True])
def test_digits(name, weighted):
    y = targets_of(name)
    weights = np.random.default_rng(0).random(len(y)).astype(np.float32) if weighted else None
    options = {} if name == SPARSE else {"label_smoothing": 0.1}
    curves = [
        curve(getattr(place, name)(from_logits=True, **options), y, sample_weight=weights)
        for place in (fxk, keras.losses)
    ]
    assert curves[0][-1] < 0.8 * curves[0][0], "the model learns"
    np.testing.assert_allclose(*curves, rtol=1e-4)


def test_ignore_class_trains():
    y = targets_of(SPARSE).copy()
    y[::7] = -1
    curves = [
        curve(getattr(place, SPARSE)(from_logits=True, ignore_class=-1), y)
        for place in (fxk, keras.losses)
    ]
    np.testing.assert_allclose(*curves, rtol=1e-4)


@pytest.mark.skipif(BACKEND == "jax", reason="Keras on JAX has no eager training step to speak of")
def test_eager_steps():
    y = targets_of(SPARSE)
    curves = [
        curve(getattr(place, SPARSE)(from_logits=True), y, epochs=1, run_eagerly=True)
        for place in (fxk, keras.losses)
    ]
    np.testing.assert_allclose(*curves, rtol=1e-4)


def test_a_saved_model_keeps_its_loss(tmp_path):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    loss = fxk.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    model.compile(optimizer="sgd", loss=loss)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.loss) is fxk.SparseCategoricalCrossentropy
    assert again.loss.get_config() == loss.get_config()
    X, y = np.ones((5, 4), np.float32), np.arange(5) % 3
    assert again.evaluate(X, y, verbose=0) == pytest.approx(model.evaluate(X, y, verbose=0))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
class TestTensorFlow:
    def test_dataset_of_unknown_batches(self):
        X, y = digits()
        model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(10)])
        model.compile(loss=fxk.SparseCategoricalCrossentropy(from_logits=True))
        data = tf.data.Dataset.from_tensor_slices((X, y)).batch(100)
        assert data.element_spec[0].shape[0] is None
        history = model.fit(data, epochs=2, verbose=0, shuffle=False)
        assert history.history["loss"][1] < history.history["loss"][0]

    def test_xla_is_refused(self):
        with pytest.raises(ValueError, match=r"jit_compile=False \(for a Keras model"):
            curve(
                fxk.SparseCategoricalCrossentropy(from_logits=True),
                targets_of(SPARSE),
                epochs=1,
                jit_compile=True,
            )

    def test_a_bad_label_is_an_error_of_the_step(self):
        y = targets_of(SPARSE).copy()
        y[17] = 10
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"target\[17\] is 10"):
            curve(fxk.SparseCategoricalCrossentropy(from_logits=True), y, epochs=1)
