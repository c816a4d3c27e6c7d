"""The mean's denominator: the summed mass of labels, whose error must not grow with their count."""

import math

import numpy as np
import pytest

import fastxent as fx
from fastxent.backends import load


@pytest.mark.parametrize("rows", [600, 8_192, 100_001, 1_000_000])
def test_the_mass_of_equal_labels_keeps_its_digits(rows, backend):
    """Added up plainly, 8,192 equal masses were off by 740 units in the last place."""
    rng = np.random.default_rng(rows)
    labels = np.full(rows, 3, np.int32)
    for _ in range(3):
        masses = rng.uniform(0.5, 2, 5)
        found = load(backend).check_labels(labels, 5, None, masses, None, 2).mass
        assert abs(found - rows * masses[3]) <= 16 * np.spacing(rows * masses[3])


def test_the_mass_of_any_labels_is_their_sum(backend):
    rng = np.random.default_rng(1)
    labels, row_mass = rng.integers(0, 50, 70_001), rng.random(70_001)
    masses = rng.random(50)
    found = load(backend).check_labels(labels, 50, 7, masses, row_mass, 2)
    live = labels != 7
    exact = math.fsum(masses[labels[live]] * row_mass[live])
    assert found.live == live.sum()
    assert abs(found.mass - exact) <= 16 * np.spacing(exact)


def test_the_mean_of_equal_rows_is_the_row(backend):
    rng = np.random.default_rng(2)
    row, weight = rng.standard_normal(5), rng.uniform(0.5, 2, 5)
    one = fx.cross_entropy(row[None], [3], weight=weight, backend=backend)
    logits = np.broadcast_to(row, (8_192, 5))
    many = fx.cross_entropy(logits, np.full(8_192, 3), weight=weight, backend=backend)
    assert abs(many - one) <= 16 * np.spacing(one)


def test_an_infinite_mass_stays_infinite(backend):
    masses = np.full(2, np.finfo(np.float64).max)
    with np.errstate(over="ignore"):
        found = load(backend).check_labels(np.zeros(9_000, np.int64), 2, None, masses, None, 1)
    assert found.mass == np.inf
