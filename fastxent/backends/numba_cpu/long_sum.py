"""Sums of many numbers whose error does not grow with their count; the C++ twin is long_sum.hpp.

What each addition rounds off is added up beside (Ogita, Rump and Oishi, "Accurate Sum and Dot
Product", 2005, algorithm Sum2). A sum is a pair, the total and the rest: float64, or lanes of it.
"""

from __future__ import annotations

from typing import Any

from fastxent.backends.numba_cpu.arithmetic import like, where_equal
from fastxent.backends.numba_cpu.jit import inlined
from fastxent.backends.numba_cpu.lanes import stack, store

__all__ = ["value_of", "value_of_each", "value_of_lanes", "with_number"]


@inlined
def with_number(pair: Any, number: Any) -> Any:
    """The sum with one more number."""
    total, rest = pair
    larger = total + number
    added = larger - total
    return larger, rest + ((total - (larger - added)) + (number - added))


@inlined
def value_of(pair: Any) -> Any:
    """The sum as one number. The rest of an infinite sum is NaN."""
    total, rest = pair
    return total + rest if total - total == 0.0 else total


@inlined
def value_of_each(pair: Any) -> Any:
    """The sums of each lane, as lanes of numbers."""
    total, rest = pair
    return where_equal(total - total, like(total, 0.0), total + rest, total)


@inlined
def value_of_lanes(pair: Any) -> Any:
    """The sum of all eight lanes."""
    totals, rests = stack(8, 0.0), stack(8, 0.0)
    store(totals, 0, None, pair[0])
    store(rests, 0, None, pair[1])
    every = 0.0, 0.0
    for i in range(8):
        total, rest = with_number(every, totals[i])
        every = total, rest + rests[i]
    return value_of(every)
