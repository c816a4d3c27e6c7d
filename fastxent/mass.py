"""Where the mass of a target goes: the factors of the one formula that kernels know.

t[i,k] = [k = label] * spike[label] + background[k] + gain[k] * soft[i,k]
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastxent.precision import Array

__all__ = ["mass_of", "of_classes", "representable"]


@functools.lru_cache(maxsize=64)
def representable(label: int | None, dtype: np.dtype[Any]) -> int | None:
    """`label` if an array of this integer dtype can hold it: no other label can ever match."""
    if label is None or not np.iinfo(dtype).min <= label <= np.iinfo(dtype).max:
        return None
    return label


def mass_of(
    weights: Array | None, smoothing: float, num_classes: int, hard: bool, compute: np.dtype[Any]
) -> dict[str, Any]:
    """Spike, background and its total, and gain, as far as they differ from a Problem's own."""
    if weights is None and smoothing == 0.0:
        return {"spike": 1.0 if hard else 0.0}
    share: float | Array = 1.0 if weights is None else weights
    on_label = share if smoothing == 0.0 else share * (1.0 - smoothing)
    mass: dict[str, Any] = {"spike": on_label if hard else 0.0}
    if smoothing != 0.0:
        background = _rounded(share * (smoothing / num_classes), compute)
        mass["background"] = background
        mass["background_total"] = (
            float(np.sum(background, dtype=np.float64))
            if isinstance(background, np.ndarray)
            else background * num_classes
        )
    if not hard:
        mass["gain"] = _rounded(on_label, compute)
    return mass


def of_classes(mass: dict[str, Any], here: slice) -> dict[str, Any]:
    """The factors that kernels need of some classes: `spike` and `background_total` are of all."""
    return {
        name: factor[here]
        if name in ("background", "gain") and isinstance(factor, np.ndarray)
        else factor
        for name, factor in mass.items()
    }


def _rounded(factor: float | Array, compute: np.dtype[Any]) -> float | Array:
    """A factor of classes, rounded as kernels will use it."""
    if not isinstance(factor, np.ndarray):
        return float(compute.type(factor))
    return factor.astype(compute)
