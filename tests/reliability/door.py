"""One call of a public function from any bytes: the result is right, or the error is documented.

What a fuzzer, Hypothesis and the stored inputs of `corpora/door` share.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent import reference
from fastxent.comparison import (
    ROUNDINGS_OF_SPREAD_MASS,
    Comparison,
    compare,
    each,
    largest,
    same_bits,
)
from fastxent.conformance import compare_loss_and_grad
from reliability.door_calls import (
    JUNK,
    Source,
    draw_array,
    draw_logits,
    draw_options,
    draw_target,
    pick_layout,
)

__all__ = ["Wrong", "call"]

Array = NDArray[Any]
BACKENDS = ("cython", "cython", "cython", "numpy")
# Hundreds of roundings: whether a result is right is asked here, how good it is elsewhere.
LOOSE = 64.0


class Wrong(AssertionError):
    """A result that is not right, or something that a call has changed."""


def _forward(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}


def _require(comparisons: tuple[Comparison, ...]) -> None:
    for one in comparisons:
        if not one.error <= max(LOOSE * one.tolerance, 1e-4 if one.tolerance > 1e-9 else 1e-10):
            raise Wrong(str(one))


def _overflows(given: Array, truths: tuple[Array, ...]) -> bool:
    """Whether a result has no room in float16, as with weights of 2**31: it is infinite then."""
    return given.dtype == np.float16 and any(largest(np.asarray(truth)) > 65504 for truth in truths)


def _out(source: Source, logits: Any) -> Any:
    if not isinstance(logits, np.ndarray) or not source.chance(3):
        return None
    way = source.below(6)
    if way == 0:
        return logits
    if way == 1:
        return logits[::-1] if logits.ndim else logits.copy()
    if way == 2 and logits.ndim:
        return logits[..., :-1]
    if way == 3:
        return np.empty(logits.shape, source.one_of(("f4", "f8", "i4")))
    empty = np.empty(logits.shape, logits.dtype)
    return pick_layout(source, empty, logits.ndim - 1 if logits.ndim else None)


def _snapshot(*arrays: Any) -> list[bytes | None]:
    return [one.tobytes() if isinstance(one, np.ndarray) else None for one in arrays]


def _tried(function: Callable[..., Any], inputs: tuple[Any, ...], out: Any, options: Any) -> Any:
    """Give the result, or None after a documented error: then nothing has been written."""
    before = _snapshot(*inputs, out)
    more = {} if out is None else {"out": out}
    try:
        result = function(*inputs, **options, **more)
    except fx.FastxentError as error:
        if not str(error):
            raise Wrong("an error without a text") from error
        if _snapshot(*inputs, out) != before:
            raise Wrong(f"something was written before {error!r}") from error
        return None
    if isinstance(out, np.ndarray):
        before = [
            kept
            for kept, one in zip(before, inputs, strict=False)
            if not (isinstance(one, np.ndarray) and np.shares_memory(one, out))
        ]
        inputs = tuple(
            one
            for one in inputs
            if not (isinstance(one, np.ndarray) and np.shares_memory(one, out))
        )
    if _snapshot(*inputs) != before[: len(inputs)]:
        raise Wrong("an input was written to")
    return result


def _loss(source: Source) -> None:
    logits, wild = draw_logits(source)
    axis = source.one_of((-1, -1, 0, 1, 7))
    target = draw_target(source, logits, axis, wild)
    options = draw_options(source, logits, axis) | {"axis": axis}
    runtime = {"backend": source.one_of(BACKENDS)}
    given, given_target = np.array(logits), np.array(target)
    out = _out(source, logits)
    fused = functools.partial(fx.cross_entropy_and_grad, **runtime)
    result = _tried(fused, (logits, target), out, options)
    if result is None:
        return
    loss, grad = result[:2]
    alone = fx.cross_entropy(given, given_target, **_forward(fx.cross_entropy, options), **runtime)
    alone = alone[0] if tuple(options.get("aux", ())) else alone
    if not same_bits(alone, loss):
        raise Wrong(f"the loss alone is {alone}, with the gradient {loss}")
    finite = given_target.dtype.kind in "biu" or np.isfinite(given_target.astype(float)).all()
    if wild or given.dtype.kind not in "fV" or not finite:
        return
    known = _forward(reference.cross_entropy_and_grad, options)
    known |= {name: options[name] for name in options if name not in ("aux", "num_threads")}
    # the reference computes with what it is given: a float32 scalar would round what it meets
    known = {
        name: float(one) if isinstance(one, np.floating) else one for name, one in known.items()
    }
    if _overflows(given, reference.cross_entropy_and_grad(given, given_target, **known)):
        return
    _require(compare_loss_and_grad(loss, grad, given, given_target, known))


def _softmax(source: Source) -> None:
    logits, wild = draw_logits(source)
    axis = source.one_of((-1, 0, (0, 1), 5, source.one_of(JUNK)))
    name = source.one_of(("softmax", "log_softmax", "logsumexp"))
    given, out = np.array(logits), None if name == "logsumexp" else _out(source, logits)
    function = functools.partial(getattr(fx, name), backend=source.one_of(BACKENDS))
    result = _tried(function, (logits,), out, {"axis": axis})
    if result is None or wild or given.dtype.kind not in "fV" or not (given.size and given.ndim):
        return
    textbook = getattr(reference, name)

    def compute(x: Array, dtype: Any) -> tuple[Array]:
        return (textbook(x, axis, dtype),)

    scales = (largest if name == "softmax" else each,)
    _require(compare((name,), (result,), compute, given, scales, (ROUNDINGS_OF_SPREAD_MASS,)))


def _backward(source: Source) -> None:
    first, wild = draw_logits(source)
    shape = np.shape(first)
    kind = str(first.dtype) if isinstance(first, np.ndarray) else "float64"
    kinds = (kind if kind != "object" else "float32",) * 7 + ("float32",)
    grad = draw_array(source, shape, kinds, wild)
    axis = source.one_of((-1, 0, 1))
    name = source.one_of(("softmax_backward", "log_softmax_backward"))
    given, given_grad = np.array(first), np.array(grad)
    function = functools.partial(getattr(fx, name), backend=source.one_of(BACKENDS), axis=axis)
    result = _tried(function, (first, grad), _out(source, first), {})
    if result is None or wild or given.dtype.kind not in "fV" or not given.size:
        return
    if name != "softmax_backward":
        return

    def compute(x: Array, dtype: Any) -> tuple[Array]:
        return (reference.softmax_backward(x, given_grad, axis, dtype),)

    if np.isfinite(given.astype(float)).all() and np.isfinite(given_grad.astype(float)).all():
        scales = (lambda truth: max(1.0, float(largest(truth))),)
        _require(compare((name,), (result,), compute, given, scales, (ROUNDINGS_OF_SPREAD_MASS,)))


def _binary(source: Source) -> None:
    logits, wild = draw_logits(source)
    shape = np.shape(logits)
    target = draw_array(source, shape, ("float32", "float64", "bool", "float16", "uint8"), False)
    if isinstance(target, np.ndarray) and target.dtype.kind in "fu":
        target = pick_layout(source, (np.abs(target) > 0.5).astype(target.dtype), None)
    options: dict[str, Any] = {}
    for name in ("weight", "pos_weight"):
        if source.chance(4):
            numbers = np.abs(source.numbers.standard_normal(shape[-1:] or ()))
            options[name] = source.one_of((0.5, np.asarray(numbers), np.asarray(numbers, "f4")))
    if source.chance(3):
        options["label_smoothing"] = source.one_of((0.1, 1.0))
    if source.chance(3):
        options["reduction"] = source.one_of(("none", "sum"))
    if options and source.chance(10):
        options[source.one_of(tuple(options))] = source.one_of(JUNK)
    given, given_target = np.array(logits), np.array(target)
    function = functools.partial(
        fx.binary_cross_entropy_with_logits_and_grad, backend=source.one_of(BACKENDS)
    )
    result = _tried(function, (logits, target), _out(source, logits), options)
    if result is None or wild or given.dtype.kind not in "fV" or not given.size:
        return

    def compute(x: Array, dtype: Any) -> tuple[Array, ...]:
        return reference.binary_cross_entropy_with_logits_and_grad(
            x, given_target, **options, dtype=dtype
        )

    if _overflows(given, compute(given, np.float64)):
        return
    scales = (each, lambda truth: max(float(largest(truth)), 1 / given.size))
    names, roundings = ("loss", "gradient"), (ROUNDINGS_OF_SPREAD_MASS,) * 2
    _require(compare(names, result[:2], compute, given, scales, roundings))


def _labels(source: Source) -> None:
    target = draw_target(source, np.zeros((1 + source.below(20), 1 + source.below(20))), -1, False)
    classes = source.one_of((1, 5, 20, 300, 0, -3, source.one_of(JUNK)))
    _tried(
        fx.check_labels, (target, classes), None, {"ignore_index": source.one_of((-100, None, 3))}
    )


VERBS = (_loss, _loss, _loss, _loss, _softmax, _backward, _binary, _labels)


def call(data: bytes) -> None:
    """Make the call that the bytes describe.

    Raises
    ------
    Wrong
        The result is not that of the reference, or something was written that must not be.
    Exception
        Any that is no `FastxentError`: nothing of the kind is documented.
    """
    source = Source(data)
    with np.errstate(all="ignore"):
        source.one_of(VERBS)(source)
