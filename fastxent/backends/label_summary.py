"""The verb check_labels with NumPy only, for backends that have nothing faster on the host."""

from __future__ import annotations

import numpy as np

from fastxent.backends.contract import LABEL_CHUNK, LabelSummary
from fastxent.precision import Array

__all__ = ["summary_of"]


def summary_of(
    target: Array,
    num_classes: int,
    skip: int | None,
    class_mass: Array | None,
    row_mass: Array | None,
) -> LabelSummary:
    """Find the first bad label, count the live rows and add up their mass."""
    live = 0
    masses: list[float] = []
    for start in range(0, len(target), LABEL_CHUNK):
        labels = target[start : start + LABEL_CHUNK]
        counted = np.ones(len(labels), bool) if skip is None else labels != skip
        bad = counted & ((labels < 0) | (labels >= num_classes))
        if bad.any():
            return LabelSummary(start + int(bad.argmax()), live, float(np.sum(masses)))
        live += int(counted.sum())
        weights = np.ones(int(counted.sum()))
        if class_mass is not None:
            weights *= class_mass[labels[counted]]
        if row_mass is not None:
            weights *= row_mass[start : start + LABEL_CHUNK][counted]
        masses.append(float(weights.sum()))
    return LabelSummary(-1, live, float(np.sum(masses)))
