"""Which dtype is stored, which one computes, which one comes back (docs/design.md, "Numerics")."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HALF_KINDS", "Array", "Precision", "kind_of", "native", "precision_of"]

Array = npt.NDArray[Any]

# Kinds that are stored in 16 bits and computed in float32; kernels get the bits as uint16.
HALF_KINDS = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtypes of one call.

    Attributes
    ----------
    kind : {"float16", "bfloat16", "float32", "float64"}
        What the stored numbers are, whatever dtype their array has.
    storage : numpy.dtype
        Of the caller's logits and of the gradient, in native byte order: uint16 where an adapter
        handed over the bits.
    kernel : numpy.dtype
        Of the same arrays as kernels get them: uint16 for half precision.
    compute : numpy.dtype
        Of the arithmetic on one element; sums across blocks are float64 always.
    loss : numpy.dtype
        Of the loss, and of every other statistic of a row that is returned.
    """

    kind: str
    storage: np.dtype[Any]
    kernel: np.dtype[Any]
    compute: np.dtype[Any]
    loss: np.dtype[Any]


_FLOAT32, _FLOAT64, _BITS = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint16)


@functools.lru_cache(maxsize=64)
def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in the byte order of the machine."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


@functools.lru_cache(maxsize=64)
def kind_of(dtype: np.dtype[Any], storage: str | None = None) -> str | None:
    """Kind of the numbers of an array, None for those that are not computed with.

    bfloat16 is known by the name of its dtype, so that nothing needs to be imported for it.
    `storage` says what the bits of a uint16 array are.
    """
    if storage is not None and native(dtype) == _BITS:
        return storage
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return native(dtype).name
    return "bfloat16" if dtype.name == "bfloat16" else None


@functools.lru_cache(maxsize=64)
def precision_of(dtype: np.dtype[Any], storage: str | None = None) -> Precision | None:
    """Precision for logits of this dtype (either byte order), None where there is none."""
    kind = kind_of(dtype, storage)
    if kind is None:
        return None
    half = kind in HALF_KINDS
    stored = native(dtype)
    result = _FLOAT32 if half else stored
    return Precision(kind, stored, _BITS if half else stored, compute=result, loss=result)
