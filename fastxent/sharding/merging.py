"""Statistics of several runs of classes as those of all of them.

Of parts with maxima m_b the whole has m = max m_b, s = sum_b s_b * exp(m_b - m), T = sum_b T_b and
dot = sum_b dot_b + T_b * (m_b - m): docs/math.md. In float64, on arrays of NumPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastxent.sharding.stats import ShardStats

__all__ = ["combined", "merged", "relative_to"]

_OF_TARGETS = (("mass", "dot"), ("bare_mass", "bare_dot"))


# what a row holds that is no number, a signalling NaN too, is no reason for a warning
@np.errstate(all="ignore")
def merged(stats: tuple[ShardStats, ...]) -> ShardStats:
    """Statistics of all classes of several, checked: they fit and do not overlap.

    Blocks stay as they are, in class order. Otherwise runs of classes that touch become one part.
    """
    whole = _concatenated(stats)
    return whole if whole.by_block else _joined(whole)


@np.errstate(all="ignore")
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
    fillings = {"max": -np.inf, "argmax": -1}
    arrays: dict[str, Any] = {
        name: np.full((1, *rows), fillings.get(name, 0.0), array.dtype)
        for name, array in _held(stats).items()
    }
    return stats._replace(**arrays, first_class=(0,), classes=(0,), by_block=False)


def _concatenated(stats: tuple[ShardStats, ...]) -> ShardStats:
    """The parts of all, in class order."""
    first = stats[0]
    begins = [begin for one in stats for begin in one.first_class]
    sizes = [size for one in stats for size in one.classes]
    order = sorted(range(len(begins)), key=begins.__getitem__)
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in stats])[order] for name in _held(first)
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
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _held(stats)
    }
    sizes = tuple(sum(stats.classes[run]) for run in runs)
    return stats._replace(**arrays, first_class=tuple(first_class), classes=sizes)


def _held(stats: ShardStats) -> dict[str, Any]:
    """Arrays of parts that are there."""
    return {name: array for name, array in stats.of_parts.items() if array is not None}


def _part(stats: ShardStats, run: slice) -> ShardStats:
    """One part of several: its arrays only."""
    parts = {name: array[run] for name, array in _held(stats).items()}
    maxima = parts["max"]
    top = maxima.max(axis=0)
    one: dict[str, Any] = {"max": top}
    one |= {name: array.sum(axis=0) for name, array in relative_to(parts, top, np).items()}
    if "argmax" in parts:
        first = (maxima == top).argmax(axis=0)[None]
        one["argmax"] = np.take_along_axis(parts["argmax"], first, axis=0)[0]
    return stats._replace(**{name: array[None] for name, array in one.items()})


def relative_to(parts: dict[str, Any], top: Any, xp: Any) -> dict[str, Any]:
    """Statistics of parts relative to a maximum of more classes, that they may be added up.

    Parameters
    ----------
    parts : dict of str to array
        Those of `ShardStats.of_parts` that are there.
    top : array
        The rows' maximum: of these parts, or over all processes.
    xp : module
        `numpy`, or `torch` where the arrays are tensors.

    Returns
    -------
    dict of str to array
        The parts' `sum`, `mass`, `dot`, `spread`, `bare_mass` and `bare_dot`, as far as there.
    """
    with np.errstate(all="ignore"):
        maxima = parts["max"]
        # equal infinities have no difference
        factor = xp.where(maxima == top, 1.0, xp.exp(maxima - top))
        down = _shift_of(maxima, xp) - _shift_of(top, xp)
        sums: dict[str, Any] = {"sum": parts["sum"] * factor}
        for mass, dot in _OF_TARGETS:
            if mass in parts:
                sums[mass] = parts[mass]
                # without mass nothing comes down, be it from an infinite maximum
                sums[dot] = parts[dot] + xp.where(parts[mass] != 0, parts[mass] * down, 0.0)
        if "spread" in parts:
            spread = (parts["spread"] + parts["sum"] * down) * factor
            sums["spread"] = xp.where(factor != 0, spread, 0.0)
    return sums


def _shift_of(maxima: Any, xp: Any) -> Any:
    """What statistics are relative to: -inf minus -inf would be NaN where all is masked."""
    return xp.where(maxima == -math.inf, 0.0, maxima)
