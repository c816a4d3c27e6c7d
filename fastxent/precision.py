"""Which dtype is stored, which one computes, which one comes back (docs/design.md, "Numerics")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Precision", "precision_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtypes of one call.

    Attributes
    ----------
    storage : numpy.dtype
        Of the logits and of the gradient.
    compute : numpy.dtype
        Of the arithmetic on one element; sums across blocks are float64 always.
    loss : numpy.dtype
        Of the loss, and of every other statistic of a row that is returned.
    """

    storage: np.dtype[Any]
    compute: np.dtype[Any]
    loss: np.dtype[Any]


_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

_BY_STORAGE = {
    _FLOAT32: Precision(storage=_FLOAT32, compute=_FLOAT32, loss=_FLOAT32),
    _FLOAT64: Precision(storage=_FLOAT64, compute=_FLOAT64, loss=_FLOAT64),
}


def precision_of(storage: np.dtype[Any]) -> Precision | None:
    """Precision for logits of dtype `storage` (either byte order), None where there is none."""
    return _BY_STORAGE.get(storage.newbyteorder("="))
