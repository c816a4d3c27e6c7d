"""Checking labels apart from any loss."""

from __future__ import annotations

from typing import Any

from fastxent import checks, on_device
from fastxent.backends import pick
from fastxent.interchange import home_of
from fastxent.layout import vector_of
from fastxent.mass import representable

__all__ = ["check_labels"]


def check_labels(target: Any, num_classes: int, ignore_index: int | None = -100) -> None:
    """Raise for the first class index that is neither in ``[0, C)`` nor ignored.

    Parameters
    ----------
    target : array_like of integers
        Class indices, of any shape.
    num_classes : int
        C, at least 1.
    ignore_index : int or None, default -100
        The label that is allowed besides; None for no such label.

    Raises
    ------
    LabelError
        Names the place, the label and C. Also an ``IndexError``.
    DTypeError
        `target` is not an array of integers. Also a ``TypeError``.

    Notes
    -----
    For labels on a GPU this waits until the GPU has looked at them. A loss does not: there a bad
    label shows as NaN.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.check_labels([0, 2, -100], 3)
    >>> fx.check_labels([0, 3], 3)
    Traceback (most recent call last):
        ...
    fastxent.errors.LabelError: target[1] is 3: it lies outside [0, 3) for C = 3 classes and is \
not ignore_index = -100
    """
    home = home_of(target)
    if home.is_on_device:
        on_device.check_labels(home, num_classes, ignore_index)
        return
    labels = checks.check_class_indices(target)
    num_classes = checks.check_num_classes(num_classes)
    skip = checks.check_ignore_index(ignore_index, hard=True)
    flat = vector_of(labels)
    skip = representable(skip, flat.dtype)
    summary = pick(None).check_labels(flat, num_classes, skip, None, None, 1)
    if summary.bad_row >= 0:
        checks.raise_bad_label(labels, summary.bad_row, num_classes, skip)
