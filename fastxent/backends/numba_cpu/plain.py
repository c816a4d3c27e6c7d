"""What makes the arrays of a call plain: where they are not, the door translates them."""

from __future__ import annotations

import numpy as np

from fastxent.precision import Array

__all__ = ["INT64", "are_plain", "is_plain_output"]

INT64 = np.dtype(np.int64)
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# uint64 is left to the door: there a label to skip may lie beyond int64.
_LABELS = frozenset("bBhHiIlq" if INT64.char == "l" else "bBhHiIlLq")


def are_plain(logits: Array, target: Array) -> bool:
    """Whether they are contiguous rows of numbers with kernels, and one label for each."""
    return (
        logits.ndim == 2
        and target.shape == logits.shape[:1]
        and logits.size > 0
        and logits.dtype in _FLOATS
        and logits.dtype.isnative
        and logits.flags.c_contiguous
        and logits.flags.aligned
        and target.dtype.char in _LABELS
        and target.dtype.isnative
        and target.flags.c_contiguous
        and target.flags.aligned
    )


def is_plain_output(grad: Array, logits: Array, target: Array) -> bool:
    """Whether the gradient has room there: over the logits themselves, or apart from everything."""
    return (
        grad.shape == logits.shape
        and grad.dtype == logits.dtype
        and grad.flags.carray
        and not np.may_share_memory(grad, target)
        and (
            grad is logits
            or grad.ctypes.data == logits.ctypes.data
            or not np.may_share_memory(grad, logits)
        )
    )
