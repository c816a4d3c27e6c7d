"""Which rows go through memory together: arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Window", "windows_of"]


@dataclass(frozen=True, slots=True)
class Window:
    """Some rows with all their classes.

    Attributes
    ----------
    rows : slice
        Their numbers, in C order of the array's rows.
    box : tuple of slice
        Where they are in the array: all its dimensions, start and stop given.
    """

    rows: slice
    box: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows in the array's dimensions."""
        return tuple(along.stop - along.start for along in self.box)


def windows_of(shape: tuple[int, ...], axis: int, most_rows: int) -> Iterator[Window]:
    """Cut an array with its classes along `axis` into windows of at most so many rows.

    Each is a run of rows in C order: single steps of the leading dimensions, a slice of one, and
    all of the rest.
    """
    row_axes = [at for at in range(len(shape)) if at != axis]
    below = 1
    cut = len(row_axes)
    while cut and below * shape[row_axes[cut - 1]] <= most_rows:
        cut -= 1
        below *= shape[row_axes[cut]]
    whole = [slice(0, size) for size in shape]
    if not cut:
        if below:
            yield Window(slice(0, below), tuple(whole))
        return
    leading, at = [shape[axis] for axis in row_axes[: cut - 1]], row_axes[cut - 1]
    if not math.prod(leading) * shape[at] * below:
        return
    step = most_rows // below
    start = 0
    for number in range(math.prod(leading)):
        box = list(whole)
        for place in range(cut - 2, -1, -1):
            number, index = divmod(number, leading[place])
            box[row_axes[place]] = slice(index, index + 1)
        for first in range(0, shape[at], step):
            last = min(first + step, shape[at])
            box[at] = slice(first, last)
            stop = start + (last - first) * below
            yield Window(slice(start, stop), tuple(box))
            start = stop
