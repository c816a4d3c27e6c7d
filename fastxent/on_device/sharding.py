"""Shards of the classes on GPUs: statistics, loss and gradient stay there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fastxent import checks, sharding
from fastxent.backends.contract import BLOCK, Outputs, PartialSums
from fastxent.device_array import DeviceArray
from fastxent.interchange import Home
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.loss import LossOnDevice
from fastxent.options import Options
from fastxent.problem import Problem
from fastxent.sharding import ShardStats

__all__ = ["grad_from_stats", "loss_from_stats", "merge_stats", "partial_stats"]

_FLOAT64, _INT64 = np.dtype(np.float64), np.dtype(np.int64)
_FIELDS = (*sharding.OF_PARTS, "label_logit")


def _given(arrays: Arrays, stats: ShardStats) -> ShardStats:
    """Statistics as arrays of the caller's library."""
    return stats._replace(**{name: arrays.give(getattr(stats, name)) for name in _FIELDS})


def partial_stats(
    home: Home,
    target: Any,
    options: Options,
    shard: tuple[Any, Any],
    by_block: Any,
    backend: str | None,
    num_threads: Any,
) -> ShardStats:
    """`fastxent.partial_stats`."""
    by_block = checks.check_by_block(by_block)
    arrays = Arrays.of_call(home, "logits", backend)
    problem = LossOnDevice(arrays, target, options, num_threads, shard=shard).problem
    checks.check_aux_of_stats(problem.asked)
    if by_block:
        checks.check_begins_block(problem.class_offset, BLOCK)
    first_class, classes = sharding.runs_of(problem, BLOCK if by_block else problem.num_classes)
    sums = _sums(arrays, problem, len(classes))
    bare = PartialSums(sums.max, sums.sum)
    if "log_prob" in problem.asked and problem.soft is not None and not problem.is_bare:
        bare = _sums(arrays, replace(problem.bare(), asked=()), len(classes))
    assert problem.reduction is not None
    rows = problem.reduction.rows_shape
    found = dict.fromkeys(_FIELDS) | {
        name: getattr(sums, name) for name in _FIELDS if hasattr(sums, name)
    }
    found |= {"bare_mass": bare.mass, "bare_dot": bare.dot}
    shaped: dict[str, Any] = {
        name: None
        if array is None
        else array.reshape(rows if name == "label_logit" else (len(classes), *rows))
        for name, array in found.items()
    }
    stats = ShardStats(
        **shaped,
        first_class=first_class,
        classes=classes,
        dtype=problem.precision.loss,
        by_block=by_block,
        softcap=problem.softcap,
        logit_scale=problem.logit_scale,
    )
    return _given(arrays, stats)


def _sums(arrays: Arrays, problem: Problem, parts: int) -> PartialSums:
    """Sums of blocks of a shard, or of all of it."""

    def of_parts(wanted: bool, dtype: np.dtype[Any] = _FLOAT64) -> Any:
        return arrays.empty((parts, problem.rows), dtype) if wanted else None

    has_mass = problem.soft is not None or problem.background is not None
    label_logit: Any = None
    if problem.target is not None:
        label_logit = arrays.empty((problem.rows,), _FLOAT64)
        if not parts:
            label_logit = arrays.upload(np.zeros(problem.rows), is_result=True)
    sums = PartialSums(
        of_parts(True),
        of_parts(True),
        of_parts(has_mass),
        of_parts(has_mass),
        of_parts("entropy" in problem.aux),
        of_parts("argmax" in problem.aux, _INT64),
        label_logit,
    )
    if parts:
        arrays.backend.partial(problem, sums)
    return sums


def merge_stats(home: Home, stats: tuple[Any, ...]) -> ShardStats:
    """`fastxent.merge_stats`: on the host, as that is a few numbers a row. This waits."""
    arrays = Arrays.of_call(home, "stats[0].max", None)

    def read(value: Any, name: str) -> Any:
        return arrays.backend.download(arrays.read_dense(value, name))

    merged = sharding.merged(checks.check_mergeable(stats, ShardStats, read))
    there: dict[str, Any] = {
        name: arrays.upload(array, is_result=True).reshape(array.shape)
        for name in _FIELDS
        if (array := getattr(merged, name)) is not None
    }
    return _given(arrays, merged._replace(**there))


def _stand_in(shape: tuple[int, ...], dtype: np.dtype[Any], like: DeviceArray) -> DeviceArray:
    """Array of no memory, for logits that nobody reads."""
    return DeviceArray(0, shape, dtype, like.place, None, (0,) * len(shape))


def loss_from_stats(
    home: Home,
    stats: Any,
    target: Any,
    options: Options,
    num_classes: Any,
    backend: str | None,
    num_threads: Any,
) -> Any:
    """`fastxent.loss_from_stats`."""
    arrays = Arrays.of_call(home, "stats.max", backend)
    whole = checks.check_stats(stats, ShardStats, read=arrays.read_dense)
    num_classes = checks.check_num_classes(num_classes)
    checks.check_whole_stats(whole, num_classes)
    there = arrays.read(target, "target")
    like, axis = checks.check_target_of_stats(
        there, options.axis, whole.max.shape[1:], whole.dtype, num_classes
    )
    arrays.first = _stand_in(like.shape, whole.dtype, arrays.first)
    named = options._replace(axis=axis)
    call = LossOnDevice(arrays, target, named, num_threads, shard=(0, num_classes))
    problem = call.problem
    soft_classes = None if problem.soft is None else problem.classes
    checks.check_aux_of_stats(problem.asked, soft_classes, num_classes, on_device=True)
    sharding.check_suffice(whole, problem)
    loss, aux = call.run(Outputs(), sharding.Merged(whole, arrays.backend))
    return arrays.give(loss) if aux is None else (arrays.give(loss), arrays.give_each(aux))


def grad_from_stats(
    home: Home,
    target: Any,
    stats: Any,
    options: Options,
    shard: tuple[Any, Any],
    backend: str | None,
    num_threads: Any,
    grad_output: Any,
    out: Any,
) -> Any:
    """`fastxent.grad_from_stats`."""
    arrays = Arrays.of_call(home, "logits", backend)
    into = arrays.read_out(out)
    whole = checks.check_stats(stats, ShardStats, read=arrays.read_dense)
    call = LossOnDevice(arrays, target, options, num_threads, grad_output, into, shard)
    problem = call.problem
    checks.check_whole_stats(whole, problem.num_classes)
    assert problem.reduction is not None
    rows_shape, dtype = problem.reduction.rows_shape, problem.precision.loss
    checks.check_stats_fit(whole, rows_shape, dtype, problem.softcap, problem.logit_scale)
    sharding.check_suffice(whole, problem)
    checks.check_out_apart(into, whole)
    grad = call.new_grad(into)
    if problem.classes:
        rows = (problem.rows,)
        found: Any = Outputs()
        found.row_max = arrays.scratch(rows, problem.precision.compute)
        found.row_sum, found.mass = arrays.scratch(rows, _FLOAT64), arrays.scratch(rows, _FLOAT64)
        arrays.backend.merge(problem, sharding.Merged(whole, arrays.backend).sums, found)
        row_max: Any = found.row_max
        if problem.precision.compute != _FLOAT64:
            row_max = arrays.scratch(rows, _FLOAT64)
            arrays.backend.row_factors((found.row_max,), row_max)
        arrays.backend.partial_backward(problem, row_max, found.row_sum, found.mass, grad.rows)
    return arrays.deliver(grad.array, out)
