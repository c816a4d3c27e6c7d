"""Loops that are written out, whatever their length.

What a thread keeps in a local array lies in registers only if every index is a constant. LLVM
unrolls a loop to make it one, but none whose body is long.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba.cuda.extending import register_jitable

__all__ = ["unrolled"]


def unrolled(step: Callable[..., Any], count: int) -> Any:
    """Make the function that calls ``step(0, ...)`` to ``step(count - 1, ...)``.

    It takes what follows the first argument of `step`. The last one is what each call hands to the
    next, as its result; the last result is that of the whole.
    """
    names = list(inspect.signature(step).parameters)[1:]
    listed, state = ", ".join(names), names[-1]
    calls = "".join(f"    {state} = step({index}, {listed})\n" for index in range(count))
    namespace: dict[str, Any] = {"step": register_jitable(step)}
    exec(f"def run({listed}):\n{calls}    return {state}\n", namespace)
    return register_jitable(namespace["run"])
