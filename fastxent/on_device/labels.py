"""Checking labels on a GPU: the one call that waits for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent import checks
from fastxent.interchange import Home
from fastxent.mass import representable
from fastxent.on_device.arrays import Arrays

__all__ = ["check_labels"]


def check_labels(home: Home, num_classes: Any, ignore_index: Any) -> None:
    """`fastxent.check_labels`."""
    arrays = Arrays.of_call(home, "target", None)
    labels: Any = arrays.read_dense(home.like, "target")
    checks.check_class_indices(labels)
    num_classes = checks.check_num_classes(num_classes)
    skip = representable(checks.check_ignore_index(ignore_index, hard=True), labels.dtype)
    row = arrays.backend.first_bad_label(labels.reshape(-1), num_classes, skip)
    if row >= 0:
        place = np.unravel_index(row, labels.shape)
        label = arrays.backend.download(labels[tuple(int(at) for at in place)])
        checks.raise_bad_label(np.broadcast_to(label, labels.shape), row, num_classes, skip)
