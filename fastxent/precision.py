"""Which dtype is stored, which one computes, which one comes back (docs/design.md, "Numerics")."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "HALF_KINDS",
    "Array",
    "Precision",
    "bfloat16_dtype",
    "kernel_dtype",
    "kind_of",
    "narrow",
    "native",
    "precision_of",
    "readable",
    "widen",
]

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
_BYTES = np.dtype(np.uint8)
_COMPUTED = (np.dtype(np.float16), _FLOAT32, _FLOAT64)
# What stands for NumPy's bfloat16 where nobody has imported ml_dtypes: its bits, with its name.
_NAMED_BITS = np.dtype([("bfloat16", _BITS)])


def bfloat16_dtype() -> np.dtype[Any]:
    """Dtype that says that its 16 bits are bfloat16: that of ml_dtypes, if it is in use."""
    ml_dtypes = sys.modules.get("ml_dtypes")
    return _NAMED_BITS if ml_dtypes is None else np.dtype(ml_dtypes.bfloat16)


@functools.lru_cache(maxsize=64)
def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in the byte order of the machine."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


@functools.lru_cache(maxsize=64)
def kind_of(dtype: np.dtype[Any], storage: str | None = None) -> str | None:
    """Kind of the numbers of an array, None for those that are not computed with.

    Booleans are 0 and 1 of kind uint8.

    bfloat16 is known by the name of its dtype, or of its one field, so that nothing needs to be
    imported for it.
    `storage` says what the bits of a uint16 array are.
    """
    if storage is not None and native(dtype) == _BITS:
        return storage
    if dtype.kind == "b":
        return "uint8"
    if native(dtype) in _COMPUTED:  # float8_e5m2 of ml_dtypes is of kind "f" too
        return native(dtype).name
    return "bfloat16" if dtype.name == "bfloat16" or dtype == _NAMED_BITS else None


@functools.lru_cache(maxsize=64)
def precision_of(dtype: np.dtype[Any], storage: str | None = None) -> Precision | None:
    """Precision for logits of this dtype (either byte order), None where there is none."""
    kind = kind_of(dtype, storage)
    if kind is None or kind == "uint8":
        return None
    half = kind in HALF_KINDS
    stored = native(dtype)
    result = _FLOAT32 if half else stored
    return Precision(kind, stored, _BITS if half else stored, compute=result, loss=result)


def kernel_dtype(dtype: np.dtype[Any], kind: str) -> np.dtype[Any]:
    """Dtype in which kernels get an array of this dtype and kind: bits for what is not computed."""
    if kind in HALF_KINDS:
        return _BITS
    return _BYTES if kind == "uint8" else native(dtype)


def widen(stored: Array, kind: str) -> Array:
    """Numbers of any kind, as kernels get them, in a dtype to compute with: half to float32."""
    if kind == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.view(np.float16).astype(np.float32) if kind == "float16" else stored


def readable(array: Array) -> Array:
    """The same numbers in a dtype that NumPy converts: bfloat16 without ml_dtypes as float32."""
    return widen(array.view(_BITS), "bfloat16") if array.dtype == _NAMED_BITS else array


def narrow(values: Array, kind: str) -> Array:
    """Numbers as kernels store them: the bits of half precision, rounded to nearest, ties even."""
    if kind == "float16":
        return values.astype(np.float16).view(_BITS)
    if kind != "bfloat16":
        return values
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    # a NaN stays one: rounding could carry it to infinity, or past it
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(_BITS)
