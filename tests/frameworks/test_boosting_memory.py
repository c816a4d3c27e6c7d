"""What an objective keeps between rounds: never a wrong gradient, and nothing in a copy."""

import copy
import pickle

import numpy as np
import pytest

import fastxent as fx
from fastxent.boosting import (
    LightGBMObjective,
    XGBoostObjective,
    logistic_gradient_hessian,
    softmax_gradient_hessian,
)


def scores_of(rows, classes):
    rng = np.random.default_rng(rows + classes)
    x = (3 * rng.normal(size=(rows, classes))).astype(np.float32)
    return x, rng.integers(0, classes, rows), rng.uniform(0, 2, rows)


@pytest.mark.parametrize("of_labels", [np.float32, np.int64])
@pytest.mark.parametrize("of_weights", [np.float32, np.float64])
def test_labels_and_weights_that_change_in_place_are_noticed(of_labels, of_weights):
    x, labels, weights = scores_of(40, 10)
    labels, weights = labels.astype(of_labels), weights.astype(of_weights)
    objective = LightGBMObjective()
    for _ in range(2):
        found = objective(labels, x, weights)
        expected = softmax_gradient_hessian(x, labels, sample_weight=weights, hessian="lightgbm")
        assert np.array_equal(found, expected)
        labels[:] = labels[::-1].copy()
        weights[:] = weights[::-1].copy()
    labels[3] = 11
    with pytest.raises(fx.LabelError, match=r"labels\[3\]"):
        objective(labels, x, weights)


@pytest.mark.parametrize("classes", [1, 3])
def test_what_was_checked_does_not_change_with_the_callers_arrays(classes):
    x, labels, weights = scores_of(40, classes)
    labels %= 2
    scores = x[:, 0] if classes == 1 else x
    objective = XGBoostObjective()
    expected = objective(labels, scores, weights)
    same_labels, same_weights = labels.copy(), weights.copy()
    labels[:], weights[:] = 17, -1
    assert np.array_equal(objective(same_labels, scores, same_weights), expected)


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">i8", ">u8", ">f4", "u1", "?"])
def test_labels_of_any_byte_order(backend, dtype):
    x, labels, _ = scores_of(40, 2)
    labels = labels % 2
    stored = labels.astype(dtype)
    found = logistic_gradient_hessian(x[:, 0].copy(), stored, backend=backend)
    assert np.array_equal(found, logistic_gradient_hessian(x[:, 0].copy(), labels, backend=backend))
    found = softmax_gradient_hessian(x, stored, backend=backend)
    assert np.array_equal(found, softmax_gradient_hessian(x, labels, backend=backend))


class Focused(XGBoostObjective):
    """An objective of a user's own, with an attribute."""

    def __init__(self, gamma):
        super().__init__()
        self.gamma = gamma


@pytest.mark.parametrize("of", [copy.deepcopy, copy.copy])
def test_copies_have_the_attributes_of_a_subclass_and_no_memory(of):
    x, labels, _ = scores_of(40, 3)
    original = Focused(3.0)
    original(labels, x)
    found = of(original)
    assert found.gamma == 3.0
    assert found._labels is not original._labels
    assert np.array_equal(found(labels, x), original(labels, x))


def test_pickles_do_not_grow_with_the_data():
    objective = LightGBMObjective("exact", num_threads=1)
    size = len(pickle.dumps(objective))
    x, labels, weights = scores_of(4_000, 3)
    objective(labels, x, weights)
    assert len(pickle.dumps(objective)) == size
    assert repr(pickle.loads(pickle.dumps(objective))) == repr(objective)
