"""What only the loss behind a linear layer can have wrong: shapes, gradients, memory."""

from __future__ import annotations

import math
from typing import Any

from fastxent.checks.arrays import check_logits
from fastxent.checks.axes import check_axes
from fastxent.checks.on_device import is_on_device
from fastxent.checks.output import as_output, check_out, overlap
from fastxent.checks.reading import number, shown
from fastxent.errors import BackendError, DTypeError, OptionError, OutputError, ShapeError
from fastxent.precision import Array, native

__all__ = [
    "check_grad_filter",
    "check_grad_names",
    "check_linear_arrays",
    "check_linear_out",
    "check_memory_budget",
    "check_on_host",
]


def check_on_host(arrays: dict[str, Any]) -> None:
    """Arrays of the host: those on a GPU go to the framework that multiplies there."""
    for name, value in arrays.items():
        if value is not None and is_on_device(value):
            raise BackendError(
                f"{name} is on a GPU, and this function multiplies matrices on the host: use "
                "fastxent.torch.linear_cross_entropy for tensors on a GPU, or copy the arrays to "
                "the host"
            )


def check_linear_arrays(
    hidden: Any, linear_weight: Any, linear_bias: Any, axis: Any
) -> tuple[Array, Array, Array | None, int]:
    """Hidden vectors, a matrix with a row a class, a bias a class; where the features are."""
    hidden = check_logits(hidden, "hidden", may_be_scalar=True)
    if hidden.ndim == 0:
        raise ShapeError("hidden is a scalar: expected an array with at least the feature axis")
    (at,) = check_axes((axis,), hidden, True, "hidden")
    weight = check_logits(linear_weight, "linear_weight", may_be_scalar=True)
    features = hidden.shape[at]
    if weight.ndim != 2:
        raise ShapeError(
            f"linear_weight needs shape (C, {features}), a row of features a class; it has "
            f"{shown(weight.shape)}"
        )
    if weight.shape[1] != features:
        message = (
            f"hidden of {shown(hidden.shape)} has {features} features along axis {at} and "
            f"linear_weight of {shown(weight.shape)} has {weight.shape[1]} a class"
        )
        if weight.shape[0] == features:
            message += ": if its columns are the classes, pass linear_weight.T"
        raise ShapeError(message)
    if weight.shape[0] == 0:
        raise ShapeError(f"linear_weight of {shown(weight.shape)} has no class")
    if linear_bias is None:
        return hidden, weight, None, at
    bias = check_logits(linear_bias, "linear_bias", may_be_scalar=True)
    if bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"linear_bias needs shape {weight.shape[:1]}, one number a class; it has "
            f"{shown(bias.shape)}"
        )
    return hidden, weight, bias, at


def check_grad_names(value: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which gradients are asked for, each once."""
    if isinstance(value, str):
        raise OptionError(f"grads needs an iterable of names, not one string: pass ({value!r},)")
    try:
        asked = tuple(value)
    except TypeError:
        raise DTypeError(
            f"grads must be an iterable of names such as ('hidden',), got {value!r}"
        ) from None
    for at, name in enumerate(asked):
        if not (isinstance(name, str) and name in names):
            known = ", ".join(repr(one) for one in names)
            raise OptionError(f"grads[{at}] must be one of {known}; got {name!r}")
        if name in asked[:at]:
            raise OptionError(f"grads names {name!r} twice: name each gradient once")
    return asked


def check_grad_filter(value: Any) -> float:
    """Size below which entries of the logits' gradient may be left out; 0 for None."""
    if value is None:
        return 0.0
    size = number(value, "grad_filter")
    if not (math.isfinite(size) and size >= 0):
        raise OptionError(f"grad_filter must be finite and not negative, got {value!r}")
    return size


def check_memory_budget(value: Any, least: int) -> int:
    """Bytes of temporary memory, enough for one row of logits or one window of a file."""
    budget = number(value, "memory_budget")
    if not budget > 0 or math.isinf(budget):
        raise OptionError(
            f"memory_budget is a number of bytes, finite and above 0, got {value!r}; None for the "
            "default"
        )
    if budget < least:
        raise OptionError(
            f"memory_budget of {value!r} bytes holds no row of logits: these arrays need at least "
            f"{least} bytes"
        )
    return int(budget)


def check_linear_out(
    out: Any, inputs: dict[str, Array | None], asked: tuple[str, ...], names: tuple[str, ...]
) -> dict[str, Array]:
    """Buffers for gradients by name; that of `hidden` may be `hidden` itself, no other an input.

    `inputs` has the arrays by name, those that `names` names among them.
    """
    if out is None:
        return {}
    if not isinstance(out, tuple) or len(out) != len(names):
        raise DTypeError(
            "out must be a LinearGrads of arrays, None for each that is to be new, got "
            f"{type(out).__name__}"
        )
    checked: dict[str, Array] = {}
    for name, given in zip(names, out, strict=True):
        if given is None:
            continue
        called, like = f"out.{name}", inputs[name]
        if like is None or name not in asked:
            reason = "there is none" if like is None else "grads does not name it"
            raise OptionError(f"{called} is memory for a gradient, but {reason}")
        others = {other: one for other, one in inputs.items() if other != name}
        if name != "hidden":
            others[name] = like
        array = as_output(given)
        may_be = like if name == "hidden" else array
        check_out(array, may_be, others, like.shape, native(like.dtype), name, called)
        for other, one in checked.items():
            if overlap(array, one):
                raise OutputError(f"{called} shares memory with out.{other}")
        checked[name] = array
    return checked
