"""What the calls of `door` share: how one is tried, and whether its result is right."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent.comparison import Comparison, largest, same_bits
from reliability.door_calls import Source, classes_of

__all__ = [
    "FEW_CLASSES",
    "Refused",
    "Wrong",
    "alone_and_with_grad",
    "draw_backend",
    "is_delivered",
    "is_finite",
    "is_known",
    "known_to",
    "overflows",
    "require",
    "require_same_bits",
    "tried",
]

Array = NDArray[Any]
BACKENDS = ("cython",) * 5 + ("numpy",) * 2 + ("numba",)
# Up to so many classes Numba's kernels put rows into the lanes, which are variants of their own.
FEW_CLASSES = 100
# Hundreds of roundings: whether a result is right is asked here, how good it is elsewhere.
LOOSE = 64.0


class Wrong(AssertionError):
    """A result that is not right, or something that a call has changed."""


class Refused(Exception):
    """A documented error, and nothing was written: the call is over, and all is well."""


@functools.cache
def _has(backend: str) -> bool:
    return fx.backends()[backend] is None


def draw_backend(
    source: Source, logits: Any, axis: Any = -1, target: Any = 0, smoothing: Any = 0
) -> str:
    """A backend; Numba's for calls that need one of few variants, as each compiles for seconds.

    That is few classes in float32 or float64 with class indices, or without a target, and label
    smoothing in float32 only: six variants, which other tests compile too. They take any layout
    and all other options.
    """
    name: str = source.one_of(BACKENDS)
    if name != "numba":
        return name
    fits = (
        isinstance(logits, np.ndarray)
        and logits.dtype.isnative
        and logits.dtype in (np.float32, np.float64)
        and classes_of(logits, axis) <= FEW_CLASSES
        and np.asarray(target).dtype.kind in "iu"
        and (logits.dtype == np.float32 or (isinstance(smoothing, int | float) and smoothing == 0))
    )
    return name if fits and _has(name) else "cython"


def _arrays_in(things: Any) -> Iterator[Array]:
    if isinstance(things, np.ndarray):
        yield things
    elif isinstance(things, tuple | list | dict):
        for one in things.values() if isinstance(things, dict) else things:
            yield from _arrays_in(one)


def _bits(arrays: Iterable[Array]) -> list[bytes]:
    return [one.tobytes() for one in arrays]


def tried(function: Callable[..., Any], *arguments: Any, out: Any = None, **options: Any) -> Any:
    """Give the result of a call that changes nothing but `out`.

    Raises
    ------
    Refused
        The error is a documented one, and nothing has been written.
    Wrong
        An input, or after an error an output, was written to.
    """
    inputs, outputs = list(_arrays_in((arguments, options))), list(_arrays_in(out))
    before = _bits([*inputs, *outputs])
    into = {} if out is None else {"out": out}
    try:
        result = function(*arguments, **options, **into)
    except fx.FastxentError as error:
        if not str(error):
            raise Wrong("an error without a text") from error
        if _bits([*inputs, *outputs]) != before:
            raise Wrong(f"something was written before {error!r}") from error
        raise Refused from error
    for one, kept in zip(inputs, before, strict=False):
        if one.tobytes() != kept and not any(np.shares_memory(one, other) for other in outputs):
            raise Wrong("an input was written to")
    return result


def alone_and_with_grad(
    alone: Callable[..., Any],
    fused: Callable[..., Any],
    *arguments: Any,
    out: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Results of a loss alone and with its gradient, which must like the same arguments."""
    try:
        value = tried(alone, *arguments, **known_to(alone, options))
    except Refused as refusal:
        tried(fused, *arguments, out=out, **options)
        raise Wrong(f"only the loss alone raises {refusal.__cause__!r}") from refusal
    return value, tried(fused, *arguments, out=out, **options)


def known_to(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those options that a function has."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}


def is_known(given: Array, wild: bool) -> bool:
    """Whether the reference is asked: arbitrary bits are about errors and crashes only."""
    return not wild and given.dtype.kind in "fV" and bool(given.size) and bool(given.ndim)


def is_finite(*arrays: Any) -> bool:
    """Whether all numbers are finite; integers always are."""
    return all(
        one.dtype.kind in "biu" or bool(np.isfinite(one.astype(float)).all())
        for one in map(np.asarray, arrays)
    )


def is_delivered(result: Any, out: Any) -> None:
    """Hold that what went into an array is that array."""
    if out is not None and result is not out:
        raise Wrong("the result is not the array that was given for it")


def overflows(given: Array, truths: Iterable[Any]) -> bool:
    """Whether a result has no room in float16, as with weights of 2**31: it is infinite then."""
    return given.dtype == np.float16 and any(largest(np.asarray(truth)) > 65504 for truth in truths)


def require(comparisons: Iterable[Comparison]) -> None:
    """Hold results to a loose multiple of what they may be off."""
    for one in comparisons:
        if not one.error <= max(LOOSE * one.tolerance, 1e-4 if one.tolerance > 1e-9 else 1e-10):
            raise Wrong(str(one))


def require_same_bits(words: str, one: Any, other: Any) -> None:
    """Hold two ways to the same result to one another."""
    if not same_bits(one, other):
        raise Wrong(f"{words}: {one} and {other}")
