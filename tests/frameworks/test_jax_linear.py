"""fastxent.jax.linear_cross_entropy over options, dtypes and chunks, against float64."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

jnp = jax.numpy

import fastxent  # noqa: E402
import fastxent.jax as fj  # noqa: E402

ROWS, FEATURES, CLASSES = 37, 11, 53
OPTIONS = {
    "plain": {},
    "weight, smoothing": {"weight": True, "label_smoothing": 0.3},
    "sum": {"reduction": "sum", "sample_weight": True},
    "none": {"reduction": "none", "sample_weight": True, "weight": True},
    "normalizer, z_loss": {"normalizer": 7.0, "z_loss": 0.01, "weight": True},
    "softcap": {"softcap": 3.0, "logit_scale": 1.5, "label_smoothing": 0.1},
}
# Errors of a naive computation, times a few: products of 11 terms, gradients in the storage dtype.
TOLERANCE = {"float32": 3e-6, "bfloat16": 8e-3, "float16": 1e-3}


@pytest.fixture(autouse=True, scope="module")
def compiled_sooner():
    """Without LLVM's optimizations: compiling takes nearly all of the time here."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def arrays(dtype="float32", hard=True, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,)
    given = tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    if hard:
        target = rng.integers(0, CLASSES, ROWS).astype(np.int32)
        target[::5] = -100
    else:
        target = rng.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
    return given, target


def call(options):
    rng = np.random.default_rng(7)
    weights = {"weight": (0.5, CLASSES), "sample_weight": (0.1, ROWS)}
    return options | {
        name: rng.uniform(least, 2, size).astype(np.float32)
        for name, (least, size) in weights.items()
        if name in options
    }


def truth(given, target, options):
    hidden, matrix, bias = (np.asarray(array, np.float64) for array in given)
    aux = ("target_grad",) if target.ndim == 2 else ()
    logits = hidden @ matrix.T + bias
    loss, grad, *asides = fastxent.cross_entropy_and_grad(logits, target, aux=aux, **options)
    grads = [grad @ matrix, grad.T @ hidden, grad.sum(0)]
    return loss, *grads, *(aside.target_grad for aside in asides)


