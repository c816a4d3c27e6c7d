"""What is wrong with a state, and not with an argument."""

from __future__ import annotations

from typing import NoReturn

from fastxent.errors import BackendError, CallOrderError

__all__ = ["raise_backend", "raise_call_order"]


def raise_backend(message: str) -> NoReturn:
    """Report a backend that cannot run."""
    raise BackendError(message)


def raise_call_order(message: str) -> NoReturn:
    """Report a method that was called too early."""
    raise CallOrderError(message)
