"""Hessian and probabilities beside the gradient, where the conformance suite does not look."""

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference
from fastxent.backends import load
from fastxent.backends.contract import BinaryOutputs, HessRule, Outputs
from fastxent.binary import BinaryProblem
from fastxent.problem import Problem

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in fx.backends().items()
    if name != "cuda" or reason is None  # tests/gpu/card says once that there is no card
]
RULES = [HessRule(), HessRule("product", 2.0, 1e-3), HessRule("distance", 1.0, 1e-16)]


def softmax_outputs(logits, labels, rule, backend, threads=1, names=("grad", "proba", "hess")):
    problem = Problem.build(logits, labels, num_threads=threads, reduction="sum")
    problem.hess_rule = rule
    chosen = load(backend)
    outputs = Outputs(**{name: np.full_like(logits, 7) for name in names})
    chosen.forward(problem.with_labels(chosen), outputs)
    return outputs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [10, 130, 1500])
def test_at_the_label_digits_are_kept_as_far_as_the_sum_has_them(backend, classes):
    # p of the label is 1 - 1e-9 or so: in float32, 1 - p would be 0
    logits = np.zeros((33, classes), np.float32)
    labels = np.arange(33) % classes
    logits[np.arange(33), labels] = 25.0
    truth = reference.softmax_hessian(logits, labels, reduction="sum")[1]
    at_label = np.arange(33), labels
    hess = softmax_outputs(logits, labels, HessRule(), backend).hess
    # With a row in each lane s is added up in float64, so that s - exp keeps its digits. Along a
    # row it is a float32 sum of 1 and numbers of 1e-11: 6 % of what is left are gone.
    in_float64 = classes == 10 or backend == "numpy"
    tolerance = 1e-3 if in_float64 else 0.1
    np.testing.assert_allclose(hess[at_label], truth[at_label], rtol=tolerance)
    distance = softmax_outputs(logits, labels, RULES[2], backend)
    assert np.array_equal(distance.hess[at_label], np.maximum(-distance.grad[at_label], 1e-16))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(backend, rule):
    rng = np.random.default_rng(0)
    for shape in ((3000, 10), (300, 150), (3, 70_001)):
        logits = (4 * rng.normal(size=shape)).astype(np.float32)
        labels = rng.integers(0, shape[1], shape[0])
        one, *others = (
            softmax_outputs(logits, labels, rule, backend, threads) for threads in (1, 2, 5)
        )
        for other in others:
            for name in ("grad", "proba", "hess"):
                assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(37, 10), (5, 130)])
def test_each_output_is_the_same_alone(backend, shape):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=shape), rng.integers(0, shape[1], shape[0])
    together = softmax_outputs(logits, labels, RULES[1], backend)
    for name in ("grad", "proba", "hess"):
        alone = softmax_outputs(logits, labels, RULES[1], backend, names=(name,))
        assert np.array_equal(getattr(alone, name), getattr(together, name))


def binary_outputs(logits, target, rule, backend, *, factor=1.0, names=("grad", "proba", "hess"),
                   threads=1):  # fmt: skip
    problem = BinaryProblem(
        logits=logits,
        logits_kind=logits.dtype.name,
        target=target,
        target_kind=target.dtype.name,
        compute=logits.dtype,
        ones=1.0,
        factor=factor,
        upstream=1.0,
        gain=1.0,
        background=0.0,
        num_threads=threads,
        hess_rule=rule,
    )
    outputs = BinaryOutputs(**{name: np.full_like(logits, 7) for name in names})
    assert not load(backend).binary(problem, outputs)
    return outputs


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def choices(request):
    rng = np.random.default_rng(2)
    x = (4 * rng.normal(size=2001)).astype(request.param)
    x[:6] = [-np.inf, np.inf, 90, -90, 0, 40]
    return x, rng.integers(0, 2, x.size).astype(np.int8), rng.random(x.size).astype(x.dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_binary_matches_the_reference(backend, rule, choices):
    x, y, weight = choices
    eps = np.finfo(x.dtype).eps
    for factor in (1.0, weight):
        found = binary_outputs(x, y, rule, backend, factor=factor)
        proba, hess = reference.binary_hessian(x, y, *rule, weight=factor)
        grad = reference.binary_cross_entropy_with_logits_and_grad(
            x, y, weight=factor, reduction="sum"
        )[1]
        # relative: no digits are lost where p is almost 1
        np.testing.assert_allclose(found.proba, proba, rtol=8 * eps, atol=1e-37)
        np.testing.assert_allclose(found.hess, hess, rtol=8 * eps, atol=1e-37)
        np.testing.assert_allclose(found.grad, grad, rtol=8 * eps, atol=1e-37)
        for name in ("grad", "proba", "hess"):
            alone = binary_outputs(x, y, rule, backend, factor=factor, names=(name,))
            assert np.array_equal(getattr(alone, name), getattr(found, name))
        apart = binary_outputs(x[::2], y[::2], rule, backend, names=("hess",))
        assert np.array_equal(apart.hess, binary_outputs(x, y, rule, backend).hess[::2])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_binary_twins_give_the_same_bits(rule, choices):
    reasons = {name: fx.backends()[name] for name in ("cython", "numba")}
    if any(reasons.values()):
        pytest.skip(str(reasons))
    if load("cython").info()["instruction level"] not in ("v3", "v4"):
        pytest.skip("the compiled backend runs without a fused multiply-add")
    x, y, weight = choices
    found = [
        binary_outputs(x, y, rule, name, factor=factor, threads=threads)
        for factor in (1.0, weight)
        for name, threads in (("cython", 1), ("numba", 1), ("numba", 3))
    ]
    for one, other in ((0, 1), (0, 2), (3, 4), (3, 5)):
        for name in ("grad", "proba", "hess"):
            assert np.array_equal(getattr(found[one], name), getattr(found[other], name))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_stays_one(backend):
    x = np.array([np.nan, 1.0], np.float32)
    outputs = binary_outputs(x, np.array([1, 0]), RULES[1], backend)
    for name in ("grad", "proba", "hess"):
        assert np.isnan(getattr(outputs, name)).tolist() == [True, False]
