"""The first exchange: do all ranks mean the same call, and whose classes begin where?

Each rank hands in a descriptor of `SIZE` bytes: how many classes it has, the range of its labels,
and as text all that must be the same everywhere, or the error that its own arguments raised. From
all descriptors every rank draws the same conclusion, so that all go on or all raise.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from fastxent.checks.agreement import (
    check_some_classes,
    check_the_same,
    raise_bad_labels_elsewhere,
    raise_refused_elsewhere,
)
from fastxent.precision import Array

__all__ = ["SIZE", "Descriptor", "Shards", "agree", "label_range", "told"]

# Bytes of a descriptor. The numbers come first; the text of a call with all options has 500.
SIZE = 1024
_NUMBERS = 5
_ROOM = SIZE - 8 * _NUMBERS
_FITS, _REFUSED = 0, 1


class Shards(NamedTuple):
    """How the classes lie on the ranks, in the order of the ranks.

    Attributes
    ----------
    rank : int
        This one.
    classes : tuple of int
        How many each rank has, 0 too.
    offsets : tuple of int
        The first class of each rank.
    """

    rank: int
    classes: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def class_offset(self) -> int:
        """The first class of this rank."""
        return self.offsets[self.rank]

    @property
    def num_classes(self) -> int:
        """Classes of all ranks."""
        return self.offsets[-1] + self.classes[-1]

    def place(self) -> dict[str, int]:
        """Where the classes of this rank lie, as the functions for shards take it."""
        # where none begin is of no account
        offset = self.class_offset if self.classes[self.rank] else 0
        return {"class_offset": offset, "num_classes": self.num_classes}

    def begin_at_multiples_of(self, block: int) -> bool:
        """Whether every rank with classes begins at a multiple of `block`."""
        return not any(
            first % block for first, own in zip(self.offsets, self.classes, strict=True) if own
        )


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What one rank tells the others of its call.

    Attributes
    ----------
    classes : int
        Local classes.
    labels : (int, int) or None
        The lowest and the highest label that counts; None where there is none, or where looking
        would make the host wait for a GPU.
    shared : mapping of str to str
        By the name that an error message gives it, what must be the same on all ranks.
    """

    classes: int
    labels: tuple[int, int] | None
    shared: Mapping[str, str]

    def encoded(self) -> Array:
        """As `SIZE` bytes."""
        text = "\n".join(f"{name}\t{value}" for name, value in self.shared.items())
        low, high = (0, -1) if self.labels is None else self.labels
        return _encoded((_FITS, self.classes, low, high), text)


def agree(
    describe: Callable[[], Descriptor], gather: Callable[[Array], Array], rank: int
) -> Shards:
    """Where the classes of all ranks lie, or an error on every rank.

    Parameters
    ----------
    describe : callable
        Checks this rank's own arguments. What it raises is raised here once the others know.
    gather : callable
        Takes `SIZE` bytes and gives those of all ranks, (ranks, SIZE).
    rank : int

    Returns
    -------
    Shards

    Raises
    ------
    ShapeError, DTypeError, OptionError
        Arguments differ between ranks; the message names the ranks.
    FastxentError
        Another rank has refused its own arguments, with an error of that class.
    LabelError
        Another rank has a label outside of the classes of all ranks. The rank that has it goes
        on, to the error that names the row.
    """
    try:
        mine = describe().encoded()
    except Exception as error:
        gather(_encoded((_REFUSED, 0, 0, -1), f"{type(error).__name__}\t{error}"))
        raise
    return _settled(gather(mine), mine, rank)


def _settled(found: Array, mine: Array, rank: int) -> Shards:
    numbers = found[:, : 8 * _NUMBERS].copy().view(np.int64)
    refused = np.flatnonzero(numbers[:, 0] == _REFUSED)
    if refused.size:
        first = int(refused[0])
        kind, _, message = _text(found[first]).partition("\t")
        raise_refused_elsewhere(first, kind, message)
    classes = tuple(int(count) for count in numbers[:, 1])
    shards = Shards(rank, classes, (0, *accumulate(classes[:-1])))
    low, high = numbers[:, 2], numbers[:, 3]
    outside = (low <= high) & ((low < 0) | (high >= shards.num_classes))
    if outside.any():
        if outside[rank]:
            return shards
        first = int(np.flatnonzero(outside)[0])
        raise_bad_labels_elsewhere(
            first, int(low[first] if low[first] < 0 else high[first]), shards.num_classes
        )
    if not (found[:, 8 * _NUMBERS :] == mine[8 * _NUMBERS :]).all():
        _compare([_text(descriptor) for descriptor in found])
    check_some_classes(shards.num_classes, len(classes))
    return shards


def _compare(texts: list[str]) -> None:
    """Find what differs, and raise."""
    # the last line may be cut off
    given = [dict(line.partition("\t")[::2] for line in text.split("\n")) for text in texts]
    for name in dict.fromkeys(name for one in given for name in one):
        check_the_same(name, [one.get(name, "not given") for one in given])


def _encoded(numbers: tuple[int, ...], text: str) -> Array:
    data = text.encode()
    if len(data) > _ROOM:
        # a whole line of its own, so that what was cut off counts too
        rest = f"\nmore\tchecksum {zlib.crc32(data):08x}".encode()
        data = data[: _ROOM - len(rest)].decode(errors="ignore").encode() + rest
    head = np.array([*numbers, len(data)], np.int64).view(np.uint8)
    body = np.frombuffer(data.ljust(_ROOM, b"\0"), np.uint8)
    return np.concatenate([head, body])


def _text(descriptor: Array) -> str:
    length = int(descriptor[: 8 * _NUMBERS].copy().view(np.int64)[-1])
    return bytes(descriptor[8 * _NUMBERS : 8 * _NUMBERS + length]).decode(errors="replace")


def label_range(target: Array, skip: int | None) -> tuple[int, int] | None:
    """Lowest and highest label that counts, as far as an int64 goes; None where none does."""
    counted = target if skip is None else target[target != skip]
    if counted.size == 0:
        return None
    limits = np.iinfo(np.int64)
    low, high = int(counted.min()), int(counted.max())
    return min(low, limits.max), min(high, limits.max)


def told(value: Any) -> str:
    """An argument as text that is the same on two ranks if and only if the argument is.

    Of an array the shape and a checksum of the numbers, whatever their dtype.
    """
    if isinstance(value, np.ndarray) and value.ndim:
        same = np.int64 if value.dtype.kind in "iub" else np.float64
        numbers = np.ascontiguousarray(value, same)
        return f"{value.shape} with checksum {zlib.crc32(numbers.data):08x}"
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1 and 1.0 are the same number
    return repr(value).replace("\n", " ")
