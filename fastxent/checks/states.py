"""What is wrong with a state, and not with an argument."""

from __future__ import annotations

from typing import NoReturn

from fastxent.errors import BackendError, CallOrderError

__all__ = ["raise_backend", "raise_call_order", "raise_no_openmp"]


def raise_backend(message: str) -> NoReturn:
    """Report a backend that cannot run."""
    raise BackendError(message)


def raise_call_order(message: str) -> NoReturn:
    """Report a method that was called too early."""
    raise CallOrderError(message)


def raise_no_openmp(library: str, reason: str) -> NoReturn:
    """Report that there is no OpenMP runtime to share."""
    raise BackendError(
        f"{library} cannot be loaded for the whole process ({reason}): install it (the package "
        "libgomp1 of Debian and Ubuntu, libgomp of Fedora), or do without fastxent.share_openmp() "
        "and FASTXENT_SHARE_OPENMP"
    )
