"""Sums in float64 inside programs whose arrays have 32 bits, as JAX's are by default."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["float64", "sum_in_float64"]


def float64() -> Any:
    """Context in which JAX traces operations on float64 as they are written."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # up to JAX 0.7

    return enable_x64(True)


def sum_in_float64(values: Any) -> Any:
    """Sum of all values, rounded once."""
    with float64():
        return jnp.sum(values.astype(jnp.float64)).astype(values.dtype)
