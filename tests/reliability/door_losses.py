"""Any calls of the loss of many classes and of the binary loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent import reference
from fastxent.comparison import (
    ROUNDINGS_OF_SPREAD_MASS,
    compare,
    compare_aux,
    compare_loss_and_grad,
    each,
    largest,
)
from reliability.door_calls import (
    JUNK,
    Source,
    draw_array,
    draw_logits,
    draw_options,
    draw_out,
    draw_target,
    pick_layout,
)
from reliability.door_checks import (
    alone_and_with_grad,
    draw_backend,
    is_delivered,
    is_finite,
    is_known,
    overflows,
    require,
    require_same_bits,
)

__all__ = ["binary", "hold_aux", "loss", "of_reference"]

Array = NDArray[Any]


def of_reference(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the reference takes them.

    It computes with what it is given: a float32 scalar would round what it meets.
    """
    of_calls = ("aux", "num_threads", "backend", "memory_budget", "grad_filter", "grads")
    return {
        name: float(one) if isinstance(one, np.floating) else one
        for name, one in options.items()
        if name not in of_calls
    }


def hold_aux(asides: fx.Aux, logits: Array, target: Array, options: dict[str, Any]) -> None:
    """Hold those side outputs that have digits to the reference."""
    truths = reference.cross_entropy_aux(logits, target, **options)
    found = {name: one for name, one in asides._asdict().items() if one is not None}
    if not any(overflows(np.asarray(one), [truths[name]]) for name, one in found.items()):
        require(compare_aux(found, logits, target, options))


def loss(source: Source) -> None:
    """`cross_entropy_and_grad`, `cross_entropy`, and now and then `CrossEntropyLoss`."""
    logits, wild = draw_logits(source)
    axis = source.one_of((-1, -1, 0, 1, 7))
    target = draw_target(source, logits, axis, wild)
    options = draw_options(source, logits, axis) | {"axis": axis}
    smoothing = options.get("label_smoothing", 0)
    options["backend"] = draw_backend(source, logits, axis, target, smoothing)
    given, given_target = np.array(logits), np.array(target)
    out, as_object = draw_out(source, logits), source.chance(6)
    functions = fx.cross_entropy, fx.cross_entropy_and_grad
    alone, (value, grad, *more) = alone_and_with_grad(
        *functions, logits, target, out=out, **options
    )
    is_delivered(grad, out)
    require_same_bits("the loss alone, with the gradient", alone[0] if more else alone, value)
    again: tuple[Any, ...] = ()
    if as_object:
        forward = {name: options[name] for name in options if name != "grad_output"}
        layer = fx.CrossEntropyLoss(**forward)
        found = layer(given, given_target)
        again = (found[0] if more else found, layer.backward())
    if not is_known(given, wild) or not is_finite(given_target):
        return
    known = of_reference(options)
    if overflows(given, reference.cross_entropy_and_grad(given, given_target, **known)):
        return
    require(compare_loss_and_grad(value, grad, given, given_target, known))
    for asides in more:
        hold_aux(asides, given, given_target, known)
    if again:
        known.pop("grad_output", None)
        if not overflows(given, reference.cross_entropy_and_grad(given, given_target, **known)):
            require(compare_loss_and_grad(*again, given, given_target, known))


def binary(source: Source) -> None:
    """`binary_cross_entropy_with_logits_and_grad`, and the loss alone."""
    logits, wild = draw_logits(source)
    shape = np.shape(logits)
    target = draw_array(source, shape, ("float32", "float64", "bool", "float16", "uint8"), False)
    if isinstance(target, np.ndarray) and target.dtype.kind in "fu":
        target = pick_layout(source, (np.abs(target) > 0.5).astype(target.dtype), None)
    options: dict[str, Any] = {}
    for name in ("weight", "pos_weight", "grad_output"):
        if source.chance(4):
            of = shape if name == "grad_output" else shape[-1:]
            numbers = np.abs(source.numbers.standard_normal(of))
            options[name] = source.one_of((0.5, np.asarray(numbers), np.asarray(numbers, "f4")))
    if source.chance(3):
        options["label_smoothing"] = source.one_of((0.1, 1.0))
    if source.chance(3):
        options["reduction"] = source.one_of(("none", "sum"))
    if options and source.chance(10):
        options[source.one_of(tuple(options))] = source.one_of(JUNK)
    given, given_target = np.array(logits), np.array(target)
    backend, out = source.one_of(("cython", "cython", "cython", "numpy")), draw_out(source, logits)
    functions = (
        fx.binary_cross_entropy_with_logits,
        fx.binary_cross_entropy_with_logits_and_grad,
    )
    alone, (value, grad) = alone_and_with_grad(
        *functions, logits, target, out=out, backend=backend, **options
    )
    is_delivered(grad, out)
    require_same_bits("the binary loss alone, with the gradient", alone, value)
    if not is_known(given, wild) or not is_finite(given_target):
        return

    def compute(x: Array, dtype: Any) -> tuple[Array, ...]:
        return reference.binary_cross_entropy_with_logits_and_grad(
            x, given_target, **options, dtype=dtype
        )

    if overflows(given, compute(given, np.float64)):
        return
    scales = (each, lambda truth: max(float(largest(truth)), 1 / given.size))
    names, roundings = ("loss", "gradient"), (ROUNDINGS_OF_SPREAD_MASS,) * 2
    require(compare(names, (value, grad), compute, given, scales, roundings))
