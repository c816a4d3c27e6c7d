"""How far off: against the whole computation in the same dtype; what the filter leaves out."""

import numpy as np
import pytest
from linear.needed import least_budget

import fastxent as fx
from fastxent import reference

N, D, C = 300, 64, 3000


def peaked(rng, hot=20):
    """Hidden vectors and weights of a model that has learned: few classes have nearly all mass."""
    hidden, weights = rng.normal(size=(N, D)), rng.normal(size=(C, D)) / D
    bias = np.where(np.arange(C) < hot, 12.0, 0.0)
    return hidden.astype("f4"), weights.astype("f4"), rng.integers(0, hot, N), bias.astype("f4")


def arrays(rng):
    hidden, weights = rng.normal(size=(N, D)), rng.normal(size=(C, D)) / 4
    bias = rng.normal(size=C)
    return hidden.astype("f4"), weights.astype("f4"), rng.integers(0, C, N), bias.astype("f4")


def naive(hidden, weights, target, bias):
    """All logits at once, in float32."""
    z = hidden @ weights.T + bias
    z -= z.max(axis=1, keepdims=True)
    exps = np.exp(z)
    sums = exps.sum(axis=1, keepdims=True)
    at = np.arange(N), target
    loss = np.float32(np.mean(np.log(sums[:, 0]) - z[at]))
    grad = exps / sums
    grad[at] -= 1
    grad /= np.float32(N)
    return loss, (grad @ weights, grad.T @ hidden, grad.sum(axis=0))


@pytest.mark.parametrize("rows", [1, 40, None])
@pytest.mark.parametrize("make", [arrays, peaked])
def test_errors_are_at_most_twice_those_of_the_whole_computation(make, rows):
    given = hidden, weights, target, bias = make(np.random.default_rng(0))
    truth, gradients = reference.linear_cross_entropy_and_grad(
        hidden, weights, target, linear_bias=bias
    )
    budget = None
    if rows is not None:
        least = least_budget(hidden, weights, target, linear_bias=bias)
        budget = least + (rows - 1) * (C + 3 * D) * 4
    loss, grads = fx.linear_cross_entropy_and_grad(
        hidden, weights, target, linear_bias=bias, memory_budget=budget
    )
    plain, of_plain = naive(*given)
    # half a unit in the last place is what rounding the result may cost anyway
    assert abs(loss - truth) <= 2 * abs(plain - truth) + np.spacing(np.float32(truth)) / 2
    for name, one, other in zip(grads._fields, grads, of_plain, strict=True):
        expected = getattr(gradients, name)
        error, least = (np.sqrt(np.mean((found - expected) ** 2)) for found in (one, other))
        assert error <= 2 * least, f"{name}: {error:.3g}, {least:.3g}"


@pytest.mark.parametrize("eps", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("scale", [None, "rows"])
def test_the_filter_keeps_its_bound(eps, scale):
    hidden, weights, target, bias = (
        one.astype(float) if one.dtype.kind == "f" else one
        for one in peaked(np.random.default_rng(2))
    )
    options = {"linear_bias": bias, "reduction": "sum"}
    factors = np.ones(N)
    if scale:
        factors = options["grad_output"] = np.linspace(-2, 2, N)
    budget = least_budget(hidden, weights, target, **options, grad_filter=eps) + 2_000_000
    options["memory_budget"] = budget
    _, exact = fx.linear_cross_entropy_and_grad(hidden, weights, target, **options)
    _, grads = fx.linear_cross_entropy_and_grad(hidden, weights, target, **options, grad_filter=eps)
    size = np.abs(factors)
    off = np.abs(grads.linear_weight - exact.linear_weight)
    assert np.all(off <= eps * (size[:, None] * np.abs(hidden)).sum(axis=0) + 1e-13)
    assert np.all(np.abs(grads.linear_bias - exact.linear_bias) <= eps * size.sum() + 1e-13)
    off = np.abs(grads.hidden - exact.hidden)
    assert np.all(off <= eps * size[:, None] * np.abs(weights).sum(axis=0) + 1e-13)
    assert np.abs(grads.linear_weight - exact.linear_weight).max() > 0  # something was left out
    probabilities = np.count_nonzero(grads.linear_weight.any(axis=1))
    assert probabilities < C


def test_a_filter_of_nothing_changes_no_bit():
    hidden, weights, target, bias = arrays(np.random.default_rng(3))
    _, exact = fx.linear_cross_entropy_and_grad(hidden, weights, target, linear_bias=bias)
    _, grads = fx.linear_cross_entropy_and_grad(
        hidden, weights, target, linear_bias=bias, grad_filter=0.0
    )
    assert all(np.array_equal(a, b) for a, b in zip(exact, grads, strict=True))


def test_a_nan_is_not_small():
    hidden, weights, target, _ = peaked(np.random.default_rng(4))
    weights = weights.copy()
    weights[7, 0] = np.nan
    _, grads = fx.linear_cross_entropy_and_grad(hidden, weights, target, grad_filter=1e-3)
    assert np.isnan(grads.hidden).all()
    assert np.isnan(grads.linear_weight).all()
