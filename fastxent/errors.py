"""The exceptions a caller can catch; the texts are written where the check is made (checks/)."""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CallOrderError",
    "DTypeError",
    "FastxentError",
    "LabelError",
    "OptionError",
    "OutputError",
    "ShapeError",
]


class FastxentError(Exception):
    """Base of every error that fastxent raises on purpose."""

    # AutoGraph of TensorFlow adds the place in the user's code to an error's message and raises the
    # same class again, but only a class with this very __init__; else it raises one of its own.
    __init__ = Exception.__init__


class ShapeError(FastxentError, ValueError):
    """An array has a shape that does not fit the logits."""


class DTypeError(FastxentError, TypeError):
    """An argument has a dtype or type that fastxent does not compute with."""


class LabelError(FastxentError, IndexError):
    """A class index lies outside ``[0, C)`` and is not ``ignore_index``."""


class OptionError(FastxentError, ValueError):
    """An option has a value outside its range, or does not go with another option."""


class OutputError(FastxentError, ValueError):
    """``out`` cannot be written to, or its memory belongs to an input as well."""


class BackendError(FastxentError, ValueError):
    """The backend asked for cannot run here; the message says why."""


class CallOrderError(FastxentError, ValueError):
    """A method was called before the one whose result it needs."""
