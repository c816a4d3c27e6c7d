"""A clear word when a program that uses fastxent.jax is compiled for something else than a CPU."""

from __future__ import annotations

from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from fastxent.checks.jax import raise_not_on_cpu

__all__ = ["on_cpu"]

# The identity, which costs nothing on a CPU and cannot be compiled elsewhere.
_on_cpu = Primitive("fastxent_on_cpu")
_on_cpu.def_impl(lambda x: x)
_on_cpu.def_abstract_eval(lambda x: x)


def _batch(args: Any, axes: Any) -> Any:
    return _on_cpu.bind(*args), axes[0]


def _lower_elsewhere(context: Any, x: Any) -> Any:
    platforms = context.platforms or context.module_context.platforms
    return raise_not_on_cpu(", ".join(platforms))


batching.primitive_batchers[_on_cpu] = _batch
mlir.register_lowering(_on_cpu, _lower_elsewhere)
mlir.register_lowering(_on_cpu, lambda context, x: [x], platform="cpu")


def on_cpu(x: Any) -> Any:
    """The same array; an error where the program is lowered for another platform."""
    return _on_cpu.bind(x)
