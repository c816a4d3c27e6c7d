"""Derivatives of both modes and orders, and every transformation, against plain JAX."""

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")

jnp = jax.numpy
from jax.test_util import check_grads  # noqa: E402

import fastxent.jax as fj  # noqa: E402

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(5, 7))
LABELS = jnp.array([1, 6, 0, -100, 3])
SOFT = RNG.dirichlet(np.ones(7), 5)
WEIGHT = RNG.uniform(0.5, 2.0, 7)
ROW_WEIGHT = RNG.uniform(0.5, 2.0, 5)
EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 4.0, "logit_scale": 1.3}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def optax_mean(logits, labels):
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    counted = labels >= 0
    return jnp.where(counted, rows, 0).sum() / counted.sum()


@pytest.mark.parametrize(("reduction", "order"), [("mean", 2), ("sum", 1), ("none", 1)])
def test_derivatives_against_finite_differences(reduction, order):
    def of_all(logits, soft, weight, row_weight):
        given = {"weight": weight, "sample_weight": row_weight, "reduction": reduction}
        return fj.cross_entropy(logits, soft, **given, **EVERYTHING)

    def of_labels(logits, weight, row_weight, scale):
        given = {"weight": weight, "sample_weight": row_weight, "reduction": reduction}
        if reduction == "mean":
            given["normalizer"] = scale
        return fj.cross_entropy(logits, LABELS, **given, **EVERYTHING)

    check_grads(jax.jit(of_all), (LOGITS, SOFT, WEIGHT, ROW_WEIGHT), order=order, rtol=1e-5)
    check_grads(jax.jit(of_labels), (LOGITS, WEIGHT, ROW_WEIGHT, 3.0), order=order, rtol=1e-5)


def test_weights_in_the_denominator_are_differentiated():
    def ours(weight, row_weight):
        return fj.cross_entropy(LOGITS, LABELS, weight=weight, sample_weight=row_weight)

    def plain(weight, row_weight):
        counted, label = LABELS >= 0, jnp.maximum(LABELS, 0)
        rows = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), label)
        mass = jnp.where(counted, weight[label] * row_weight, 0)
        return (mass * rows).sum() / mass.sum()

    given = jnp.asarray(WEIGHT), jnp.asarray(ROW_WEIGHT)
    found, truth = jax.grad(ours, (0, 1))(*given), jax.grad(plain, (0, 1))(*given)
    for got, expected in zip(found, truth, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
        assert np.abs(expected).max() > 1e-3


def test_both_modes_agree_with_optax():
    direction = RNG.normal(size=LOGITS.shape)
    loss, tangent = jax.jit(
        lambda x, v: jax.jvp(lambda z: fj.cross_entropy(z, LABELS), (x,), (v,))
    )(LOGITS, direction)
    expected, grad = jax.value_and_grad(optax_mean)(jnp.asarray(LOGITS), LABELS)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(tangent, (grad * direction).sum(), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(fj.cross_entropy)(LOGITS, LABELS), grad, atol=1e-15)
    jacobian = jax.jacfwd(fj.cross_entropy)(jnp.asarray(LOGITS), LABELS)
    np.testing.assert_allclose(jacobian, grad, atol=1e-15)


def test_hessian_is_that_of_optax():
    got = jax.jit(jax.hessian(fj.cross_entropy))(jnp.asarray(LOGITS), LABELS)
    expected = jax.hessian(optax_mean)(jnp.asarray(LOGITS), LABELS)
    np.testing.assert_allclose(got, expected, atol=1e-14)
    assert np.abs(expected).max() > 1e-3
    twice = jax.jacrev(jax.jacrev(fj.cross_entropy))(jnp.asarray(LOGITS), LABELS)
    np.testing.assert_allclose(twice, expected, atol=1e-14)


def test_masked_classes_and_ignored_rows_have_clean_derivatives():
    logits = LOGITS.copy()
    logits[:, 4] = -np.inf
    logits[3] = np.nan
    loss, grad = jax.value_and_grad(fj.cross_entropy)(logits, LABELS, label_smoothing=0.0)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()
    assert not grad[3].any()
    product = jax.jvp(
        lambda x: jax.grad(fj.cross_entropy)(x, LABELS), (logits,), (np.ones_like(logits),)
    )[1]
    np.testing.assert_allclose(product, np.zeros_like(logits), atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("batched", ["logits", "labels", "weight", "sample_weight", "all"])
def test_vmap_is_a_loop(reduction, batched):
    size = {"logits": LOGITS.shape, "labels": (5,), "weight": (7,), "sample_weight": (5,)}
    given = {
        "logits": RNG.normal(size=(3, *size["logits"])),
        "labels": RNG.integers(0, 7, (3, 5)),
        "weight": RNG.uniform(0.5, 2, (3, 7)),
        "sample_weight": RNG.uniform(0.5, 2, (3, 5)),
    }
    given["labels"][1] = -100
    axes = {name: 0 if batched in (name, "all") else None for name in given}
    given = {name: values if axes[name] == 0 else values[0] for name, values in given.items()}

    def value(logits, labels, weight, sample_weight):
        options = {"weight": weight, "sample_weight": sample_weight, "label_smoothing": 0.1}
        loss = fj.cross_entropy(logits, labels, reduction=reduction, **options)
        return loss.sum(), loss

    function = jax.value_and_grad(value, has_aux=True)
    many = jax.jit(jax.vmap(function, tuple(axes.values())))(*given.values())
    for i in range(3):
        one = function(*(v[i] if axes[name] == 0 else v for name, v in given.items()))
        for of_many, of_one in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(of_many[i], of_one, rtol=1e-14, atol=1e-17)


def test_vmap_of_single_rows_is_one_pass():
    function = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(fj.cross_entropy))))
    logits, labels = RNG.normal(size=(4, 3, 6)), RNG.integers(0, 6, (4, 3))
    loss, grad = function(logits, labels)
    expected = jax.grad(lambda x: fj.cross_entropy(x, labels, reduction="none").sum())(logits)
    np.testing.assert_allclose(grad, expected, atol=1e-16)
    rows = fj.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(loss, rows, rtol=1e-14)
    assert function.lower(logits, labels).compile().as_text().count(" custom-call(") == 1


def test_scan_and_checkpoint():
    batches = RNG.normal(size=(4, 5, 3))
    labels = RNG.integers(0, 7, (4, 5))

    def train(loss_of, matrix):
        @jax.checkpoint
        def loss(matrix, batch):
            features, target = batch
            return loss_of(features @ matrix, target)

        def step(matrix, batch):
            value, grad = jax.value_and_grad(loss)(matrix, batch)
            return matrix - 0.5 * grad, value

        return jax.lax.scan(step, matrix, (batches, labels))

    start = jnp.asarray(RNG.normal(size=(3, 7)))
    got = jax.jit(functools.partial(train, fj.cross_entropy))(start)
    expected = jax.jit(functools.partial(train, optax_mean))(start)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)

    def through(loss_of, matrix):  # differentiated through the whole training
        return train(loss_of, matrix)[1].sum()

    got = jax.grad(functools.partial(through, fj.cross_entropy))(start)
    expected = jax.grad(functools.partial(through, optax_mean))(start)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_one_argument_leave_the_others_out():
    text = jax.jit(jax.grad(fj.cross_entropy)).lower(LOGITS, SOFT).compile().as_text()
    call = next(line for line in text.splitlines() if " custom-call(" in line)
    assert call.split(" custom-call(")[0].count("f64[5,7]") == 1  # no gradient of the target
