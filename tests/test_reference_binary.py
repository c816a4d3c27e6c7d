"""The binary reference, by hand, by differences, and beside the reference of two classes."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastxent import reference
from fastxent.conformance import finite_difference_grad

INF = np.inf
NAN = np.nan


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_by_hand_and_by_differences(smoothing: float, reduction: str) -> None:
    rng = np.random.default_rng(0)
    x, y = 4 * rng.standard_normal((4, 3)), rng.random((4, 3))
    w, pos_weight = rng.uniform(0.5, 2, (4, 3)), rng.uniform(0.5, 2, 3)
    options: dict[str, Any] = {"weight": w, "pos_weight": pos_weight, "reduction": reduction}
    options["label_smoothing"] = smoothing
    loss, grad = reference.binary_cross_entropy_with_logits_and_grad(x, y, **options)
    p, t = 1 / (1 + np.exp(-x)), y * (1 - smoothing) + smoothing / 2
    losses = -w * (pos_weight * t * np.log(p) + (1 - t) * np.log(1 - p))
    reduce = {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction]
    assert_allclose(loss, reduce(losses), rtol=1e-12)
    numeric = finite_difference_grad(
        lambda x: reference.binary_cross_entropy_with_logits(x, y, **options).sum(), x, step=1e-5
    )
    assert_allclose(grad, numeric, rtol=1e-6, atol=1e-9)


def test_binary_of_two_classes_is_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    x, labels = 30 * rng.standard_normal(50), rng.integers(0, 2, 50)
    two = np.stack([np.zeros(50), x], axis=1)
    for target in (labels, labels.astype(bool), labels.astype(float)):
        loss, grad = reference.binary_cross_entropy_with_logits_and_grad(x, target)
        expected, expected_grad = reference.cross_entropy_and_grad(two, labels)
        assert_allclose(loss, expected, rtol=1e-13)
        assert_allclose(grad, expected_grad[:, 1], rtol=1e-12, atol=1e-17)


def test_binary_at_the_edges() -> None:
    x = np.array([1e4, -1e4, 1e4, -1e4, INF, -INF, INF, NAN])
    y = np.array([1, 0, 0, 1, 1, 0, 0, 0])
    losses, grad = reference.binary_cross_entropy_with_logits_and_grad(x, y, reduction="none")
    assert_array_equal(losses, [0, 0, 1e4, 1e4, 0, 0, INF, NAN])
    assert_array_equal(grad, [0, 0, 1, -1, 0, 0, 1, NAN])
    empty = np.zeros((0, 3))
    loss, grad = reference.binary_cross_entropy_with_logits_and_grad(empty, empty)
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
