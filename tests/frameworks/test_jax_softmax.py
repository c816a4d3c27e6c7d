"""fastxent.jax.softmax, log_softmax and logsumexp, against NumPy's API and jax.nn."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

jnp = jax.numpy
from jax.test_util import check_grads  # noqa: E402

import fastxent  # noqa: E402
import fastxent.jax as fj  # noqa: E402

NAMES = ("softmax", "log_softmax", "logsumexp")
PEERS = {name: getattr(jax.nn, name) for name in NAMES}
PEERS["logsumexp"] = lambda x, axis=-1: jax.nn.logsumexp(x, axis=axis)
RNG = np.random.default_rng(2)
X = 3 * RNG.normal(size=(4, 6, 5))


@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 2), None], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_numpy(name, axis):
    x = X.astype(np.float32)
    got = jax.jit(lambda x: getattr(fj, name)(x, axis))(x)
    expected = getattr(fastxent, name)(x, axis)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_both_modes_and_of_second_order(name):
    with jax.enable_x64(True):
        check_grads(jax.jit(lambda x: getattr(fj, name)(x, 1)), (X,), order=2, rtol=1e-5)
        weights = RNG.normal(size=PEERS[name](X, 1).shape)
        got = jax.jit(jax.grad(lambda x: (weights * getattr(fj, name)(x, 1)).sum()))(X)
        expected = jax.jit(jax.grad(lambda x: (weights * PEERS[name](x, 1)).sum()))(X)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_a_loop(name):
    x = jnp.asarray(X, jnp.float32)
    got = jax.jit(jax.vmap(lambda row: getattr(fj, name)(row, 0), in_axes=1))(x)
    expected = jnp.stack([getattr(fj, name)(x[:, i], 0) for i in range(x.shape[1])])
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name, dtype):
    x = jnp.asarray(X, dtype)
    got = getattr(fj, name)(x)
    assert got.dtype == (jnp.float32 if name == "logsumexp" else x.dtype)
    expected = PEERS[name](jnp.asarray(x, jnp.float32))
    eps = 1e-6 if name == "logsumexp" else float(jnp.finfo(dtype).eps)
    least = float(jnp.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(np.asarray(got, np.float32), expected, rtol=eps, atol=least)
    grad = jax.grad(lambda x: getattr(fj, name)(x).astype(jnp.float32)[..., 0].sum())(x)
    truth = jax.grad(lambda x: PEERS[name](x)[..., 0].sum())(jnp.asarray(x, jnp.float32))
    assert grad.dtype == x.dtype
    error = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(grad, np.float32), truth, atol=error)


def test_infinities_are_those_of_numpy():
    inf, nan = np.inf, np.nan
    x = np.array(
        [[1, -inf, 2], [-inf, -inf, -inf], [1, inf, 2], [inf, nan, 0], [nan, 0, 1], [0, 0, 0]],
        np.float32,
    )
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        for layout in (x, np.asfortranarray(x.T)):
            given, axis = jnp.asarray(layout, dtype), 1 if layout is x else 0
            got = fj.logsumexp(given, axis)
            expected = fastxent.logsumexp(x)
            np.testing.assert_allclose(got, expected, rtol=1e-6)
            has_nan = jnp.isnan(fj.softmax(given, axis)).any(axis)
            np.testing.assert_array_equal(has_nan, [0, 1, 1, 1, 1, 0])


def test_a_bad_axis_is_an_error():
    with pytest.raises(fastxent.ShapeError, match="axis 3 is out of range"):
        fj.softmax(jnp.zeros((2, 3)), 3)
    with pytest.raises(fastxent.DTypeError, match=r"int(32|64): integers"):
        fj.logsumexp(jnp.zeros(3, int))
