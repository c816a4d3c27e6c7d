"""One loss a row by the adapter of the framework that Keras runs on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fastxent import api
from fastxent.checks.keras import raise_fractional_labels, raise_keras_backend

__all__ = ["class_indices", "row_losses"]

# Each takes logits, target, axis and the options.
_Losses = Callable[..., Any]


def _tensorflow(logits: Any, target: Any, axis: int, **options: Any) -> Any:
    adapter = importlib.import_module("fastxent.tensorflow")
    return adapter.cross_entropy(logits, target, axis=axis, **options)


def _jax(logits: Any, target: Any, axis: int, **options: Any) -> Any:
    adapter = importlib.import_module("fastxent.jax")
    return adapter.cross_entropy(logits, target, axis=axis, reduction="none", **options)


def _torch(logits: Any, target: Any, axis: int, **options: Any) -> Any:
    """Class axis 1, or 0 of one row, as the functions of PyTorch have it; all views."""
    adapter = importlib.import_module("fastxent.torch")
    at = min(1, logits.ndim - 1)
    if target.ndim == logits.ndim:
        target = target.movedim(axis, at)
    return adapter.cross_entropy(logits.movedim(axis, at), target, reduction="none", **options)


def _numpy(logits: Any, target: Any, axis: int, **options: Any) -> Any:
    # of one row the loss is a number, which could not carry a mask
    return np.asarray(api.cross_entropy(logits, target, axis=axis, reduction="none", **options))


_OF_BACKEND: dict[str, _Losses] = {
    "tensorflow": _tensorflow,
    "torch": _torch,
    "jax": _jax,
    "numpy": _numpy,
}


def class_indices(y_true: Any) -> Any:
    """Labels as integers; Keras hands them over in the dtype of the loss.

    Fractions are refused where there are numbers already, not where a function is being traced.
    """
    # JAX has no int64 unless it is switched on
    labels = keras.ops.cast(y_true, "int32" if keras.backend.backend() == "jax" else "int64")
    if keras.backend.is_float_dtype(y_true.dtype) and _has_numbers(y_true):
        differ = keras.ops.not_equal(keras.ops.cast(labels, y_true.dtype), y_true)
        if bool(keras.ops.any(differ)):
            row = int(keras.ops.argmax(keras.ops.cast(keras.ops.reshape(differ, (-1,)), "int32")))
            raise_fractional_labels(row, float(keras.ops.reshape(y_true, (-1,))[row]))
    return labels


def _has_numbers(tensor: Any) -> bool:
    name: str = keras.backend.backend()
    if isinstance(tensor, keras.KerasTensor):
        return False
    if name == "tensorflow":
        return not importlib.import_module("tensorflow").is_symbolic_tensor(tensor)
    if name == "jax":
        return not isinstance(tensor, importlib.import_module("jax").core.Tracer)
    if name == "torch":
        return not importlib.import_module("torch").compiler.is_compiling()
    return name == "numpy"


def row_losses(
    logits: Any, target: Any, axis: int, ignore_index: int | None, label_smoothing: float
) -> Any:
    """One loss a row, in the shape of the logits without the axis."""
    name = keras.backend.backend()
    if name not in _OF_BACKEND:
        raise_keras_backend(name, tuple(_OF_BACKEND))
    return _OF_BACKEND[name](
        logits, target, axis, ignore_index=ignore_index, label_smoothing=label_smoothing
    )
