"""The two ways in which ranks turn statistics of their own classes into those of all classes.

`reduced` lets the library of the channel add up: two exchanges of 3 to 4 numbers a row, and a third
for `argmax`. `in_order` hands every part to every rank, which merges them in the order of the
classes, whatever the library's algorithm. Where the classes of each rank begin at a multiple of
1,024 the parts are blocks of 1,024 classes, and the bits are the same for any number of ranks; else
each rank has one part, and the bits are those of this division of the classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastxent.backends.contract import BLOCK
from fastxent.sharding.agreement import Shards
from fastxent.sharding.merging import relative_to
from fastxent.sharding.stats import ShardStats

__all__ = ["Channel", "in_order", "reduced"]

# Above every class, and exact as float64 too.
_NO_CLASS = 1 << 53


class Channel(Protocol):
    """What ranks speak through: contiguous arrays of one dimension.

    Attributes
    ----------
    arrays : module
        `numpy`, or `torch` where they are tensors.
    rank, size : int
    """

    arrays: Any
    rank: int
    size: int

    def all_max(self, numbers: Any) -> None:
        """Largest of each entry over the ranks, in place; float64 without a NaN."""

    def all_min(self, numbers: Any) -> None:
        """Least of each entry over the ranks, in place; int64."""

    def all_sum(self, numbers: Any) -> None:
        """Sum of each entry over the ranks, in place; float64. All ranks get the same bits."""

    def gather(self, numbers: Any, counts: Sequence[int]) -> list[Any]:
        """The float64 numbers of every rank, of which rank r has ``counts[r]``."""


def reduced(stats: ShardStats, shards: Shards, channel: Channel) -> ShardStats:
    """Statistics of all classes, in one part, from an exchange of maxima and one of sums.

    Parameters
    ----------
    stats : ShardStats
        Of this rank, in one part, or in none where it has no class.
    shards : Shards
    channel : Channel

    Returns
    -------
    ShardStats
        The same bits on every rank. What it holds of ignored rows means nothing.
    """
    xp = channel.arrays
    rows_shape = stats.max.shape[1:]
    own = {
        name: _only_part(array, name) for name, array in stats.of_parts.items() if array is not None
    }
    # maxima pass a NaN by: what comparing one gives would depend on the order of the ranks
    top = own["max"]
    of_all = xp.zeros_like(top) + top
    channel.all_max(of_all)
    sums = relative_to(own, of_all, xp)
    is_hard = stats.label_logit is not None
    if is_hard:
        sums["label_logit"] = stats.label_logit.reshape(-1)
    if is_hard and "mass" in sums:
        # beside a label every row that counts has the same mass
        sums["mass"] = sums["mass"].max().reshape(1) if math.prod(rows_shape) else sums["mass"]
    found = _summed(sums, channel)
    if is_hard and "mass" in sums:
        found["mass"] = xp.zeros_like(of_all) + found["mass"]
    if "argmax" in own:
        is_here = (top == of_all) & (own["argmax"] >= 0)
        first = xp.where(is_here, own["argmax"], _NO_CLASS)
        channel.all_min(first)
        found["argmax"] = xp.where(first == _NO_CLASS, -1, first)
    changed: dict[str, Any] = {
        name: array.reshape(rows_shape if name == "label_logit" else (1, *rows_shape))
        for name, array in (found | {"max": of_all}).items()
    }
    changed |= {"first_class": (0,), "classes": (shards.num_classes,), "by_block": False}
    return stats._replace(**changed)


def _only_part(array: Any, name: str) -> Any:
    """The rows of the only part; where there is none, what no class hands up."""
    if array.shape[0]:
        return array.reshape(-1)
    return array.sum(0).reshape(-1) + {"max": -math.inf, "argmax": -1}.get(name, 0)


def _summed(sums: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Every array summed over the ranks, in one exchange."""
    together = channel.arrays.concatenate(list(sums.values()))
    channel.all_sum(together)
    found, start = {}, 0
    for name, array in sums.items():
        end = start + math.prod(array.shape)
        found[name] = together[start:end]
        start = end
    return found


def in_order(
    stats: ShardStats,
    shards: Shards,
    channel: Channel,
    by_block: bool,
    merged: Callable[..., ShardStats],
) -> ShardStats:
    """Statistics of all classes from those of every rank, merged in the order of the classes.

    Parameters
    ----------
    stats : ShardStats
        Of this rank, of no part where it has no class.
    shards : Shards
    channel : Channel
    by_block : bool
        Whether each rank has a part for every `BLOCK` classes, or one in all.
    merged : callable
        `fastxent.merge_stats`.

    Returns
    -------
    ShardStats
        The same bits on every rank.
    """
    xp = channel.arrays
    rows_shape = tuple(stats.max.shape[1:])
    names = [name for name, array in stats.of_parts.items() if array is not None]
    is_hard = stats.label_logit is not None
    runs = [_runs(*run, by_block) for run in zip(shards.offsets, shards.classes, strict=True)]
    own = [getattr(stats, name).reshape(-1) for name in names]
    if is_hard and runs[shards.rank]:
        own.append(stats.label_logit.reshape(-1))
    # numbers of classes are exact in float64
    together = xp.concatenate([array + xp.zeros_like(array, dtype=xp.float64) for array in own])
    rows = math.prod(rows_shape)
    counts = [rows * (len(run) * len(names) + is_hard) if run else 0 for run in runs]
    found = []
    for run, numbers in zip(runs, channel.gather(together, counts), strict=True):
        if run:
            shape = (len(run), *rows_shape)
            size = math.prod(shape)
            arrays = {
                name: numbers[at * size : (at + 1) * size].reshape(shape)
                for at, name in enumerate(names)
            }
            if "argmax" in arrays:
                arrays["argmax"] = xp.asarray(arrays["argmax"], dtype=xp.int64)
            if is_hard:
                arrays["label_logit"] = numbers[len(names) * size :].reshape(rows_shape)
            begins, sizes = zip(*run, strict=True)
            found.append(stats._replace(**arrays, first_class=begins, classes=sizes))
    return merged(*found)


def _runs(offset: int, classes: int, by_block: bool) -> list[tuple[int, int]]:
    """First class and number of classes of each part of a shard."""
    step = BLOCK if by_block else max(classes, 1)
    return [
        (begin, min(step, offset + classes - begin))
        for begin in range(offset, offset + classes, step)
    ]
