"""Options by which a call is known again, so that its launches can be made again."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["is_known_again"]

# What equality and type tell apart.
_PLAIN = {float, int, str, bool, type(None)}

# Integers from here on could be taken for the address of an array without memory.
_MOST_INTEGER = 1 << 48


def is_known_again(option: Any) -> bool:
    """Whether an option is equal to those, and only those, that make the same launches.

    NaN is not equal to itself, and -0.0 is to 0.0, whose products differ in their sign.
    """
    kind = type(option)
    if kind is float:
        return not math.isnan(option) if option else math.copysign(1.0, option) > 0.0
    return kind in _PLAIN and not (kind is int and abs(option) >= _MOST_INTEGER)
