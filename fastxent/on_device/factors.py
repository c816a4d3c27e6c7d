"""Factors of classes and rows on the GPU, and the denominator of the mean, which stays there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent import checks
from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.options import Options
from fastxent.problem import Problem
from fastxent.reduction import Reduction

__all__ = ["Given", "put_class_factors", "put_row_factors"]

_FLOAT64, _INT64 = np.dtype(np.float64), np.dtype(np.int64)


class Given(NamedTuple):
    """Factors that the caller has on the GPU; those of the host are None and go the usual way."""

    weight: DeviceArray | None
    sample_weight: DeviceArray | None
    grad_output: DeviceArray | None

    @classmethod
    def read(cls, arrays: Arrays, options: Options, grad_output: Any) -> Given:
        """Look where each of them is."""
        return cls(
            arrays.read_option(options.weight, "weight"),
            arrays.read_option(options.sample_weight, "sample_weight"),
            arrays.read_option(grad_output, "grad_output"),
        )

    def without(self, options: Options) -> Options:
        """The options whose values the host can look at."""
        if self.weight is not None:
            options = options._replace(weight=None)
        return options if self.sample_weight is None else options._replace(sample_weight=None)


def put_class_factors(
    arrays: Arrays, problem: Any, weight: DeviceArray | None, smoothing: float
) -> None:
    """Give the problem the mass of its targets: what fastxent.mass has, on the GPU."""
    if weight is None:
        for name in ("spike", "background", "gain"):
            factor = getattr(problem, name)
            if isinstance(factor, np.ndarray):
                setattr(problem, name, arrays.upload(factor))
        return
    num_classes = problem.num_classes
    checks.check_class_weight_on_device(weight, num_classes)
    shape, compute = (num_classes,), problem.precision.compute
    # spike_of, background_of, background_total and gain_of
    found: list[Any] = [None] * 4
    if problem.target is not None:
        problem.spike = found[0] = arrays.scratch(shape, _FLOAT64)
    else:
        found[3] = arrays.scratch(shape, compute)
        problem.gain = _of_classes(problem, found[3])
    if smoothing != 0.0:
        found[1] = arrays.scratch(shape, compute)
        problem.background = _of_classes(problem, found[1])
        problem.background_total = found[2] = arrays.scratch((1,), _FLOAT64)
    arrays.backend.class_factors(weight, 1.0 - smoothing, smoothing / num_classes, *found)


def _of_classes(problem: Problem, factor: DeviceArray) -> DeviceArray:
    """The factors of those classes that the problem has, out of all."""
    address = factor.address + problem.class_offset * factor.itemsize
    return DeviceArray(address, (problem.classes,), factor.dtype, factor.place, factor.owner)


def put_row_factors(
    arrays: Arrays, problem: Problem, given: Given
) -> tuple[float, DeviceArray | None]:
    """Give the problem `row_weight_at`, `denominator_at` and `row_scale`.

    Returns what the host knows of the divisor of the losses, and the first row with a bad label, on
    the GPU, where labels may be all there is to a denominator of 0.
    """
    recipe = problem.reduction
    assert recipe is not None
    rows, shape = problem.rows, recipe.rows_shape
    problem.row_weight_at = _row_weight(arrays, recipe, rows, given.sample_weight)
    divisor, bad_row = 1.0, None
    if recipe.needs_mass and not (problem.target is None and problem.row_weight_at is None):
        problem.denominator_at, bad_row = _mass(arrays, problem, recipe, given.weight)
    else:
        divisor = recipe.denominator(float(rows))
        if divisor == 0.0:
            if problem.target is not None:
                _, bad_row = _mass(arrays, problem, recipe, given.weight)
            problem.denominator_at = arrays.upload(np.zeros(1))
            divisor = 1.0
    number, arrays_of_rows = 1.0, []
    if problem.row_weight_at is not None:
        arrays_of_rows.append(problem.row_weight_at)
    if isinstance(recipe.grad_output, np.ndarray):
        arrays_of_rows.append(arrays.upload(recipe.grad_output))
    elif recipe.grad_output is not None:
        number = recipe.grad_output
    elif given.grad_output is not None:
        factor = checks.check_row_factor_on_device(given.grad_output, "grad_output", shape, True)
        arrays_of_rows.append(factor.broadcast_to((rows,)))
    number /= divisor
    problem.row_scale = _product(arrays, arrays_of_rows, number, rows)
    return divisor, bad_row


def _row_weight(
    arrays: Arrays, recipe: Reduction, rows: int, weight: DeviceArray | None
) -> DeviceArray | None:
    """Weights of the rows as float64."""
    if weight is None:
        return None if recipe.row_weight is None else arrays.upload(recipe.row_weight)
    name, shape = "sample_weight", recipe.rows_shape
    factor = checks.check_row_factor_on_device(weight, name, shape, False)
    converted: DeviceArray = _product(arrays, [factor], 1.0, rows)
    return converted


def _mass(
    arrays: Arrays, problem: Problem, recipe: Reduction, weight: DeviceArray | None
) -> tuple[DeviceArray, DeviceArray | None]:
    """Mass of all targets, float64 of one entry; of labels the first bad one's row, int64."""
    mass = arrays.scratch((1,), _FLOAT64)
    target: Any = problem.target
    if target is None:
        assert problem.row_weight_at is not None
        arrays.backend.finish_sum(problem.row_weight_at, 1.0, None, False, None, mass)
        return mass, None
    if weight is None and recipe.class_mass is not None:
        weight = arrays.upload(recipe.class_mass)
    bad_row = arrays.scratch((1,), _INT64)
    arrays.backend.label_mass(
        target, problem.num_classes, problem.skip, weight, problem.row_weight_at, mass, bad_row
    )
    return mass, bad_row


def _product(arrays: Arrays, factors: list[DeviceArray], number: float, rows: int) -> Any:
    """One number, or float64 with an entry a row."""
    if not factors:
        return number
    (first, *others) = factors
    if not others and number == 1.0 and first.dtype == _FLOAT64 and first.is_dense:
        return first
    product = arrays.scratch((rows,), _FLOAT64)
    numbers = () if number == 1.0 else (number,)
    arrays.backend.row_factors((*factors, *numbers), product)
    return product
