"""Hand values through the public functions, and the loss as an object."""

import numpy as np
import pytest

import fastxent as fx

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
Y = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def rounds_to(values, digits, expected):
    assert np.array_equal(np.round(values, digits), np.asarray(expected, np.float64))


@pytest.mark.parametrize("target", [Y, Y.astype(bool), Y.argmax(1)], ids=["soft", "bool", "hard"])
def test_hand_values(target, backend):
    rounds_to(fx.softmax(A, backend=backend), 3, [[0.659, 0.242, 0.099], [0.073, 0.487, 0.440]])
    losses = fx.cross_entropy(A, target, reduction="none", backend=backend)
    rounds_to(losses, 3, [1.417, 2.620])
    loss, grad = fx.cross_entropy_and_grad(A, target, backend=backend)
    rounds_to(loss, 3, 2.019)
    rounds_to(grad, 3, [[0.330, -0.379, 0.049], [-0.464, 0.243, 0.220]])


@pytest.mark.parametrize("label", [0, 1, 2])
def test_gradient_of_one_row_is_softmax_minus_target(label, backend):
    logits = np.array([2.0, 1.0, -1.0])
    one_hot = np.eye(3)[label]
    exps = np.exp(logits)
    for target in (label, one_hot, one_hot.astype(bool)):
        loss, grad = fx.cross_entropy_and_grad(logits, target, backend=backend)
        np.testing.assert_allclose(grad, exps / exps.sum() - one_hot, rtol=0, atol=2e-16)
        assert loss == pytest.approx(np.log(exps.sum()) - logits[label], rel=1e-15)


def test_extreme_logits(backend):
    """Where the textbook's -log(p) overflows to inf and 0 * log(0) to NaN."""
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4 - 3]])
    target = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    losses = fx.cross_entropy(logits, target, reduction="none", backend=backend)
    expected = [2e4, np.log(2 + np.exp(-3))]
    np.testing.assert_allclose(losses, expected, rtol=1e-15)
    masked = np.array([[0.0, -np.inf, 1.0]])
    loss, grad = fx.cross_entropy_and_grad(masked, np.array([[0.5, 0.0, 0.5]]), backend=backend)
    assert loss == pytest.approx(np.log(1 + np.e) - 0.5, rel=1e-15)
    assert grad[0, 1] == 0


class TestCrossEntropyLoss:
    def test_forward_and_backward(self):
        loss = fx.CrossEntropyLoss()
        assert loss.forward(A, Y) == fx.cross_entropy(A, Y)
        assert np.array_equal(loss.backward(), fx.cross_entropy_and_grad(A, Y)[1])

    def test_is_callable(self):
        loss = fx.CrossEntropyLoss()
        assert loss(A, Y) == loss.forward(A, Y)

    def test_any_number_of_times(self):
        loss = fx.CrossEntropyLoss()
        first = loss.forward(A, Y)
        gradient = loss.backward()
        kept = gradient.copy()
        for _ in range(3):
            loss.forward(A * 2, Y)
            assert loss.backward() is loss.backward()
            assert loss.forward(A, Y) == first
        assert np.array_equal(loss.backward(), kept)
        # an array that was handed out is never written to again
        assert np.array_equal(gradient, kept)

    def test_other_shapes_and_targets_in_turn(self):
        loss = fx.CrossEntropyLoss(reduction="sum")
        assert loss.forward(A, [1, 0]) == pytest.approx(loss.forward(A, Y), rel=1e-15)
        loss.forward(np.zeros((7, 11), np.float32), np.zeros(7, int))
        assert loss.backward().shape == (7, 11)
        assert loss.backward().dtype == np.float32

    def test_backward_before_forward(self):
        with pytest.raises(fx.CallOrderError, match=r"forward\(A, Y\) first"):
            fx.CrossEntropyLoss().backward()

    def test_gradient_survives_a_refused_forward(self):
        loss = fx.CrossEntropyLoss()
        loss.forward(A, Y)
        gradient = loss.backward()
        with pytest.raises(fx.LabelError):
            loss.forward(A, [0, 3])
        assert loss.backward() is gradient

    def test_zero_probability_is_no_nan(self):
        loss = fx.CrossEntropyLoss()
        assert loss.forward(np.array([[800.0, 0.0]]), np.array([[0.0, 1.0]])) == 800.0
        assert np.array_equal(loss.backward(), [[1.0, -1.0]])

    def test_options(self):
        options = {
            "weight": [1, 2, 3],
            "ignore_index": 1,
            "label_smoothing": 0.1,
            "reduction": "mean",
            "normalizer": 4.0,
            "sample_weight": [1.0, 0.5],
            "axis": 1,
            "all_ignored": "zero",
            "backend": "numpy",
            "num_threads": 1,
        }
        loss = fx.CrossEntropyLoss(**options)
        expected = fx.cross_entropy_and_grad(A, [2, 1], **options)
        assert loss.forward(A, [2, 1]) == expected[0]
        assert np.array_equal(loss.backward(), expected[1])
        assert "label_smoothing=0.1" in repr(loss)

    def test_logits_are_left_alone(self):
        logits = A.copy()
        loss = fx.CrossEntropyLoss()
        loss.forward(logits, Y)
        assert np.array_equal(logits, A)
        assert not np.shares_memory(loss.backward(), logits)
