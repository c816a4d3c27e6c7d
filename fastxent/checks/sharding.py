"""Runs of classes, and the statistics that rows hand up of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fastxent.checks.arrays import check_target
from fastxent.checks.axes import check_axis
from fastxent.checks.on_device import outline
from fastxent.checks.options import check_num_classes
from fastxent.checks.output import overlap
from fastxent.checks.reading import as_array, integer, shown
from fastxent.device_array import DeviceArray
from fastxent.errors import DTypeError, OptionError, OutputError, ShapeError
from fastxent.precision import Array

__all__ = [
    "check_aux_of_stats",
    "check_begins_block",
    "check_by_block",
    "check_mergeable",
    "check_out_apart",
    "check_shard",
    "check_stats",
    "check_stats_fit",
    "check_stats_suffice",
    "check_target_of_stats",
    "check_whole_stats",
]

# A named tuple with the fields of fastxent.sharding.ShardStats.
Stats = TypeVar("Stats", bound=Any)


def check_shard(class_offset: Any, num_classes: Any, classes: int) -> tuple[int, int]:
    """Where a run of classes begins, and of how many classes in all it is."""
    total = check_num_classes(num_classes)
    offset = integer(class_offset, "class_offset")
    if not 0 <= offset <= total - classes:
        raise OptionError(
            f"class_offset = {offset} puts the {classes} classes of the logits at [{offset}, "
            f"{offset + classes}), outside [0, {total}) for num_classes = {total}"
        )
    return offset, total


def check_by_block(value: Any) -> bool:
    """Whether statistics stay apart by block."""
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"by_block must be True or False, got {value!r}")
    return bool(value)


def check_begins_block(class_offset: int, block: int) -> None:
    """Blocks are those of all classes."""
    if class_offset % block:
        raise OptionError(
            f"by_block=True needs a class_offset that is a multiple of {block}, where the blocks "
            f"begin that kernels add up; got {class_offset}. Cut the classes there, or leave "
            "by_block=False"
        )


def check_aux_of_stats(
    asked: tuple[str, ...],
    soft_classes: int | None = None,
    num_classes: int | None = None,
    on_device: bool = False,
) -> None:
    """Side outputs follow from statistics of rows; `soft_classes` is what probabilities are of."""
    if "target_grad" in asked:
        raise OptionError(
            "aux names 'target_grad', which has a number for each class and does not follow from "
            "statistics of rows: leave the name out"
        )
    if "correct" in asked and soft_classes is not None and on_device:
        raise OptionError(
            "aux names 'correct', and target holds probabilities on a GPU, which are not searched "
            "for their largest: compare aux.argmax yourself"
        )
    if "correct" in asked and soft_classes is not None and soft_classes != num_classes:
        raise OptionError(
            f"aux names 'correct', and target has the probabilities of {soft_classes} of "
            f"{num_classes} classes: pass those of all, or compare aux.argmax yourself"
        )


def _as_dense(value: Any, name: str) -> Array:
    return np.require(as_array(value, name), requirements=["C_CONTIGUOUS", "ALIGNED"])


def check_stats(
    value: Any,
    kind: type[Stats],
    name: str = "stats",
    read: Callable[[Any, str], Any] = _as_dense,
) -> Stats:
    """Statistics as dense arrays of one shape, NumPy's unless `read` reads others."""
    if not isinstance(value, kind):
        raise DTypeError(
            f"{name} must be a {kind.__name__}, as fastxent.partial_stats and "
            f"fastxent.merge_stats give it; got {type(value).__name__}"
        )
    given: Any = value
    runs = _runs(given, name)
    arrays: dict[str, Any] = {}
    shape: tuple[int, ...] | None = None
    for field in (*given.of_parts, "label_logit"):
        part = getattr(given, field)
        if part is None:
            if field in ("max", "sum"):
                raise DTypeError(f"{name}.{field} is None: every ShardStats has it")
            continue
        array = read(part, f"{name}.{field}")
        dtype = np.dtype(np.int64 if field == "argmax" else np.float64)
        if array.dtype != dtype:
            raise DTypeError(f"{name}.{field} has dtype {array.dtype}: expected {dtype}")
        shape = array.shape if shape is None else shape
        needed = shape[1:] if field == "label_logit" else shape
        if array.shape != needed or len(shape) < 1 or shape[0] != len(runs):
            raise ShapeError(
                f"{name}.{field} has {shown(array.shape)}: expected one entry for each of "
                f"{len(runs)} parts and each row of {name}.max, {shown(needed)}"
            )
        arrays[field] = array
    for mass, dot in (("mass", "dot"), ("bare_mass", "bare_dot")):
        if (mass in arrays) != (dot in arrays):
            raise DTypeError(f"{name}.{mass} and {name}.{dot} must both be there or both be None")
    dense: Stats = given._replace(**arrays)
    return dense


def _runs(stats: Any, name: str) -> list[tuple[int, int]]:
    """Begin and end of each part, rising and apart."""
    if len(stats.first_class) != len(stats.classes):
        raise ShapeError(f"{name}.first_class and {name}.classes must have one entry a part")
    runs = []
    end = 0
    for begin, size in zip(stats.first_class, stats.classes, strict=True):
        if begin < end or size < 1:
            raise OptionError(
                f"{name} has a part of {size} classes from class {begin} on, after one that ends "
                f"at {end}: parts must rise, not overlap, and have classes"
            )
        end = begin + size
        runs.append((begin, end))
    return runs


