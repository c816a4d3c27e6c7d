"""Arguments of scikit-learn's losses: scores, targets stored as floats, and where results go."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.checks.output import check_out, overlap
from fastxent.checks.reading import as_array, shown
from fastxent.errors import DTypeError, LabelError, OutputError, ShapeError
from fastxent.layout import same_memory
from fastxent.precision import Array, native

__all__ = ["check_class_values", "check_half_output", "check_raw_prediction", "check_weight_shape"]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_LABELS = np.dtype(np.int32)
_MAY_BE_RAW = "gradient_out"


def check_raw_prediction(value: Any, is_multiclass: bool) -> Array:
    """Scores in float32 or float64: (N, C), or (N,) where there is one a row; (N, 1) is (N,)."""
    raw = as_array(value, "raw_prediction")
    if native(raw.dtype) not in _FLOATS:
        raise DTypeError(f"raw_prediction has dtype {raw.dtype}: expected float32 or float64")
    if is_multiclass:
        if raw.ndim != 2 or raw.shape[1] == 0:
            raise ShapeError(
                f"raw_prediction needs shape (n_samples, n_classes); it has {shown(raw.shape)}"
            )
        return raw
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1:
        raise ShapeError(
            f"raw_prediction needs shape (n_samples,) or (n_samples, 1); it has {shown(raw.shape)}"
        )
    return raw


def check_class_values(value: Any, rows: int) -> Array:
    """Class indices as integers; scikit-learn stores them in floating-point numbers.

    Whether they are below the number of classes is seen where all labels are checked.
    """
    target = as_array(value, "y_true")
    if target.shape != (rows,):
        raise ShapeError(
            f"y_true needs {shown((rows,))}, one class index a row of raw_prediction; it has "
            f"{shown(target.shape)}"
        )
    if target.dtype.kind in "iu":
        return target
    if native(target.dtype) not in _FLOATS:
        raise DTypeError(
            f"y_true has dtype {target.dtype}: expected class indices 0, 1, 2, ... as float32, "
            "float64 or integers"
        )
    with np.errstate(invalid="ignore"):  # what is no int32 becomes one that differs from it
        labels: Array = target.astype(_LABELS)
    # back in the dtype of the target: comparing integers with floats takes twice as long
    same = labels.astype(target.dtype) == target
    if not same.all():
        row = int(np.argmin(same))
        raise LabelError(
            f"y_true[{row}] is {target[row]}: a class index is a whole number from 0 on; encode "
            "labels with sklearn.preprocessing.LabelEncoder"
        )
    return labels


def check_weight_shape(value: Any, rows: int) -> Array | None:
    """One weight a row, or None; the binary loss itself would spread a single one over all rows."""
    if value is None:
        return None
    weight = as_array(value, "sample_weight")
    if weight.shape != (rows,):
        raise ShapeError(
            f"sample_weight needs {shown((rows,))}, one weight a row; it has {shown(weight.shape)}"
        )
    return weight


def check_half_output(
    out: Any, name: str, shape: tuple[int, ...], inputs: dict[str, Any], raw: Array
) -> Array:
    """Array of float32 or float64 for a result; only the gradient may go over the scores.

    `inputs` are the other arrays of the call, by the names that the caller knows.
    """
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise DTypeError(f"{name} must be a plain NumPy array, got {type(out).__name__}")
    if out.dtype not in _FLOATS:
        raise DTypeError(
            f"{name} needs dtype float32 or float64 in native byte order, not {out.dtype}"
        )
    is_column = len(shape) == 1 and out.ndim == 2 and out.shape[1] == 1
    array: Array = out[:, 0] if is_column else out
    if array.shape != shape:
        raise ShapeError(f"{name} needs {shown(shape)}; it has {shown(array.shape)}")
    if not array.flags.writeable:
        raise OutputError(f"{name} is read-only")
    check_out(array, array, {}, shape, array.dtype)
    for other_name, other in inputs.items():
        if isinstance(other, np.ndarray) and overlap(array, other):
            raise OutputError(f"{name} shares memory with {other_name}: pass an array of its own")
    if not overlap(array, raw):
        return array
    if name != _MAY_BE_RAW:
        raise OutputError(
            f"{name} shares memory with raw_prediction: only {_MAY_BE_RAW} may be written over it"
        )
    if not same_memory(array, raw):
        raise OutputError(
            f"{name} overlaps raw_prediction without being the same array: pass raw_prediction "
            "itself to write over it, or an array of its own"
        )
    return array
