"""Any calls of the derivatives that boosting libraries take, and of their objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import boosting, reference
from fastxent.comparison import ROUNDINGS_OF_SPREAD_MASS, compare, largest
from reliability.door_calls import JUNK, Source, draw_array, draw_out, pick_layout
from reliability.door_checks import is_delivered, is_known, require, tried

__all__ = ["derivatives"]

Array = NDArray[Any]
RULES = ("exact", "xgboost", "xgboost-distance", "lightgbm")
KINDS = ("float32", "float32", "float32", "float64", "float64", "float64", "float16", ">f4")
OBJECTIVES = ("XGBoostObjective", "LightGBMObjective")


def _textbook(rule: str, classes: int | None) -> tuple[str, float, float]:
    """Kind, factor and floor of the Hessian: the table of docs/boosting.md."""
    floor = 1e-16 if rule.startswith("xgboost") else 0.0
    factor = 1.0
    if classes is not None:  # else one score a row
        factor = {"xgboost": 2.0, "lightgbm": classes / max(1, classes - 1)}.get(rule, 1.0)
    return "distance" if rule == "xgboost-distance" else "product", factor, floor


def _draw_labels(source: Source, rows: int, classes: int) -> Any:
    numbers = source.numbers.integers(0, max(1, classes), rows).astype(float)
    if rows and source.chance(6):
        numbers[source.below(rows)] = source.one_of((-1, classes, 0.5, np.nan, np.inf, 2.0**70))
    kind = source.one_of(("float32", "float64", "int64", "int32", "uint8", "float16", ">i4", "O"))
    drawn = numbers.astype(kind) if np.isfinite(numbers).all() or kind[0] == "f" else numbers
    return source.one_of(JUNK) if source.chance(60) else pick_layout(source, drawn, None)


def _draw_pair(source: Source, scores: Any) -> Any:
    if not source.chance(3):
        return None
    if source.chance(12):
        return source.one_of(((scores, scores), [scores], source.one_of(JUNK)))
    pair = draw_out(source, scores), draw_out(source, scores)
    return tuple(np.empty_like(scores) if one is None else one for one in pair)


def derivatives(source: Source) -> None:
    """`softmax_gradient_hessian` or `logistic_gradient_hessian`; now and then an objective too."""
    rows, classes = source.below(12), 2 + source.below(8)
    axis = source.one_of((-1, -1, -1, 1, 0, 0, None, None, None, 2))
    is_binary = axis is None
    shape = (rows,) if is_binary else (classes, rows) if axis == 0 else (rows, classes)
    if source.chance(40):
        shape = (*shape, 1)
    wild = source.chance(6)
    scores = draw_array(source, shape, KINDS, wild)
    if isinstance(scores, np.ndarray):
        scores = pick_layout(source, scores, scores.ndim - 1)
    labels = _draw_labels(source, rows, 2 if is_binary else classes)
    options: dict[str, Any] = {"hessian": source.one_of(RULES)}
    options["backend"] = source.one_of(("cython", "cython", "cython", "numpy"))
    if source.chance(3):
        weights = np.abs(source.numbers.standard_normal(rows))
        options["sample_weight"] = weights.astype(source.one_of(("f4", "f8")))
    if not is_binary:
        options["axis"] = axis
    if source.chance(20):
        options[source.one_of(tuple(options))] = source.one_of(JUNK)
    out = _draw_pair(source, scores)
    as_object = source.one_of(OBJECTIVES) if source.chance(4) else None
    given, given_labels = np.array(scores), np.array(labels)
    name = "logistic_gradient_hessian" if is_binary else "softmax_gradient_hessian"
    found = tried(getattr(boosting, name), scores, labels, out=out, **options)
    for one, into in zip(found, (None, None) if out is None else out, strict=True):
        is_delivered(one, into)
    if is_known(given, wild):
        _hold(found, given, given_labels, options, is_binary)
    if as_object is not None and given.shape[:1] == (rows,) and options.get("axis", -1) != 0:
        runtime = {name: options[name] for name in ("hessian", "backend")}
        objective = getattr(boosting, as_object)(**runtime)
        again = objective(given_labels, given, options.get("sample_weight"))
        if is_known(given, wild):
            _hold(again, given, given_labels, options, is_binary)


def _hold(
    found: tuple[Any, Any], scores: Array, labels: Array, options: dict[str, Any], is_binary: bool
) -> None:
    """Hold gradient and Hessian to the reference."""
    weights, axis = options.get("sample_weight"), options.get("axis", -1)
    whole = labels.astype(int)
    rule = _textbook(options["hessian"], None if is_binary else scores.shape[axis])

    def compute(x: Array, dtype: Any) -> tuple[Array, Array]:
        if is_binary:
            of_loss = reference.binary_cross_entropy_with_logits_and_grad
            _, grad = of_loss(x, whole, weight=weights, reduction="sum", dtype=dtype)
            _, hess = reference.binary_hessian(x, whole, *rule, weight=weights, dtype=dtype)
            return grad, hess
        more: dict[str, Any] = {"sample_weight": weights, "axis": axis, "ignore_index": None}
        more |= {"reduction": "sum", "dtype": dtype}
        _, grad = reference.cross_entropy_and_grad(x, whole, **more)
        _, hess = reference.softmax_hessian(x, whole, *rule, **more)
        return grad, hess

    def scale(truth: Array) -> float:
        return max(1.0, float(largest(truth)))

    roundings = (ROUNDINGS_OF_SPREAD_MASS,) * 2
    require(compare(("gradient", "Hessian"), found, compute, scores, (scale, scale), roundings))
