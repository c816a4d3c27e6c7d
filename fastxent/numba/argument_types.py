"""What the functions take, as Numba's types: told while the caller is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

__all__ = ["are_probabilities", "check_logits", "check_out", "compiled_as", "refuse"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FLOATS = (types.float32, types.float64)


def compiled_as(function: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Decorate what chooses the compiled code of a function by the types of its arguments.

    Divisions by zero give inf or NaN in it, as in NumPy.
    """
    choose: Any = overload
    decorate: Callable[[_Function], _Function] = choose(
        function, jit_options={"error_model": "numpy"}
    )
    return decorate


def refuse(message: str) -> NoReturn:
    """Stop the compilation of the caller."""
    raise TypingError(message)


def check_logits(kind: Any, dims: int, name: str = "logits") -> None:
    """An array of numbers that are computed with."""
    if not isinstance(kind, types.Array) or kind.ndim != dims or kind.dtype not in _FLOATS:
        refuse(
            f"{name} must be an array of {dims} dimension(s) of float32 or float64; it is {kind}"
        )


def check_out(kind: Any, logits: Any) -> None:
    """An array like the logits that can be written to."""
    check_logits(kind, logits.ndim, "out")
    if kind.dtype != logits.dtype:
        refuse(f"out needs the dtype of the logits, {logits.dtype}; it has {kind.dtype}")
    if not kind.mutable:
        refuse("out is read-only")


def are_probabilities(kind: Any, logits: Any) -> bool:
    """Whether a target is probabilities of the classes, and not class indices."""
    dims = logits.ndim - 1
    if isinstance(kind, types.Integer) and dims == 0:
        return False
    if isinstance(kind, types.Array):
        if isinstance(kind.dtype, types.Integer) and kind.ndim == dims:
            return False
        if kind.dtype == logits.dtype and kind.ndim == logits.ndim:
            return True
    indices = "an integer" if dims == 0 else "a 1-D array of integers"
    refuse(
        f"target must be {indices} (class indices), or an array like the logits, {logits.ndim}-D "
        f"of {logits.dtype} (probabilities); it is {kind}"
    )
