"""One loss a row by the adapter of the framework that Keras runs on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fastxent import api
from fastxent.checks.keras import raise_keras_backend

__all__ = ["index_dtype", "row_losses"]

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


def index_dtype() -> str:
    """Dtype of class indices: JAX has no int64 unless it is switched on."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


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
