"""What only the losses of Keras can be asked for."""

from __future__ import annotations

from typing import Any, NoReturn

from fastxent.errors import BackendError, DTypeError, LabelError, OptionError

__all__ = [
    "check_exact_labels",
    "check_from_logits",
    "raise_fractional_labels",
    "raise_keras_backend",
]

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
    exact = _EXACT.get(dtype)
    if exact is None:
        raise DTypeError(
            f"the loss computes in its dtype, and {dtype} is none to compute in: pass "
            f"dtype='float32' to it, or another of {', '.join(_EXACT)}"
        )
    largest = max((classes or 1) - 1, abs(ignore_class or 0))
    if largest > exact:
        raise OptionError(
            f"Keras converts labels to the dtype of the loss, {dtype}, which holds integers up to "
            f"{exact} only, and labels go up to {largest}: pass dtype='float32' to the loss, or "
            "'float64'"
        )


def raise_fractional_labels(row: int, label: float) -> NoReturn:
    """Report class indices that are none: the conversion to integers would make some of them."""
    raise LabelError(
        f"the label of row {row} is {label:g}: class indices are whole numbers; probabilities go "
        "to CategoricalCrossentropy"
    )


def raise_keras_backend(name: str, known: tuple[str, ...]) -> None:
    """Say which backends of Keras there are adapters for."""
    raise BackendError(
        f"Keras runs on {name!r}, for which fastxent has no adapter: set KERAS_BACKEND to one of "
        f"{', '.join(known)}"
    )
