"""Promises about digits that the table of cases cannot show: each needs data made for it.

The truth is computed here, in float64 and from closed forms, because the digits at stake are
those that a tolerance relative to a row of mass 1 does not see. The comment of a test names the
shortcut it is there to catch.
"""

import math

import numpy as np
import pytest

import fastxent as fx

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in fx.backends().items()
    if name != "cuda" or reason is None  # tests/gpu/card says once that there is no card
]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def relative_error(result: np.ndarray, truth: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(result, np.float64) / truth - 1)))


# A label far above the rest ------------------------------------------------------------------


def confident_rows(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels 15 to 20 above all other logits, and sum_k exp(z_k - z_label) - 1, which is tiny.

    The steps are 1/64, so that z - m has no rounding to be told from those of the sums. No lane
    of 16 holds two classes: within one lane the digits are lost by design.
    """
    rng = np.random.default_rng(classes)
    labels = np.arange(40) % classes
    below = rng.integers(15 * 64, 20 * 64, (40, classes)) / 64
    below[np.arange(40), labels] = 0
    logits = (rng.integers(-8, 8, (40, 1)) - below).astype(np.float32)
    others = np.exp(-below)
    others[np.arange(40), labels] = 0
    return logits, others.sum(axis=1)


@each_backend
@pytest.mark.parametrize("classes", [2, 10, 16])
def test_the_gradient_at_the_label_keeps_its_digits(classes: int, backend: str) -> None:
    # p - 1 = -(s - 1) / s: catches p - 1 in float32, and s added up in float32 anywhere
    logits, rest = confident_rows(classes)
    labels = np.arange(40) % classes
    _, grad = fx.cross_entropy_and_grad(logits, labels, reduction="sum", backend=backend)
    at_label = grad[np.arange(40), labels]
    assert relative_error(at_label, -rest / (1 + rest)) <= 1e-6


@each_backend
@pytest.mark.parametrize("classes", [2, 10, 16])
def test_a_tiny_loss_keeps_its_digits(classes: int, backend: str) -> None:
    # log(s) with s close to 1: catches lanes added up in float32, and the logarithm in float32
    logits, rest = confident_rows(classes)
    labels = np.arange(40) % classes
    loss = fx.cross_entropy(logits, labels, reduction="none", backend=backend)
    assert relative_error(loss, np.log1p(rest)) <= 1e-6
    if classes == 2:  # of one-hot probabilities too
        probabilities = np.eye(2, dtype=np.float32)[labels]
        loss = fx.cross_entropy(logits, probabilities, reduction="none", backend=backend)
        assert relative_error(loss, np.log1p(rest)) <= 1e-6


# Long rows and many rows ---------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("below", [11.25, 11.5, 11.75, 12.0])
def test_long_rows_do_not_drift(below: float, backend: str) -> None:
    # Every class but the label has the same small exponential, so that each addition to a sum
    # near 1 rounds in the same direction: a plain float32 accumulator put the gradient 7e-7 to
    # 3e-4 off, a float32 sum of the blocks' sums 4e-7 to 4e-6.
    # The label has its block for itself: in a block of equal logits all exponentials are 1, and
    # sums of ones are exact.
    classes, block = 128_256, 1024
    logits = np.full((2, classes), -below, np.float32)
    labels = np.array([0, 5 * block])
    for row, label in enumerate(labels):
        logits[row, label : label + block] = -200
        logits[row, label] = 0
    s = 1 + (classes - block) * math.exp(-below)
    truth = np.exp(logits.astype(np.float64)) / s
    truth[np.arange(2), labels] -= 1
    loss, grad = fx.cross_entropy_and_grad(logits, labels, reduction="none", backend=backend)
    assert relative_error(loss, np.full(2, math.log(s))) < 1e-7
    assert np.abs(grad - truth).max() < 2e-7 * np.abs(truth).max()


@each_backend
def test_long_peaked_rows(backend: str) -> None:
    # What a plain float32 accumulator does to more ordinary long rows: 1e-5 in the gradient.
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((8, 128_256)).astype(np.float32)
    labels = rng.integers(0, 128_256, 8)
    logits[np.arange(8), labels] += rng.uniform(8, 14, 8).astype(np.float32)
    exps = np.exp(logits.astype(np.float64))
    s = exps.sum(axis=1)
    truth = exps / s[:, None]
    truth[np.arange(8), labels] -= 1
    loss, grad = fx.cross_entropy_and_grad(logits, labels, reduction="none", backend=backend)
    assert relative_error(loss, np.log(s) - logits[np.arange(8), labels]) < 5e-7
    errors = np.abs(grad - truth).max(axis=1) / np.abs(truth).max(axis=1)
    assert errors.max() < 5e-7


@each_backend
@pytest.mark.parametrize("gap", [57.120758056640625, 57.883514404296875])
def test_the_mean_over_a_million_rows(gap: float, backend: str) -> None:
    # Every loss is the gap, and every bit of it known: log(1 + exp(-gap)) is below its last
    # digit. The gaps are two of those where NumPy's pairwise sum in float32 is off by 2.6e-7,
    # which is about as bad as it gets; adding in sequence is off by 1e-3.
    logits = np.zeros((1_000_000, 2), np.float32)
    logits[:, 1] = -gap
    labels = np.ones(1_000_000, np.int64)
    assert float(fx.cross_entropy(logits, labels, backend=backend)) == pytest.approx(gap, rel=1e-7)
    total = fx.cross_entropy(logits, labels, reduction="sum", backend=backend)
    assert float(total) == pytest.approx(1e6 * gap, rel=1e-7)


@each_backend
def test_more_elements_than_32_bits_can_count(backend: str) -> None:
    # The zeros are pages that are never written, so this takes no memory. An offset kept in 32
    # bits reads one of the first rows instead of one of the last, or outside of the array.
    rows, classes = 2**15 + 9, 2**16
    try:
        logits = np.zeros((rows, classes), np.float32)
    except MemoryError as error:
        pytest.skip(f"no address space: {error}")
    labels = np.zeros(rows, np.int64)
    expected = np.full(rows, math.log(classes))
    for row, at in ((3, 1.0), (2**15 - 1, 2.0), (2**15 + 3, 3.0), (rows - 1, 4.0)):
        logits[row, row % 1000] = at
        labels[row] = row % 1000
        expected[row] = math.log(classes - 1 + math.exp(at)) - at
    loss = fx.cross_entropy(logits, labels, reduction="none", backend=backend)
    assert relative_error(loss, expected) < 1e-6


# The ends of the range -----------------------------------------------------------------------


@each_backend
@both_dtypes
@pytest.mark.parametrize("top", [-2e30, -1e37, -3e38])
@pytest.mark.parametrize("classes", [4, 1030])
def test_rows_far_below_zero(classes: int, top: float, dtype: type, backend: str) -> None:
    # Catches a running maximum that starts at some number instead of -inf.
    logits = np.full((3, classes), top, dtype)
    logits[1, 1:] *= 1.125  # one class left
    logits[2, ::2] = -np.inf
    labels = np.array([1, 0, 1])
    counts = np.array([classes, 1, classes // 2])
    loss, grad = fx.cross_entropy_and_grad(logits, labels, reduction="none", backend=backend)
    np.testing.assert_allclose(loss, np.log(counts), rtol=1e-6)
    expected = (logits == dtype(top)) / counts[:, None] - np.eye(classes)[labels]
    np.testing.assert_allclose(grad, expected, rtol=1e-6)
    np.testing.assert_array_equal(fx.logsumexp(logits, backend=backend), np.full(3, dtype(top)))


# Where nothing may be left -------------------------------------------------------------------


@each_backend
@both_dtypes
@pytest.mark.parametrize("classes", [1, 2, 17, 1030])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_no_gradient_where_probabilities_are_the_target(
    reduction: str, classes: int, dtype: type, backend: str
) -> None:
    # All mass on one class, and all of the softmax: t * p - t cancels to exactly 0 if the factors
    # of the row come after the subtraction, not if they are multiplied into t and p before.
    rng = np.random.default_rng(classes)
    rows = 37
    logits = np.full((rows, classes), -2000, dtype)
    target = np.zeros((rows, classes), dtype)
    labels = np.arange(rows) % classes
    logits[np.arange(rows), labels] = rng.standard_normal(rows)
    target[np.arange(rows), labels] = rng.uniform(0.5, 2, rows)
    loss, grad = fx.cross_entropy_and_grad(
        logits,
        target,
        reduction=reduction,
        sample_weight=rng.uniform(0.5, 2, rows),
        backend=backend,
    )
    assert loss == 0
    assert not grad.any()


@each_backend
@both_dtypes
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_no_gradient_of_a_single_class(label_smoothing: float, dtype: type, backend: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((37, 1)).astype(dtype)
    loss, grad = fx.cross_entropy_and_grad(
        logits,
        np.zeros(37, np.int64),
        weight=rng.uniform(0.5, 2, 1),
        label_smoothing=label_smoothing,
        sample_weight=rng.uniform(0.5, 2, 37),
        backend=backend,
    )
    assert loss == 0
    assert not grad.any()
