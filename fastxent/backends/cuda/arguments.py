"""Arguments of a kernel as the driver takes them: one piece of memory, 8 bytes an argument."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from fastxent.backends.cuda.specs import ARGUMENTS
from fastxent.device_array import DeviceArray

__all__ = ["Pack", "address_of", "pack_of", "skip_arguments"]


class Pack:
    """The arguments of one kind of kernel, by name; what is not given is 0, an absent array.

    Parameters
    ----------
    integers, reals : tuple of str
        Names in the kernel's order: addresses, counts and pitches, then float64 numbers.
    """

    def __init__(self, integers: tuple[str, ...], reals: tuple[str, ...]) -> None:
        self._absent: dict[str, float] = dict.fromkeys(integers, 0) | dict.fromkeys(reals, 0.0)
        self._values: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*integers, *reals)
        self._bytes = struct.Struct(f"={len(integers)}q{len(reals)}d").pack

    def __call__(self, given: dict[str, Any]) -> bytes:
        """Pack them; a name that the kernel does not have is an error."""
        values = {**self._absent, **given}
        if len(values) > len(self._absent):
            raise KeyError(*(given.keys() - self._absent.keys()))
        return self._bytes(*self._values(values))


@functools.cache
def pack_of(module: str) -> Pack:
    """Pack for the kernels of this module."""
    return Pack(*ARGUMENTS[module])


def address_of(array: DeviceArray | None) -> int:
    """Where an array begins, 0 if there is none."""
    return 0 if array is None else array.address


def skip_arguments(skip: int | None) -> dict[str, int]:
    """The label that is skipped, as 64 bits with a sign whatever the labels have."""
    if skip is None:
        return {"has_skip": 0}
    return {"has_skip": 1, "skip": skip - (1 << 64 if skip >= 1 << 63 else 0)}
