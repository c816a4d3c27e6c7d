"""What the door needs of JAX arrays, which may be traced: their shapes and dtypes."""

from __future__ import annotations

import operator
from typing import Any

import jax
import numpy as np

from fastxent import checks, threads
from fastxent.checks.jax import check_kept, raise_traced
from fastxent.precision import Array

__all__ = ["checked_threads", "fixed", "labels_kept", "stand_in"]


def stand_in(x: Any) -> Array:
    """NumPy array of zeros that takes no memory, of the shape and dtype of `x`: for checks.

    A symbolic size of `jax.export` becomes some number, the same wherever it occurs: odd and at
    least 10001, which a fixed size beside it is unlikely to be, and below 20000, so that NumPy
    can count the bytes of four of them. The handlers compare the sizes there are in the end.
    """
    shape = [size if isinstance(size, int) else 10001 + 2 * (hash(size) % 4987) for size in x.shape]
    return np.broadcast_to(np.zeros((), np.dtype(x.dtype)), shape)


def fixed(value: Any, name: str) -> Any:
    """An option that has to be known when the function is traced."""
    if isinstance(value, jax.core.Tracer):
        raise_traced(name)
    return value


def labels_kept(target: Any, ignore_index: Any) -> Any:
    """The target; refused if JAX, which keeps 32 bits by default, would make other labels of it."""
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(target)):
        return target
    given = np.asarray(target)
    if given.dtype.kind in "iu":
        kept = np.dtype(jax.dtypes.canonicalize_dtype(given.dtype))
        if kept.itemsize < given.dtype.itemsize:
            label = ignore_index if hasattr(ignore_index, "__index__") else None
            check_kept(given, kept, None if label is None else operator.index(label))
    return given


def checked_threads(num_threads: Any) -> int | None:
    """The `num_threads` argument, clamped to what can be had."""
    if num_threads is None:
        return None
    return min(checks.check_num_threads(fixed(num_threads, "num_threads")), threads.most_threads())
