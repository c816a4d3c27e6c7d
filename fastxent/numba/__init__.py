"""Cross-entropy and softmax inside your own `numba.njit` code: of one row, or of many.

The functions become part of the function that calls them, vectors and all; there is no call into
another library. They run on the thread that calls them, so they can be used in a `prange`.

>>> import numba
>>> import numpy as np
>>> import fastxent.numba as fxn
>>> @numba.njit
... def hardest(logits, target):
...     worst, place = 0.0, -1
...     for i in range(len(logits)):
...         loss = fxn.cross_entropy_row(logits[i], target[i])
...         if loss > worst:
...             worst, place = loss, i
...     return place
>>> hardest(np.array([[2.0, 1.0], [0.5, 3.0]]), np.array([0, 0]))
1
"""

try:
    from fastxent.backends.numba_cpu.jit import numba as _numba
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "fastxent.numba needs Numba, which is not installed here: pip install numba"
    ) from error
if _numba.config.DISABLE_JIT:
    raise ImportError("fastxent.numba is compiled code, and NUMBA_DISABLE_JIT is set")

from fastxent.backends.numba_cpu import cache
from fastxent.backends.numba_cpu.means_in_code import mean_of_rows
from fastxent.backends.numba_cpu.rows_in_code import row_loss, row_lse
from fastxent.numba.means import cross_entropy, cross_entropy_and_grad
from fastxent.numba.rows import (
    cross_entropy_row,
    cross_entropy_row_and_grad,
    logsumexp_row,
    softmax_row,
)

__all__ = [
    "cross_entropy",
    "cross_entropy_and_grad",
    "cross_entropy_row",
    "cross_entropy_row_and_grad",
    "logsumexp_row",
    "softmax_row",
]

# What a caller is compiled with is kept on disk, as the backend's kernels are.
cache.attach([row_loss, row_lse, mean_of_rows])
