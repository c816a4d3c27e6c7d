"""fastxent.jax.cross_entropy over options, dtypes and axes, against NumPy's API and optax."""

import re

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")

jnp = jax.numpy

import fastxent  # noqa: E402
import fastxent.jax as fj  # noqa: E402
from fastxent.reference import cross_entropy as reference  # noqa: E402

OPTIONS = {
    "plain": {},
    "weight": {"weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "weight and smoothing": {"weight": True, "label_smoothing": 0.3},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "none weighted": {"reduction": "none", "sample_weight": True, "weight": True},
    "sample_weight": {"sample_weight": True, "weight": True},
    "normalizer": {"normalizer": 7.0},
    "z_loss": {"z_loss": 0.01, "weight": True},
    "softcap": {"softcap": 3.0, "logit_scale": 1.5},
}


def arrays(shape, axis, hard, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=shape)).astype(dtype)
    classes = shape[axis]
    rows = tuple(np.delete(shape, axis))
    if hard:
        target = rng.integers(0, classes, rows).astype(np.int32)
        target.reshape(-1)[::5] = -100
    else:
        target = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
        target = np.moveaxis(target, -1, axis)
    weight = rng.uniform(0.5, 2, classes).astype(np.float32)
    return logits, target, weight, rng.uniform(0.1, 2, rows).astype(np.float32)


def call(options, weight, row_weight):
    given = dict(options)
    if "weight" in given:
        given["weight"] = weight
    if "sample_weight" in given:
        given["sample_weight"] = row_weight
    return given


@pytest.mark.parametrize("hard", [True, False], ids=["labels", "probabilities"])
@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradients_are_those_of_numpy(name, hard):
    logits, target, weight, row_weight = arrays((6, 7, 5), 1, hard)
    options = call(OPTIONS[name], weight, row_weight)
    aux = () if hard else ("target_grad",)
    expected = fastxent.cross_entropy_and_grad(logits, target, axis=1, aux=aux, **options)

    def total(x, t):
        loss = fj.cross_entropy(x, t, axis=1, **options)
        return loss.sum(), loss

    places = 0 if hard else (0, 1)
    (_, loss), grads = jax.jit(jax.value_and_grad(total, places, has_aux=True))(logits, target)
    forward = jax.jit(lambda x, t: fj.cross_entropy(x, t, axis=1, **options))(logits, target)
    np.testing.assert_array_equal(loss, forward)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    grad = grads if hard else grads[0]
    np.testing.assert_allclose(grad, expected[1], rtol=1e-6, atol=1e-7)
    if not hard:
        np.testing.assert_allclose(grads[1], expected[2].target_grad, rtol=1e-6, atol=1e-7)


def test_plain_calls_give_the_bits_of_numpy():
    logits, target, *_ = arrays((65, 130), 1, True)
    loss, grad = jax.jit(jax.value_and_grad(fj.cross_entropy))(logits, target)
    expected = fastxent.cross_entropy_and_grad(logits, target)
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_any_axis_is_read_where_it_lies(axis):
    logits, target, *_ = arrays((3, 4, 5, 6), axis, True)
    value = jax.jit(jax.value_and_grad(lambda x: fj.cross_entropy(x, target, axis=axis)))
    loss, grad = value(logits)
    expected = fastxent.cross_entropy_and_grad(logits, target, axis=axis)
    np.testing.assert_allclose(loss, expected[0], rtol=2e-7)
    np.testing.assert_array_equal(grad, expected[1])
    assert "transpose" not in value.lower(logits).compile().as_text()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2), ("float16", 2e-3)]
)
def test_dtypes(dtype, tolerance):
    logits, target, *_ = arrays((40, 33), 1, True)
    logits = jnp.asarray(logits, dtype)
    loss, grad = jax.jit(jax.value_and_grad(fj.cross_entropy))(logits, target)
    assert loss.dtype == jnp.float32
    assert grad.dtype == logits.dtype
    wide = np.asarray(logits, np.float64)
    expected, truth = reference(wide, target), jax.grad(_optax)(jnp.asarray(wide), target)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    least = max(float(jnp.finfo(dtype).smallest_subnormal), 1e-8)
    np.testing.assert_allclose(np.asarray(grad, np.float64), truth, rtol=tolerance, atol=least)


def _optax(logits, target):
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(target, 0))
    return jnp.where(target >= 0, rows, 0).sum() / (target >= 0).sum()


