"""The door: every message for a bad argument, and the only place that raises one.

Each function takes what the caller gave and returns what the rest of the library can trust.
Nothing is computed and nothing is written before all of them have passed.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fastxent.errors import (
    BackendError,
    CallOrderError,
    DTypeError,
    LabelError,
    OptionError,
    OutputError,
    ShapeError,
)
from fastxent.layout import same_memory
from fastxent.precision import Array, kind_of

__all__ = [
    "check_axis",
    "check_choice",
    "check_class_indices",
    "check_grad_output",
    "check_ignore_index",
    "check_label_smoothing",
    "check_logits",
    "check_normalizer",
    "check_num_classes",
    "check_num_threads",
    "check_out",
    "check_sample_weight",
    "check_target",
    "check_weight",
    "raise_backend",
    "raise_bad_label",
    "raise_call_order",
]

# How hard NumPy may search for a common element before two arrays count as overlapping.
# Any, because NumPy's type stubs know the special values -1 and 0 only.
_OVERLAP_WORK: Any = 10_000


def _as_array(value: Any, name: str) -> Array:
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return value.view(np.ndarray) if type(value) is not np.ndarray else value
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is a masked array and its mask would be lost: drop rows with ignore_index, "
            f"drop classes with logits of -inf, and pass {name}.data"
        )
    if hasattr(value, "__cuda_array_interface__"):
        raise DTypeError(
            f"{name} lives on a GPU and no backend for it is available: copy it to the CPU first"
        )
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (ValueError, TypeError, BufferError, OverflowError) as error:
        raise DTypeError(f"{name} cannot be read as an array: {error}") from error


def _shown(shape: tuple[int, ...]) -> str:
    return "a scalar" if shape == () else f"shape {shape}"


def check_logits(value: Any, name: str = "logits") -> Array:
    """Real floating array of at least one dimension, in a dtype that can be computed with."""
    logits = _as_array(value, name)
    if kind_of(logits.dtype) not in ("float32", "float64"):
        kind = logits.dtype.kind
        if kind in "iub":
            cure = f"integers and booleans are not converted silently: {name}.astype('float32')"
        elif kind == "f":
            cure = f"float32 and float64 are supported: {name}.astype('float32')"
        else:
            cure = f"{name} must be real floating-point numbers, float32 or float64"
        raise DTypeError(f"{name} has dtype {logits.dtype}: {cure}")
    if logits.ndim == 0:
        raise ShapeError(f"{name} is a scalar: expected an array with at least the class axis")
    return logits


def check_axis(axis: Any, logits: Array, name: str = "logits") -> int:
    """Class axis counted from the front, with at least one class along it."""
    try:
        index = operator.index(axis)
    except TypeError:
        raise DTypeError(f"axis must be one integer, got {axis!r}") from None
    if not -logits.ndim <= index < logits.ndim:
        raise ShapeError(
            f"axis {index} is out of range for {name} of {logits.ndim} dimension(s), "
            f"{_shown(logits.shape)}"
        )
    index %= logits.ndim
    if logits.shape[index] == 0:
        raise ShapeError(f"{name} of {_shown(logits.shape)} have no class along axis {index}")
    return index


def check_target(value: Any, logits: Array, axis: int) -> Array:
    """Class indices of the rows' shape, or probabilities of the logits' shape."""
    target = _as_array(value, "target")
    rows_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    kind = target.dtype.kind
    if kind in "iu":
        if target.shape == rows_shape:
            return target
        message = (
            f"target of dtype {target.dtype} holds class indices and needs {_shown(rows_shape)}, "
            f"that of logits {logits.shape} without axis {axis}; it has {_shown(target.shape)}."
        )
        if target.shape == logits.shape:
            message += (
                " If these are probabilities or one-hot rows, pass them as floating-point or "
                "boolean numbers: target.astype('float32')"
            )
        if target.shape[:axis] + target.shape[axis + 1 :] == rows_shape and (
            target.ndim == logits.ndim and target.shape[axis] == 1
        ):
            message += f" If these are class indices, drop the axis: target.squeeze({axis})"
        raise ShapeError(message)
    if kind == "b" or kind_of(target.dtype) in ("float32", "float64"):
        if target.shape == logits.shape:
            return target
        message = (
            f"target of dtype {target.dtype} holds probabilities and needs the logits' shape "
            f"{logits.shape}; it has {_shown(target.shape)}."
        )
        if target.shape == rows_shape:
            message += " If these are class indices, pass integers: target.astype('int64')"
        raise ShapeError(message)
    raise DTypeError(
        f"target has dtype {target.dtype}: expected an integer dtype (class indices), or float32, "
        "float64 or bool (probabilities)"
    )


def check_class_indices(value: Any) -> Array:
    """Integer array of any shape."""
    target = _as_array(value, "target")
    if target.dtype.kind not in "iu":
        raise DTypeError(f"class indices must be integers, target has dtype {target.dtype}")
    return target


def check_num_classes(value: Any) -> int:
    """At least one class."""
    num_classes = _integer(value, "num_classes")
    if not 1 <= num_classes < 2**63:
        raise OptionError(f"num_classes must be at least 1 and below 2**63, got {num_classes}")
    return num_classes


def raise_bad_label(target: Array, row: int, num_classes: int, skip: int | None) -> NoReturn:
    """Name the first bad label, its place and the range."""
    place = np.unravel_index(row, target.shape) if target.ndim else ()
    where = "target" + (f"[{', '.join(str(int(i)) for i in place)}]" if place else "")
    ignored = "" if skip is None else f" and is not ignore_index = {skip}"
    raise LabelError(
        f"{where} is {target[place]}: it lies outside [0, {num_classes}) for C = {num_classes} "
        f"classes{ignored}"
    )


def _integer(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise DTypeError(f"{name} must be an integer, got {value!r}") from None


def _number(value: Any, name: str) -> float:
    if isinstance(value, float):
        return value
    array = _as_array(value, name)
    if array.shape != () or array.dtype.kind not in "fiub":
        raise DTypeError(f"{name} must be one real number, got {value!r}")
    return float(array)


def _reals(value: Any, name: str) -> Array:
    array = _as_array(value, name)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{name} has dtype {array.dtype}: expected real numbers")
    return np.require(array, np.float64, ["C_CONTIGUOUS", "ALIGNED"])


def _weights(value: Any, name: str, shape: tuple[int, ...], meaning: str) -> Array:
    array = _reals(value, name)
    if array.shape != shape:
        raise ShapeError(f"{name} needs {_shown(shape)}, {meaning}; it has {_shown(array.shape)}")
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"{name}[{', '.join(map(str, place))}]" if place else name
        raise OptionError(f"{where} is {array[place]}: weights must be finite and not negative")
    return array


def check_weight(value: Any, num_classes: int) -> Array | None:
    """Class weights as a float64 array of shape (C,)."""
    if value is None:
        return None
    return _weights(value, "weight", (num_classes,), "one weight a class")


def check_sample_weight(value: Any, rows_shape: tuple[int, ...]) -> Array | None:
    """Row weights as a float64 array of shape (N,)."""
    if value is None:
        return None
    return _weights(value, "sample_weight", rows_shape, "one weight a row").reshape(-1)


def check_grad_output(value: Any, rows_shape: tuple[int, ...]) -> float | Array | None:
    """Upstream gradient: a float, or a float64 array of shape (N,)."""
    if value is None:
        return None
    array = _reals(value, "grad_output")
    if array.shape == ():
        return float(array)
    if array.shape != rows_shape:
        raise ShapeError(
            f"grad_output must be a scalar or have one value a row, {_shown(rows_shape)}; "
            f"it has {_shown(array.shape)}"
        )
    return array.reshape(-1)


def check_label_smoothing(value: Any) -> float:
    """A number in [0, 1]."""
    smoothing = _number(value, "label_smoothing")
    if not 0.0 <= smoothing <= 1.0:
        raise OptionError(f"label_smoothing must lie in [0, 1], got {value!r}")
    return smoothing


def check_ignore_index(value: Any, target: Array) -> int | None:
    """The label that drops its row; None where there is none, as for probabilities."""
    if value is None:
        return None
    index = _integer(value, "ignore_index")
    if target.dtype.kind in "iu":
        return index
    if index >= 0:
        raise OptionError(
            f"ignore_index = {index} was given with probability targets, which have no labels to "
            "compare it with: pass ignore_index=None, and leave such rows out"
        )
    return None


def check_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if not (isinstance(value, str) and value in choices):
        known = ", ".join(repr(choice) for choice in choices)
        raise OptionError(f"{name} must be one of {known}; got {value!r}")
    return value


def check_normalizer(value: Any, reduction: str) -> float | None:
    """The denominator that stands in for the mean's own; not negative."""
    if value is None:
        return None
    normalizer = _number(value, "normalizer")
    if reduction != "mean":
        raise OptionError(
            f"normalizer replaces the mean's denominator and needs reduction='mean', not "
            f"{reduction!r}"
        )
    if not (math.isfinite(normalizer) and normalizer >= 0):
        raise OptionError(f"normalizer must be finite and not negative, got {value!r}")
    return normalizer


