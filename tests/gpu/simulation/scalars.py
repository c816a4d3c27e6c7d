"""How numbers behave in a kernel: the casts, `math` and local arrays that it finds in a simulation.

numba computes integers in 64 bits; only a cast narrows them. NumPy's own integer scalars would wrap
around earlier, so the casts give Python integers.
"""

from __future__ import annotations

import math as real_math
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["CASTS", "NUMPY", "cuda", "math"]


def _cast(bits: int, signed: bool) -> Any:
    mask, half = (1 << bits) - 1, 1 << bits - 1

    def unsigned(value: Any) -> int:
        return int(value) & mask

    def wrapped(value: Any) -> int:
        return (int(value) + half & mask) - half

    return wrapped if signed else unsigned


CASTS: dict[Any, Any] = {}
for _bits in (8, 16, 32, 64):
    CASTS[np.dtype(f"int{_bits}").type] = _cast(_bits, signed=True)
    CASTS[np.dtype(f"uint{_bits}").type] = _cast(_bits, signed=False)
CASTS[np.bool_] = bool

_SINGLE, _DOUBLE = np.float32(1), np.float64(1)


def _float32(value: Any) -> Any:
    """The same as ``numpy.float32``, which takes four times as long."""
    kind = type(value)
    if kind is np.float32:
        return value
    if kind is float or kind is int or kind is bool:
        return _SINGLE * value
    return _SINGLE * float(value)


def _float64(value: Any) -> Any:
    return value if type(value) is np.float64 else _DOUBLE * value


CASTS[np.float32], CASTS[np.float64] = _float32, _float64
for _kind, _function in CASTS.items():
    if _function is not bool:
        _function.dtype = np.dtype(_kind)  # so that NumPy takes it for the dtype that it casts to
_KINDS = {cast: kind for kind, cast in CASTS.items()}


class _Numpy:
    """NumPy with these casts."""

    def __init__(self) -> None:
        for kind, cast in CASTS.items():
            setattr(self, kind.__name__, cast)
        self.bool_ = bool

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        setattr(self, name, value)
        return value


NUMPY = _Numpy()


class _Local(list):
    """A local array; an integer that was not stored yet is None."""

    def __init__(self, length: int, cast: Any) -> None:
        nothing = cast(np.nan) if cast in (_float32, _float64) else None
        super().__init__([nothing] * length)
        self.cast = cast

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, self.cast(value))


def _local_array(length: int, dtype: Any) -> Any:
    return _Local(length, dtype if dtype in _KINDS else CASTS[dtype])


cuda = SimpleNamespace(local=SimpleNamespace(array=_local_array))


def _kept(function: Any) -> Any:
    """Result of the argument's own kind, special values instead of exceptions: CUDA's functions."""

    def computed(value: Any) -> Any:
        if isinstance(value, np.float32):
            return np.float32(function(np.float64(value)))
        return np.float64(function(np.float64(value)))

    return computed


class _Math:
    def __init__(self) -> None:
        for name in ("exp", "log", "tanh", "sqrt", "exp2", "log2", "log1p", "expm1", "fabs"):
            setattr(self, name, _kept(getattr(np, name)))
        self.inf, self.nan, self.e = real_math.inf, real_math.nan, real_math.e

    @staticmethod
    def isnan(value: Any) -> bool:
        return bool(value != value)

    @staticmethod
    def isinf(value: Any) -> bool:
        return bool(np.isinf(value))

    @staticmethod
    def isfinite(value: Any) -> bool:
        return bool(np.isfinite(value))


math = _Math()
