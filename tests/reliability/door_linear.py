"""Any calls of the loss behind a linear layer."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent import reference
from fastxent.comparison import compare, each, largest
from reliability.door_calls import (
    JUNK,
    Source,
    class_place,
    draw_array,
    draw_logits,
    draw_options,
    draw_out,
    draw_target,
    pick_layout,
)
from reliability.door_checks import (
    Refused,
    alone_and_with_grad,
    is_delivered,
    is_finite,
    is_known,
    overflows,
    require,
    tried,
)
from reliability.door_losses import of_reference

__all__ = ["linear"]

Array = NDArray[Any]
GRADS = ("hidden", "linear_weight", "linear_bias")
FLOATS = ("float32", "float32", "float64", "float16")
# As in fastxent.trials.linear: roundings of a product of vectors, for each root of their length.
ROUNDINGS = 16
# Rows up to which there may be more classes than a block has.
FEW = 128


def _draw_layer(source: Source, hidden: Any, axis: Any) -> tuple[Any, Any, Any]:
    """Weights and bias of a layer for these vectors, and zeros in the shape of its logits."""
    shape = np.shape(hidden)
    place = class_place(shape, axis)
    features = shape[place] if shape else 1
    # the reference takes a second for 2049 rows of 1030 classes
    few = math.prod(shape) <= FEW * features
    classes = 1030 if source.chance(40) else 0 if source.chance(60) else 1 + source.below(20)
    classes = classes if few else min(classes, 20)
    weights = draw_array(source, (classes, features), FLOATS, False)
    if isinstance(weights, np.ndarray) and weights.dtype.kind == "f":
        weights = pick_layout(source, weights / weights.dtype.type(math.sqrt(features or 1)), 0)
    bias = None
    if source.chance(2):
        numbers = source.numbers.standard_normal(classes)
        if source.chance(6):  # masked classes
            numbers[source.numbers.random(classes) < 0.3] = -np.inf
        bias = pick_layout(source, numbers.astype(source.one_of(FLOATS)), None)
        if source.chance(30):
            bias = source.one_of(JUNK)
    of_logits = list(shape)
    if shape:
        of_logits[place] = classes
    return weights, bias, np.broadcast_to(np.zeros(()), tuple(of_logits))


def _draw_buffers(source: Source, hidden: Any, weights: Any, bias: Any, asked: Any) -> Any:
    if not source.chance(3):
        return None
    arrays = (hidden, weights, bias)
    if source.chance(12):  # those of gradients that nobody asked for, or in place of an input
        return source.one_of((fx.LinearGrads(*arrays), (None,) * 3, source.one_of(JUNK)))
    return fx.LinearGrads(
        *(
            draw_out(source, one) if name in asked else None
            for name, one in zip(GRADS, arrays, strict=True)
        )
    )


def _room_for_a_row(arrays: tuple[Any, ...], options: dict[str, Any]) -> float:
    """A little more memory than the least that a call must have, which its error tells."""
    try:
        tried(fx.linear_cross_entropy_and_grad, *arrays, memory_budget=1, **options)
    except Refused as refusal:
        least = re.search(r"at least (\d+) bytes", str(refusal.__cause__))
        if least is None:
            raise
        return 1.2 * int(least[1])
    return 1.0  # without numbers nothing is held


def linear(source: Source) -> None:
    """`linear_cross_entropy_and_grad`, and the loss alone."""
    hidden, wild = draw_logits(source)
    axis = source.one_of((-1, -1, 0, 1, 7))
    weights, bias, logits = _draw_layer(source, hidden, axis)
    target = draw_target(source, logits, axis, False)
    options = draw_options(source, logits, axis) | {"axis": axis, "linear_bias": bias}
    options["backend"] = source.one_of(("cython", "cython", "cython", "numpy"))
    if source.chance(4):
        options["grad_filter"] = source.one_of((0.0, 1e-30, 1e-3, 0.1, source.one_of(JUNK)))
    options["grads"] = source.one_of((GRADS, GRADS, GRADS[:1], GRADS[1:], ["linear_weight"], ()))
    out = _draw_buffers(source, hidden, weights, bias, options["grads"])
    arrays = (hidden, weights, target)
    if source.chance(4):
        options["memory_budget"] = _room_for_a_row(arrays, options)
    given = tuple(np.array(one) for one in arrays)
    functions = fx.linear_cross_entropy, fx.linear_cross_entropy_and_grad
    alone, (value, grads, *more) = alone_and_with_grad(*functions, *arrays, out=out, **options)
    for grad, into in zip(grads, (None,) * 3 if out is None else out, strict=True):
        is_delivered(grad, into)
    alone = alone[0] if more else alone
    if is_known(given[0], wild) and is_finite(given[0], given[1], given[2]) and given[1].size:
        known, left_out = of_reference(options), float(options.get("grad_filter") or 0)
        _hold((value, *grads), given, known, left_out)
        # chunks of rows may be others without gradients, and so may the last bits of products
        _hold((alone, None, None, None), given, known, 0.0)


def _off_by_filter(
    given: tuple[Array, Array, Array], options: dict[str, Any], size: float
) -> dict[str, Any]:
    """How far gradients may be off without the entries below a size: by docs/linear.md.

    Those of the hidden vectors as if all classes had been left out.
    """
    hidden, weights, target = given
    layer, axis = reference.linear_cross_entropy_and_grad, options["axis"]
    denominator = np.float64(1)
    if options.get("reduction", "mean") == "mean":
        total = layer(hidden, weights, target, **options | {"reduction": "sum"})[0]
        denominator = np.float64(total / layer(hidden, weights, target, **options)[0])
    if not np.isfinite(denominator):  # nothing is left of a loss of 0
        denominator = np.float64(0)
    x = np.moveaxis(hidden.astype(float), axis, -1)
    factors = np.ones(x.shape[:-1])
    for name in ("sample_weight", "grad_output"):
        given_factor = options.get(name)
        factors = factors * (1.0 if given_factor is None else np.abs(given_factor).astype(float))
    factors = np.abs(factors / denominator)
    of_hidden = factors[..., None] * np.abs(weights.astype(float)).sum(axis=0)
    rows, vectors = factors.reshape(-1), np.abs(x).reshape(-1, x.shape[-1])
    return {
        "loss": 0.0,
        "hidden": size * np.moveaxis(of_hidden, -1, axis),
        "linear_weight": size * (rows @ vectors),
        "linear_bias": size * rows.sum(),
    }


def _nearer(found: Any, truth: Array, by: Any) -> Array:
    """A result moved to the truth by what it may be off."""
    off = np.asarray(found).astype(float) - truth
    moved = truth + np.sign(off) * np.maximum(0, np.abs(off) - by)
    return np.where(np.isfinite(truth) & np.isfinite(off), moved, np.asarray(found).astype(float))


def _hold(
    results: tuple[Any, ...],
    given: tuple[Array, Array, Array],
    options: dict[str, Any],
    left_out: float,
) -> None:
    """Hold the loss and those gradients that there are to the reference."""
    hidden, weights, target = given
    names = [name for name, one in zip(("loss", *GRADS), results, strict=True) if one is not None]

    def compute(x: Array, dtype: Any) -> tuple[Array, ...]:
        layer = reference.linear_cross_entropy_and_grad
        truth, grads = layer(x, weights, target, dtype=dtype, **options)
        return tuple(truth if name == "loss" else getattr(grads, name) for name in names)

    found = [one for one in results if one is not None]
    truths = compute(hidden, np.float64)
    if any(overflows(np.asarray(one), (truth,)) for one, truth in zip(found, truths, strict=True)):
        return
    if left_out:
        off = _off_by_filter(given, options, left_out)
        if not all(np.isfinite(one).all() for one in off.values()):
            return  # an infinite grad_output: without some of its entries a sum may be anything
        kinds = [np.asarray(one).dtype for one in found]
        found = [
            _nearer(one, truth, off[name]).astype(kind)
            for one, truth, name, kind in zip(found, truths, names, kinds, strict=True)
        ]
    rows = hidden.size // hidden.shape[options["axis"]]
    share = 1.0
    if options.get("reduction", "mean") == "mean":
        share = 1 / abs(float(options.get("normalizer") or rows))
    # Gradients of a row of mass 1, of which little may be left where p - 1 cancels: the products
    # of at most 1 with the numbers of a vector or of a class.
    of_one = {
        "hidden": share * float(largest(weights.astype(float))),
        "linear_weight": share * float(largest(hidden.astype(float))),
        "linear_bias": share,
    }

    def scale_of(name: str) -> Any:
        return each if name == "loss" else lambda truth: max(float(largest(truth)), of_one[name])

    count = ROUNDINGS * math.sqrt(weights.shape[1]) + float(options.get("softcap") or 0)
    count += math.sqrt(weights.shape[0]) + math.sqrt(rows)
    roundings = {"float32": count, "float64": count}
    scales = tuple(map(scale_of, names))
    require(compare(tuple(names), tuple(found), compute, hidden, scales, (roundings,) * len(names)))