def check_num_threads(value: Any, name: str = "num_threads") -> int:
    """At least one thread."""
    threads = _integer(value, name)
    if threads < 1:
        raise OptionError(f"{name} must be at least 1, got {threads}")
    return threads


def _overlap(first: Array, second: Array) -> bool:
    try:
        return bool(np.shares_memory(first, second, max_work=_OVERLAP_WORK))
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(array: Array) -> bool:
    """Whether two of its entries are one in memory."""
    if not array.size:
        return False
    axes = [axis for axis in zip(array.strides, array.shape, strict=True) if axis[1] > 1]
    span = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in axes):
        if stride < span:
            break
        span += stride * (size - 1)
    else:
        return False
    # an axis steps into what the finer ones span: only an odd view does, so count its addresses
    addresses = np.zeros(1, np.int64)
    for stride, size in axes:
        addresses = np.add.outer(addresses, np.arange(size) * stride).reshape(-1)
    return bool(np.diff(np.sort(addresses)).min(initial=array.itemsize) < array.itemsize)


def check_out(
    out: Any,
    logits: Array,
    others: dict[str, Array | None],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
) -> Array | None:
    """Array that can be written to and shares memory with nothing but, exactly, the logits."""
    if out is None:
        return None
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise DTypeError(f"out must be a plain NumPy array, got {type(out).__name__}")
    if out.shape != shape:
        raise ShapeError(f"out needs {_shown(shape)}; it has {_shown(out.shape)}")
    if out.dtype != dtype:
        raise DTypeError(f"out needs dtype {np.dtype(dtype)} in native byte order, not {out.dtype}")
    if not out.flags.writeable:
        raise OutputError("out is read-only")
    if _overlaps_itself(out):
        raise OutputError(
            "out is a broadcast or overlapping view: several of its entries are one in memory"
        )
    if not same_memory(out, logits) and _overlap(out, logits):
        raise OutputError(
            "out overlaps the logits without being the same array: pass out=logits to write over "
            "them, or an array of its own"
        )
    for name, other in others.items():
        if other is not None and _overlap(out, other):
            raise OutputError(f"out shares memory with {name}, which would be overwritten")
    return out


def raise_backend(message: str) -> NoReturn:
    """Report a backend that cannot run."""
    raise BackendError(message)


def raise_call_order(message: str) -> NoReturn:
    """Report a method that was called too early."""
    raise CallOrderError(message)
