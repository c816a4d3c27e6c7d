"""Statistics of several runs of classes as those of all of them.

Of parts with maxima m_b the whole has m = max m_b, s = sum_b s_b * exp(m_b - m), T = sum_b T_b and
dot = sum_b dot_b + T_b * (m_b - m): docs/math.md. In float64, on arrays of NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.precision import Array
from fastxent.sharding.stats import ShardStats

__all__ = ["NOWHERE", "combined", "merged", "of_all_classes", "relative_to"]

# The class that holds a maximum which no class here holds: the least of several finds the others.
NOWHERE = np.iinfo(np.int64).max

_OF_PARTS = ("max", "sum", "mass", "dot", "argmax", "spread", "bare_mass", "bare_dot")


def merged(stats: tuple[ShardStats, ...]) -> ShardStats:
    """Statistics of all classes of several, checked: they fit and do not overlap.

    Blocks stay as they are, in class order. Otherwise runs of classes that touch become one part.
    """
    whole = _concatenated(stats)
    return whole if whole.by_block else _joined(whole)


def combined(stats: ShardStats) -> ShardStats:
    """All parts as one, whatever lies between them; of no parts, what no class hands up.

    Its one run of classes is from the first to the last.
    """
    if not stats.classes:
        return _nothing(stats)
    whole = _part(stats, slice(0, len(stats.classes)))
    end = stats.first_class[-1] + stats.classes[-1]
    return whole._replace(
        first_class=stats.first_class[:1], classes=(end - stats.first_class[0],), by_block=False
    )


def _nothing(stats: ShardStats) -> ShardStats:
    """One part of no classes."""
    rows = stats.max.shape[1:]
    fillings = dict.fromkeys(_OF_PARTS, 0.0) | {"max": -np.inf, "argmax": -1}
    arrays: dict[str, Any] = {
        name: np.full((1, *rows), filling, getattr(stats, name).dtype)
        for name, filling in fillings.items()
        if getattr(stats, name) is not None
    }
    return stats._replace(**arrays, first_class=(0,), classes=(0,), by_block=False)


def _concatenated(stats: tuple[ShardStats, ...]) -> ShardStats:
    """The parts of all, in class order."""
    first = stats[0]
    begins = [begin for one in stats for begin in one.first_class]
    sizes = [size for one in stats for size in one.classes]
    order = sorted(range(len(begins)), key=begins.__getitem__)
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in stats])[order]
        for name in _OF_PARTS
        if getattr(first, name) is not None
    }
    if first.label_logit is not None:
        # adding 0 leaves the one that is there as it is
        arrays["label_logit"] = np.sum([one.label_logit for one in stats], axis=0)
    with_classes = [one for one in stats if one.classes] or stats
    return first._replace(
        **arrays,
        first_class=tuple(begins[i] for i in order),
        classes=tuple(sizes[i] for i in order),
        by_block=all(one.by_block for one in with_classes),
    )


def _joined(stats: ShardStats) -> ShardStats:
    """Parts that touch, made one."""
    begins, ends = [], []
    first_class: list[int] = []
    end_class = -1
    for at, (begin, size) in enumerate(zip(stats.first_class, stats.classes, strict=True)):
        if begin != end_class:
            begins.append(at)
            ends.append(at)
            first_class.append(begin)
        ends[-1] = at + 1
        end_class = begin + size
    if len(begins) == len(stats.classes):
        return stats
    runs = [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]
    parts = [_part(stats, run) for run in runs]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _OF_PARTS
        if getattr(stats, name) is not None
    }
    sizes = tuple(sum(stats.classes[run]) for run in runs)
    return stats._replace(**arrays, first_class=tuple(first_class), classes=sizes)


def _shift_of(maxima: Array) -> Array:
    """What statistics are relative to: -inf minus -inf would be NaN where all is masked."""
    return np.where(np.isneginf(maxima), 0.0, maxima)


def _part(stats: ShardStats, run: slice) -> ShardStats:
    """One part of several: its arrays only."""
    run_of = {
        name: getattr(stats, name)[run] for name in _OF_PARTS if getattr(stats, name) is not None
    }
    top = run_of["max"].max(axis=0)
    return stats._replace(**_summed(run_of, top))


def _summed(parts: dict[str, Array], top: Array) -> dict[str, Any]:
    """Sums of parts relative to the rows' maximum `top`, theirs or that of more classes."""
    with np.errstate(all="ignore"):
        maxima = parts["max"]
        factor = np.where(maxima == top, 1.0, np.exp(maxima - top))
        down = _shift_of(maxima) - _shift_of(top)
        sums: dict[str, Any] = {"max": top, "sum": (parts["sum"] * factor).sum(axis=0)}
        for mass, dot in (("mass", "dot"), ("bare_mass", "bare_dot")):
            if mass in parts:
                # without mass nothing comes down, be it from an infinite maximum
                lowered = np.where(parts[mass] != 0, parts[mass] * down, 0.0)
                sums[mass] = parts[mass].sum(axis=0)
                sums[dot] = (parts[dot] + lowered).sum(axis=0)
        if "spread" in parts:
            spreads = (parts["spread"] + parts["sum"] * down) * factor
            sums["spread"] = np.where(factor != 0, spreads, 0.0).sum(axis=0)
        if "argmax" in parts:
            holds = maxima == top
            first = holds.argmax(axis=0)[None]
            found = np.take_along_axis(parts["argmax"], first, axis=0)[0]
            sums["argmax"] = np.where(holds.any(axis=0), found, NOWHERE)
    return {name: array[None] for name, array in sums.items()}


def relative_to(stats: ShardStats, top: Array) -> ShardStats:
    """One part of all, relative to a maximum of the rows over more classes than these.

    For processes that exchange the maximum first: of what they all find here `sum`, `mass`, `dot`,
    `spread`, `bare_mass`, `bare_dot` and `label_logit` are added up, and of `argmax` the least is
    taken, that of a shard without the maximum being `NOWHERE`. `of_all_classes` takes the results.
    """
    whole = combined(stats)
    arrays = {name: getattr(whole, name) for name in _OF_PARTS if getattr(whole, name) is not None}
    return whole._replace(**_summed(arrays, top))


def of_all_classes(stats: ShardStats, num_classes: int) -> ShardStats:
    """Statistics of one part, now known to be those of all classes."""
    return stats._replace(first_class=(0,), classes=(num_classes,), by_block=False)
