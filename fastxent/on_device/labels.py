"""Checking labels on a GPU: the one call that waits for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent import checks
from fastxent.interchange import Home
from fastxent.layout import order_of
from fastxent.mass import representable
from fastxent.on_device.arrays import Arrays

__all__ = ["check_labels"]


def check_labels(home: Home, num_classes: Any, ignore_index: Any) -> None:
    """`fastxent.check_labels`."""
    # nothing is computed that a choice of backends could be about
    arrays = Arrays.of_call(home, "target", "cuda")
    given: Any = arrays.first
    checks.check_class_indices(given)
    # one after the other as they lie, whatever the order of the axes
    order = order_of(given, range(given.ndim))
    labels = given.transpose(order)
    if not labels.is_dense:
        order = list(range(given.ndim))
        labels = arrays.read_dense(home.like, "target")
    num_classes = checks.check_num_classes(num_classes)
    skip = representable(checks.check_ignore_index(ignore_index, hard=True), labels.dtype)
    row = arrays.backend.first_bad_label(labels.reshape(-1), num_classes, skip)
    if row >= 0:
        label = arrays.backend.download(labels.reshape(-1)[row])
        place = [0] * given.ndim
        for axis, at in zip(order, np.unravel_index(row, labels.shape), strict=True):
            place[axis] = int(at)
        if given.ndim:
            row = int(np.ravel_multi_index(place, given.shape))
        checks.raise_bad_label(np.broadcast_to(label, given.shape), row, num_classes, skip)
