"""Arrays of logits, targets and factors: their dtype, their shape, their values."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from fastxent.checks.reading import as_array, reals, shown
from fastxent.errors import DTypeError, LabelError, OptionError, ShapeError
from fastxent.precision import Array, kind_of, native, precision_of

__all__ = [
    "check_class_indices",
    "check_grad_output",
    "check_logits",
    "check_sample_weight",
    "check_target",
    "check_weight",
    "raise_bad_label",
]

_SUPPORTED = "float16, bfloat16, float32 and float64"


def _to(name: str, dtype: str) -> str:
    return f"{name}.astype('{dtype}'), or {name}.to(torch.{dtype}) of a PyTorch tensor"


def check_logits(
    value: Any, name: str = "logits", storage: str | None = None, may_be_scalar: bool = False
) -> Array:
    """Real floating array of at least one dimension, in a dtype that can be computed with."""
    logits = as_array(value, name)
    if storage is not None and native(logits.dtype) != np.uint16:
        raise DTypeError(
            f"storage = {storage!r} tells what the bits in uint16 arrays are, and {name} has dtype "
            f"{logits.dtype}: leave storage out, or pass {name}.view('uint16')"
        )
    if precision_of(logits.dtype, storage) is None:
        kind = logits.dtype.kind
        if native(logits.dtype) == np.uint16:
            cure = (
                f"if these are the bits of half precision, {name}.view(ml_dtypes.bfloat16) or "
                f"{name}.view('float16'); integers are not converted silently"
            )
        elif kind in "iub":
            cure = f"integers and booleans are not converted silently: {_to(name, 'float32')}"
        elif kind == "f":
            cure = f"{_SUPPORTED} are supported: {_to(name, 'float32')}"
        else:
            cure = f"{name} must be real floating-point numbers: {_SUPPORTED}"
        raise DTypeError(f"{name} has dtype {logits.dtype}: {cure}")
    if logits.ndim == 0 and not may_be_scalar:
        raise ShapeError(f"{name} is a scalar: expected an array with at least the class axis")
    return logits


def check_target(
    value: Any, logits: Array, axis: int, storage: str | None = None
) -> tuple[Array, bool]:
    """Class indices of the rows' shape, or probabilities of the logits' shape; which they are."""
    target = as_array(value, "target")
    rows_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    # Where an adapter gave the bits of half precision, labels of uint16 are told by their shape.
    are_bits = storage is not None and target.shape != rows_shape
    if target.dtype.kind in "iu" and not (are_bits and target.dtype == np.uint16):
        if target.shape == rows_shape:
            return target, True
        raise ShapeError(_wrong_indices(target, logits, axis, rows_shape))
    if kind_of(target.dtype, storage) is None:
        raise DTypeError(
            f"target has dtype {target.dtype}: expected an integer dtype (class indices), or "
            f"bool, {_SUPPORTED} (probabilities)"
        )
    if target.shape != logits.shape:
        message = (
            f"target of dtype {target.dtype} holds probabilities and needs the logits' shape "
            f"{logits.shape}; it has {shown(target.shape)}."
        )
        if target.shape == rows_shape:
            message += f" If these are class indices, pass integers: {_to('target', 'int64')}"
        raise ShapeError(message)
    return target, False


def _wrong_indices(target: Array, logits: Array, axis: int, rows_shape: tuple[int, ...]) -> str:
    message = (
        f"target of dtype {target.dtype} holds class indices and needs {shown(rows_shape)}, "
        f"that of logits {logits.shape} without axis {axis}; it has {shown(target.shape)}."
    )
    if target.shape == logits.shape:
        message += (
            " If these are probabilities or one-hot rows, pass them as floating-point or "
            f"boolean numbers: {_to('target', 'float32')}"
        )
    if target.shape[:axis] + target.shape[axis + 1 :] == rows_shape and (
        target.ndim == logits.ndim and target.shape[axis] == 1
    ):
        message += f" If these are class indices, drop the axis: target.squeeze({axis})"
    return message


def check_class_indices(value: Any) -> Array:
    """Integer array of any shape."""
    target = as_array(value, "target")
    if target.dtype.kind not in "iu":
        raise DTypeError(f"class indices must be integers, target has dtype {target.dtype}")
    return target


def raise_bad_label(target: Array, row: int, num_classes: int, skip: int | None) -> NoReturn:
    """Name the first bad label, its place and the range."""
    place = np.unravel_index(row, target.shape) if target.ndim else ()
    where = "target" + (f"[{', '.join(str(int(i)) for i in place)}]" if place else "")
    ignored = "" if skip is None else f" and is not ignore_index = {skip}"
    raise LabelError(
        f"{where} is {target[place]}: it lies outside [0, {num_classes}) for C = {num_classes} "
        f"classes{ignored}"
    )


def _weights(value: Any, name: str, shape: tuple[int, ...], meaning: str) -> Array:
    array = reals(value, name)
    if array.shape != shape:
        raise ShapeError(f"{name} needs {shown(shape)}, {meaning}; it has {shown(array.shape)}")
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"{name}[{', '.join(map(str, place))}]" if place else name
        raise OptionError(f"{where} is {array[place]}: weights must be finite and not negative")
    return array


def check_weight(value: Any, num_classes: int, compute: np.dtype[Any]) -> Array | None:
    """Class weights as a float64 array of shape (C,), all finite in the dtype that computes."""
    if value is None:
        return None
    weights = _weights(value, "weight", (num_classes,), "one weight a class")
    with np.errstate(over="ignore"):
        too_large = np.isinf(weights.astype(compute))
    if too_large.any():
        at = int(too_large.argmax())
        raise OptionError(
            f"weight[{at}] is {weights[at]}: the weight of a class must be finite in {compute}, "
            "which computes"
        )
    return weights


def check_sample_weight(value: Any, rows_shape: tuple[int, ...]) -> Array | None:
    """Row weights as a float64 array of shape (N,)."""
    if value is None:
        return None
    return _weights(value, "sample_weight", rows_shape, "one weight a row").reshape(-1)


def check_grad_output(value: Any, rows_shape: tuple[int, ...]) -> float | Array | None:
    """Upstream gradient: a float, or a float64 array of shape (N,)."""
    if value is None:
        return None
    array = reals(value, "grad_output")
    if array.shape == ():
        return float(array)
    if array.shape != rows_shape:
        raise ShapeError(
            f"grad_output must be a scalar or have one value a row, {shown(rows_shape)}; "
            f"it has {shown(array.shape)}"
        )
    return array.reshape(-1)
