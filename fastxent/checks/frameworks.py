"""What only callers from another framework can get wrong."""

from __future__ import annotations

from typing import NoReturn

from fastxent.errors import BackendError, DTypeError

__all__ = ["raise_not_on_cpu", "raise_traced"]


def raise_not_on_cpu(platforms: str) -> NoReturn:
    """Report a program for a device that no handler is registered for."""
    raise BackendError(
        f"fastxent.jax computes on the CPU only, and this program is compiled for {platforms}: "
        "keep its arrays on the CPU (jax.device_put(x, jax.devices('cpu')[0]), or "
        "jax.default_device), or compute this loss there with optax"
    )


def raise_traced(name: str) -> NoReturn:
    """Report an option that has to be known when a function is traced."""
    raise DTypeError(
        f"{name} is a traced JAX value and has to be a Python number: close over it, or name it in "
        "static_argnames of jax.jit"
    )
