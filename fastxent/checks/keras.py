"""What only the losses of Keras can be asked for."""

from __future__ import annotations

from typing import Any

from fastxent.errors import BackendError, OptionError

__all__ = ["check_exact_labels", "check_from_logits", "raise_keras_backend"]

# Largest integer below which a float of this dtype holds every integer.
_EXACT = {"bfloat16": 1 << 8, "float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}


def check_from_logits(from_logits: Any, name: str) -> None:
    """Keras takes probabilities unless told otherwise; these losses have the softmax inside."""
    if from_logits is not True:
        raise OptionError(
            f"{name} takes logits, got from_logits={from_logits!r} (the default of Keras): leave "
            "the softmax out of the model's last layer and pass from_logits=True"
        )


def check_exact_labels(dtype: str, classes: int | None, ignore_class: int | None) -> None:
    """Keras hands labels to a loss in the loss's own dtype, which must not merge classes."""
    exact = _EXACT.get(dtype, 0)
    largest = max((classes or 1) - 1, abs(ignore_class or 0))
    if largest > exact:
        raise OptionError(
            f"Keras converts labels to the dtype of the loss, {dtype}, which holds integers up to "
            f"{exact} only, and labels go up to {largest}: pass dtype='float32' to the loss, or "
            "'float64'"
        )


def raise_keras_backend(name: str, known: tuple[str, ...]) -> None:
    """Say which backends of Keras there are adapters for."""
    raise BackendError(
        f"Keras runs on {name!r}, for which fastxent has no adapter: set KERAS_BACKEND to one of "
        f"{', '.join(known)}"
    )
