"""Sums of parts of a whole, whose error does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["LongSum"]


class LongSum:
    """A sum that is added to number by number; what each addition rounds off is kept beside.

    Algorithm Sum2 of Ogita, Rump and Oishi, "Accurate Sum and Dot Product" (2005), as the compiled
    kernels have it: where a loss is computed in parts, the sum of the parts is that of the whole
    but for the last bit of a float64.

    Examples
    --------
    >>> LongSum([1e16, 1.0, -1e16]).value
    1.0
    >>> LongSum([float("inf"), 1.0]).value
    inf
    """

    def __init__(self, numbers: Iterable[float] = ()) -> None:
        self._total = self._rest = 0.0
        for number in numbers:
            self.add(number)

    def add(self, number: float) -> None:
        """Add a number; it may be infinite or NaN."""
        total = self._total + number
        added = total - self._total
        self._rest += (self._total - (total - added)) + (number - added)
        self._total = total

    @property
    def value(self) -> float:
        """The sum so far."""
        is_finite = self._total - self._total == 0.0  # the rest of an infinite sum is NaN
        return self._total + self._rest if is_finite else self._total
