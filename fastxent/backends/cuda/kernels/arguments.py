"""The arguments that all kernels of rows take, by name."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.specs import ROW_INTEGERS, ROW_REALS, SHARD_INTEGERS

__all__ = ["Arguments", "ShardArguments", "kernel_of"]

_namedtuple: Any = namedtuple  # of names that a type checker would have to see
Arguments = _namedtuple("Arguments", (*ROW_INTEGERS, *ROW_REALS))
ShardArguments = _namedtuple("ShardArguments", (*ROW_INTEGERS, *SHARD_INTEGERS, *ROW_REALS))


def kernel_of(body: Callable[[Any], None], named: Any = Arguments) -> Callable[..., None]:
    """Make the function to compile: it takes what `named` names, and runs `body` on that."""
    run: Any = register_jitable(body)
    names = ", ".join(named._fields)
    # written out, since a kernel's parameters cannot be a *tuple
    source = f"def kernel({names}):\n    run(Arguments({names}))\n"
    namespace: dict[str, Any] = {"run": run, "Arguments": named}
    exec(source, namespace)
    kernel: Callable[..., None] = namespace["kernel"]
    return kernel
