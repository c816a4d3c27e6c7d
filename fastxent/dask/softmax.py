"""Softmax and its logarithm of every block of rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastxent import api
from fastxent.checks.dask import raise_split_classes
from fastxent.dask.operands import backend_of, chunked_logits, threads_of_block
from fastxent.precision import native

__all__ = ["log_softmax", "softmax"]


def softmax(
    x: Any, axis: int = -1, *, backend: str | None = None, num_threads: int | None = 1
) -> Any:
    """Exponentials over their sum along one axis, block by block.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        `axis` is in one block.
    axis : int, default -1
    backend, num_threads
        Of each block, as in `fastxent.dask.cross_entropy`.

    Returns
    -------
    dask array
        In the blocks, the shape and the dtype of `x`, with the bits of `fastxent.softmax`.

    Raises
    ------
    DTypeError, ShapeError, OptionError, BackendError
        As from `fastxent.dask.cross_entropy`.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastxent.dask
    >>> fastxent.dask.softmax(da.zeros((2, 4), chunks=(1, 4))).compute()
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """
    return _of_blocks(api.softmax, "fastxent.softmax", x, axis, backend, num_threads)


def log_softmax(
    x: Any, axis: int = -1, *, backend: str | None = None, num_threads: int | None = 1
) -> Any:
    """Logarithm of the softmax along one axis, block by block.

    Parameters
    ----------
    x, axis, backend, num_threads
        As in `softmax`.

    Returns
    -------
    dask array
        In the blocks, the shape and the dtype of `x`, with the bits of `fastxent.log_softmax`.

    Raises
    ------
    DTypeError, ShapeError, OptionError, BackendError
        As from `fastxent.dask.cross_entropy`.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastxent.dask
    >>> fastxent.dask.log_softmax(da.from_array([[1000.0, 0.0]])).compute()
    array([[    0., -1000.]])
    """
    return _of_blocks(api.log_softmax, "fastxent.log_softmax", x, axis, backend, num_threads)


def _of_blocks(
    function: Any, name: str, x: Any, axis: Any, backend: str | None, num_threads: Any
) -> Any:
    x, axis = chunked_logits(x, "x", axis, name)
    if x.numblocks[axis] > 1:
        raise_split_classes(axis, x.numblocks[axis], "x")
    how = {"backend": backend_of(backend), "num_threads": threads_of_block(num_threads)}
    of_block = functools.partial(function, axis=axis, **how)
    dtype = native(x.dtype)
    return x.map_blocks(of_block, dtype=dtype, meta=np.empty((0,) * x.ndim, dtype))