def test_float64_where_it_is_enabled():
    logits, target, weight, row_weight = arrays((9, 300), 1, True, np.float64)
    with jax.enable_x64(True):
        weights = {"weight": weight, "sample_weight": row_weight, "label_smoothing": 0.1}
        loss, grad = jax.value_and_grad(lambda x: fj.cross_entropy(x, target, **weights))(logits)
        expected = fastxent.cross_entropy_and_grad(logits, target, **weights)
        assert loss.dtype == grad.dtype == np.float64
        np.testing.assert_allclose(loss, expected[0], rtol=1e-14)
        np.testing.assert_allclose(grad, expected[1], rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_label_dtypes(dtype):
    logits, target, *_ = arrays((20, 9), 1, True)
    ignored = -100 if np.issubdtype(dtype, np.signedinteger) else 9
    target = np.where(target < 0, ignored, target)
    loss = fj.cross_entropy(logits, jnp.asarray(target, dtype), ignore_index=ignored)
    np.testing.assert_allclose(
        loss, fastxent.cross_entropy(logits, target, ignore_index=ignored), rtol=2e-7
    )


def test_boolean_probabilities():
    logits, target, *_ = arrays((8, 5), 1, False)
    chosen = target > 0.2
    loss, grad = jax.value_and_grad(fj.cross_entropy)(jnp.asarray(logits), jnp.asarray(chosen))
    expected = fastxent.cross_entropy_and_grad(logits, chosen)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("all_ignored", "expected"), [("nan", np.nan), ("zero", 0.0)])
@pytest.mark.parametrize("rows", [0, 3])
def test_mean_of_nothing(all_ignored, expected, rows):
    logits = np.full((rows, 4), np.nan, np.float32)
    target = np.full(rows, -100)
    function = jax.jit(
        jax.value_and_grad(lambda x: fj.cross_entropy(x, target, all_ignored=all_ignored))
    )
    loss, grad = function(logits)
    np.testing.assert_array_equal(loss, np.float32(expected))
    np.testing.assert_array_equal(grad, np.zeros((rows, 4), np.float32))


@pytest.mark.parametrize("label", [7, 5, -3, 2**31 - 1])
def test_a_bad_label_is_named(label):
    target = jnp.array([1, 2, label, 3, 9])
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jax.jit(fj.cross_entropy)(jnp.zeros((5, 5)), target))
    message = str(caught.value)
    assert "INVALID_ARGUMENT" in message
    assert f"row 2 is {label}" in message
    assert "[0, 5) for C = 5" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": jnp.array([1.0, -2.0, 1.0])}, "weight holds -2 at place 1"),
        ({"sample_weight": jnp.array([1.0, jnp.nan])}, "sample_weight holds .*nan at place 1"),
        ({"normalizer": -1.0}, "normalizer must be finite and not negative, it is -1"),
    ],
)
def test_bad_numbers_are_errors_when_the_program_runs(options, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(fj.cross_entropy(jnp.zeros((2, 3)), jnp.array([0, 1]), **options))


@pytest.mark.parametrize(
    ("error", "arguments", "options", "message"),
    [
        (fastxent.DTypeError, (jnp.zeros((2, 3), int), jnp.zeros(2, int)), {}, "int32"),
        (fastxent.ShapeError, (jnp.zeros((2, 3)), jnp.zeros((2, 1), int)), {}, "drop the axis"),
        (fastxent.ShapeError, (jnp.zeros((2, 3)), jnp.zeros(2)), {}, "pass integers"),
        (fastxent.OptionError, (jnp.zeros((2, 3)), jnp.zeros(2, int)), {"reduction": "avg"}, "avg"),
        (fastxent.OptionError, (jnp.zeros((2, 3)),) * 2, {"ignore_index": 1}, "ignore_index = 1"),
        (
            fastxent.ShapeError,
            (jnp.zeros((2, 3)), jnp.zeros(2, int)),
            {"weight": jnp.ones(4)},
            "one weight a class",
        ),
        (
            fastxent.OptionError,
            (jnp.zeros((2, 3)), jnp.zeros(2, int)),
            {"reduction": "sum", "normalizer": 3},
            "needs reduction='mean'",
        ),
    ],
)
def test_bad_arguments_are_errors_when_the_function_is_traced(error, arguments, options, message):
    with pytest.raises(error, match=re.escape(message)):
        jax.jit(lambda *given: fj.cross_entropy(*given, **options)).lower(*arguments)


def test_traced_options_are_errors():
    function = jax.jit(lambda x, t, s: fj.cross_entropy(x, t, logit_scale=s))
    with pytest.raises(fastxent.DTypeError, match="logit_scale is a traced"):
        function(jnp.zeros((2, 3)), jnp.array([0, 1]), 2.0)
