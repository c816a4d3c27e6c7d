"""What only tensors of TensorFlow can have wrong: told while a graph is built, not when it runs."""

from __future__ import annotations

from typing import Any

from fastxent.errors import BackendError, DTypeError, OptionError, ShapeError

__all__ = [
    "check_eager_device",
    "check_forward_mode",
    "check_given",
    "check_labels_of_classes",
    "check_labels_of_elements",
    "check_no_xla",
    "check_numbers",
    "check_probabilities",
]

# Static shapes: sizes that only the running graph knows are None, and so is an unknown rank.
Shape = tuple[int | None, ...] | None


def check_given(**tensors: Any) -> None:
    """Labels and logits have defaults in `sigmoid_cross_entropy_with_logits`, but no meaning."""
    for name, tensor in tensors.items():
        if tensor is None:
            raise OptionError(f"{name} is missing: pass both labels and logits")


def check_eager_device(device: str | None, name: str) -> None:
    """Eager tensors are read where they lie, and that must be the memory of the CPU."""
    if device is not None and "CPU" not in device:
        raise DTypeError(
            f"{name} lives on {device} and no backend for it is available: compute it under "
            "tf.device('CPU:0')"
        )


def check_no_xla(inside: bool) -> None:
    """XLA compiles operations of its own only."""
    if inside:
        raise BackendError(
            "fastxent runs outside XLA and cannot be part of a function compiled with "
            "jit_compile=True: leave the loss out of that function, or pass jit_compile=False "
            "(for a Keras model to model.compile)"
        )


def check_forward_mode(inside: bool) -> None:
    """TensorFlow gives tangents of 0 to an operation in a graph that has no rule for them."""
    if inside:
        raise BackendError(
            "tf.autodiff.ForwardAccumulator does not go through fastxent inside a tf.function: "
            "compute this derivative in eager mode, or with tf.GradientTape"
        )


def _fits(first: Shape, second: Shape) -> bool:
    if first is None or second is None:
        return True
    return len(first) == len(second) and all(
        one is None or other is None or one == other
        for one, other in zip(first, second, strict=True)
    )


def _axis_of(axis: Any, logits: Shape) -> int | None:
    """Class axis counted from the front, None where the rank is not known."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise DTypeError(f"axis must be one integer, got {axis!r}")
    if logits is None:
        if axis != -1:
            raise ShapeError(
                f"logits have no known rank, which axis {axis} needs: give them one, "
                "tf.ensure_shape(logits, [None, None])"
            )
        return None
    if not logits:
        raise ShapeError("logits are a scalar: expected a tensor with at least the class axis")
    if not -len(logits) <= axis < len(logits):
        raise ShapeError(
            f"axis {axis} is out of range for logits of {len(logits)} dimension(s), shape {logits}"
        )
    return int(axis) % len(logits)


def check_labels_of_classes(
    labels: Shape, logits: Shape, axis: Any, is_integer: bool, dtype: str
) -> None:
    """Class indices: integers, one for each row of the logits."""
    at = _axis_of(axis, logits)
    if not is_integer:
        raise DTypeError(
            f"labels have dtype {dtype}: class indices must be integers; probabilities go to "
            "softmax_cross_entropy_with_logits"
        )
    if logits is None or at is None:
        return
    rows = logits[:at] + logits[at + 1 :]
    if not _fits(labels, rows):
        message = (
            f"labels need shape {rows}, that of logits {logits} without axis {axis}; they have "
            f"shape {labels}"
        )
        if _fits(labels, logits):
            message += ": one-hot rows go to softmax_cross_entropy_with_logits"
        raise ShapeError(message)


def check_numbers(is_real: bool, dtype: str) -> None:
    """Probabilities are floating-point numbers; integers and booleans become such."""
    if not is_real:
        raise DTypeError(
            f"labels have dtype {dtype}: probabilities must be floating-point numbers, integers "
            "or booleans"
        )


def check_probabilities(labels: Shape, logits: Shape, axis: Any) -> None:
    """One probability for each logit."""
    _axis_of(axis, logits)
    if not _fits(labels, logits):
        message = f"labels need the shape of the logits, {logits}; they have shape {labels}"
        if labels is not None and logits is not None and len(labels) == len(logits) - 1:
            message += ": class indices go to sparse_softmax_cross_entropy_with_logits"
        raise ShapeError(message)


def check_labels_of_elements(labels: Shape, logits: Shape) -> None:
    """One label for each logit."""
    if not _fits(labels, logits):
        raise ShapeError(
            f"labels need the shape of the logits, {logits}, one for each; they have shape {labels}"
        )