def check_mergeable(
    values: tuple[Any, ...],
    kind: type[Stats],
    read: Callable[[Any, str], Any] = _as_dense,
) -> tuple[Stats, ...]:
    """Statistics of the same rows, with the same fields, of classes that do not overlap."""
    if not values:
        raise OptionError("merge_stats needs at least one ShardStats")
    stats = tuple(check_stats(value, kind, f"stats[{at}]", read) for at, value in enumerate(values))
    first: Any = stats[0]
    runs = []
    for at, one in enumerate(stats):
        _check_alike(first, one, at)
        runs += [(begin, end, at) for begin, end in _runs(one, f"stats[{at}]")]
    runs.sort()
    for (begin, end, before), (next_begin, next_end, after) in itertools.pairwise(runs):
        if next_begin < end:
            raise OptionError(
                f"stats[{before}] has classes [{begin}, {end}) and stats[{after}] has "
                f"[{next_begin}, {next_end}): shards must not overlap, look at their class_offset"
            )
    return stats


def _check_alike(first: Any, one: Any, at: int) -> None:
    if one.max.shape[1:] != first.max.shape[1:]:
        raise ShapeError(
            f"stats[{at}] are of rows of {shown(one.max.shape[1:])}, stats[0] of "
            f"{shown(first.max.shape[1:])}: merge statistics of the same rows"
        )
    if one.dtype != first.dtype:
        raise DTypeError(
            f"stats[{at}] are of a loss in {one.dtype}, stats[0] in {first.dtype}: merge "
            "statistics of logits of one dtype"
        )
    _check_same_logits(f"stats[{at}]", one, "stats[0]", first.softcap, first.logit_scale)
    for field in (*first.of_parts, "label_logit"):
        if (getattr(one, field) is None) != (getattr(first, field) is None):
            without, other = (at, 0) if getattr(one, field) is None else (0, at)
            raise OptionError(
                f"stats[{without}] have no {field} and stats[{other}] do: call partial_stats with "
                "the same kind of target, label_smoothing and aux for every shard"
            )


def check_whole_stats(stats: Any, num_classes: int) -> None:
    """Statistics of all classes."""
    end = 0
    for begin, after in [*_runs(stats, "stats"), (num_classes, num_classes)]:
        if begin > end or after > num_classes:
            what = f"lack classes [{end}, {begin})" if begin > end else f"reach to class {after}"
            raise OptionError(
                f"stats {what} of num_classes = {num_classes}: merge_stats of all shards gives "
                "what is needed"
            )
        end = after


def check_target_of_stats(
    target: Any, axis: Any, rows_shape: tuple[int, ...], dtype: Any, num_classes: int
) -> tuple[Array, int]:
    """Zeros without memory in the shape of logits that a target goes with, and their class axis."""
    given = as_array(target, "target")
    place = check_axis(axis, np.empty((1,) * (len(rows_shape) + 1)))
    classes = num_classes
    if given.dtype.kind not in "iu" and given.ndim == len(rows_shape) + 1:
        classes = given.shape[place]
    shape = (*rows_shape[:place], classes, *rows_shape[place:])
    logits = np.broadcast_to(np.zeros((), dtype), shape)
    check_target(given, logits, place)
    return logits, place


def check_stats_fit(
    stats: Any, rows_shape: tuple[int, ...], dtype: Any, softcap: float | None, logit_scale: float
) -> None:
    """Statistics of the rows of the logits, capped and scaled as they are here."""
    if stats.max.shape[1:] != rows_shape:
        raise ShapeError(
            f"stats are of rows of {shown(stats.max.shape[1:])}, and the logits have rows of "
            f"{shown(rows_shape)}"
        )
    if stats.dtype != dtype:
        raise DTypeError(
            f"stats are of a loss in {stats.dtype}, and that of these logits is {dtype}: take "
            "the statistics of these logits"
        )
    _check_same_logits("stats", stats, "this call", softcap, logit_scale)


def _check_same_logits(
    name: str, stats: Any, other: str, softcap: float | None, logit_scale: float
) -> None:
    for option, value in (("softcap", softcap), ("logit_scale", logit_scale)):
        made = getattr(stats, option)
        if made != value:
            raise OptionError(
                f"{name} are of logits with {option} = {made!r}, and {other} has {value!r}: pass "
                f"the same {option} to partial_stats of every shard and to grad_from_stats"
            )


def check_stats_suffice(
    stats: Any, hard: bool, has_mass: bool, needs_bare: bool, asked: tuple[str, ...] = ()
) -> None:
    """Statistics made of the same kind of target, with the same options."""
    if (stats.label_logit is not None) != hard:
        made, given = ("probabilities", "class indices")[:: 1 if hard else -1]
        raise OptionError(
            f"stats were made with {made} as the target, and here it holds {given}: pass the same "
            "target to both"
        )
    if (stats.mass is not None) != has_mass:
        made = "without" if has_mass else "with"
        raise OptionError(
            f"stats were made {made} label_smoothing: pass the same to partial_stats and here"
        )
    needed = {"argmax": "argmax", "correct": "argmax", "entropy": "spread"}
    if needs_bare:
        needed["log_prob"] = "bare_mass"
    for name in asked:
        if name in needed and getattr(stats, needed[name]) is None:
            raise OptionError(
                f"aux names {name!r}, and stats have no {needed[name]}: pass aux=({name!r},) to "
                "partial_stats, with the same options"
            )


def check_out_apart(out: Any, stats: Any) -> None:
    """An output that is no part of the statistics."""
    if out is None:
        return
    seen = outline if isinstance(out, DeviceArray) else np.asarray
    for field in (*stats.of_parts, "label_logit"):
        array = getattr(stats, field)
        if array is not None and overlap(seen(out), seen(array)):
            raise OutputError(f"out shares memory with stats.{field}, which would be overwritten")