def close(found, expected, tolerance):
    found = np.asarray(found, np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("hard", [True, False], ids=["labels", "probabilities"])
@pytest.mark.parametrize(
    ("name", "budget"),
    [*((name, 20000) for name in OPTIONS), ("none", None)],
)
def test_loss_and_gradients_are_those_of_float64(name, budget, hard):
    given, target = arrays(hard=hard)
    options = call(OPTIONS[name])

    def total(hidden, matrix, bias, target):
        loss = fj.linear_cross_entropy(
            hidden, matrix, target, linear_bias=bias, memory_budget=budget, **options
        )
        return loss.sum(), loss

    places = (0, 1, 2) if hard else (0, 1, 2, 3)
    step = jax.jit(jax.value_and_grad(total, places, has_aux=True))
    (_, loss), grads = step(*given, target)
    for found, expected in zip((loss, *grads), truth(given, target, options), strict=True):
        close(found, expected, TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("dtype", "hard", "budget"),
    [
        ("bfloat16", True, 22000),
        ("bfloat16", False, 22000),
        ("bfloat16", True, None),
        ("float16", False, 22000),
    ],
)
def test_half_precision_is_added_up_in_float32(dtype, hard, budget):
    given, target = arrays(dtype, hard)
    options = call({"label_smoothing": 0.1, "weight": True, "z_loss": 0.01, "softcap": 4.0})

    def loss_of(hidden, matrix, bias):
        return fj.linear_cross_entropy(
            hidden, matrix, target, linear_bias=bias, memory_budget=budget, **options
        )

    loss, grads = jax.jit(jax.value_and_grad(loss_of, (0, 1, 2)))(*given)
    assert loss.dtype == jnp.float32
    expected = truth(given, target, options)
    close(loss, expected[0], TOLERANCE["float32"])
    for found, like, right in zip(grads, given, expected[1:], strict=False):
        assert found.dtype == like.dtype
        close(found, right, TOLERANCE[dtype])


@pytest.mark.parametrize("axis", [0, 1])
def test_features_along_any_axis(axis):
    rng = np.random.default_rng(3)
    hidden = jnp.asarray(rng.normal(size=(4, 5, 6)), jnp.float32)
    matrix = jnp.asarray(rng.normal(size=(7, hidden.shape[axis])), jnp.float32)
    target = rng.integers(0, 7, np.delete(hidden.shape, axis))
    moved = jnp.moveaxis(hidden, axis, -1)

    def loss(hidden, axis):
        return fj.linear_cross_entropy(hidden, matrix, target, axis=axis, reduction="none")

    def step(hidden, axis):
        both = jax.value_and_grad(lambda x: (lambda v: (v.sum(), v))(loss(x, axis)), has_aux=True)
        return jax.jit(both)(hidden)

    ((_, value), grad), ((_, rows), expected) = step(hidden, axis), step(moved, -1)
    np.testing.assert_allclose(value, rows, rtol=1e-6)
    np.testing.assert_allclose(jnp.moveaxis(grad, axis, -1), expected, rtol=1e-5, atol=1e-6)


def test_float64_where_it_is_enabled():
    with jax.enable_x64(True):
        given, target = arrays("float64")
        options = call({"weight": True, "sample_weight": True})

        def loss_of(*given):
            return fj.linear_cross_entropy(
                *given[:2], target, linear_bias=given[2], memory_budget=40000, **options
            )

        loss, grads = jax.jit(jax.value_and_grad(loss_of, (0, 1, 2)))(*given)
        for found, expected in zip((loss, *grads), truth(given, target, options), strict=True):
            close(found, expected, 1e-14)


@pytest.mark.parametrize("rows_ignored", [slice(None), slice(0, 5)])
def test_ignored_rows_are_never_read(rows_ignored):
    given, target = arrays()
    target[rows_ignored] = -100
    hidden = given[0].at[rows_ignored].set(jnp.nan)

    def loss_of(hidden, matrix):
        return fj.linear_cross_entropy(hidden, matrix, target, memory_budget=20000)

    step = jax.jit(jax.value_and_grad(loss_of, (0, 1)))
    loss, grads = step(hidden, given[1])
    expected, right = step(given[0], given[1])
    np.testing.assert_array_equal(loss, expected)
    for found, one in zip(grads, right, strict=True):
        np.testing.assert_array_equal(found, one)


@pytest.mark.parametrize(
    ("dtype", "budget"), [("float32", None), ("float32", 200000), ("bfloat16", 200000)]
)
def test_a_filter_leaves_out_no_more_than_its_bound(dtype, budget):
    rng, classes, least = np.random.default_rng(1), 500, 1e-3
    hidden = jnp.asarray(rng.normal(size=(ROWS, FEATURES)), dtype)
    matrix = jnp.asarray(rng.normal(size=(classes, FEATURES)) / 8, dtype)
    bias = jnp.zeros(classes, dtype).at[200:205].set(9)  # nearly all of the probability
    target = rng.integers(200, 205, ROWS)
    target[:4] = -100

    def grads_of(size):
        def loss(*given):
            return fj.linear_cross_entropy(
                *given[:2], target, linear_bias=given[2], grad_filter=size, memory_budget=budget
            )

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(hidden, matrix, bias)

    (loss, found), (same, exact) = grads_of(least), grads_of(None)
    assert loss == same
    wide = [np.asarray(array, np.float64) for array in (hidden, matrix)]
    factor = (target >= 0) / (target >= 0).sum()
    bounds = (
        least * factor * np.linalg.norm(wide[1], axis=1).sum(),
        least * (factor * np.linalg.norm(wide[0], axis=1)).sum(),
        least * factor.sum(),
    )
    rounding = 2.0**-7 if dtype == "bfloat16" else 1e-6
    for one, other, bound in zip(found, exact, bounds, strict=True):
        one, other = (np.asarray(array, np.float64) for array in (one, other))
        slack = np.reshape(bound, (-1,) + (1,) * (one.ndim - 1))
        assert (np.abs(one - other) <= slack + rounding * np.abs(other).max()).all()
    if dtype == "float32":  # blocks of 128 are kept, all others left out
        assert (np.asarray(found[1]) == 0).all(axis=1).sum() >= 500 - 128
        assert not (np.asarray(exact[1]) == 0).all(axis=1).any()
