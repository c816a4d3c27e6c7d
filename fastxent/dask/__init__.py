"""fastxent for Dask: losses and softmax of chunked arrays, which may be larger than memory.

>>> import dask.array as da
>>> import fastxent.dask
>>> logits = da.zeros((4000, 10), chunks=(1000, 10))
>>> loss = fastxent.dask.cross_entropy(logits, da.full(4000, 3, chunks=1000))
>>> round(float(loss.compute()), 4)
2.3026
"""

try:
    import dask.array as _array  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastxent.dask needs dask.array, which is not installed: pip install 'fastxent[dask]'"
    ) from error

from fastxent.dask.cross_entropy import cross_entropy, cross_entropy_and_grad
from fastxent.dask.softmax import log_softmax, softmax

__all__ = ["cross_entropy", "cross_entropy_and_grad", "log_softmax", "softmax"]
