"""The three passes over shards in the host's memory: statistics, loss, gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from fastxent import checks, threads
from fastxent.backends import pick
from fastxent.backends.contract import BLOCK, Backend, Outputs, PartialSums
from fastxent.options import Options
from fastxent.precision import Array
from fastxent.problem import Problem
from fastxent.sharding.merging import combined
from fastxent.sharding.stats import ShardStats
from fastxent.side_outputs import Aux, loss_and_aux

__all__ = ["Merged", "check_suffice", "grad_of", "loss_of", "runs_of", "stats_of"]


def stats_of(
    logits: Any,
    target: Any,
    options: Options,
    shard: tuple[Any, Any],
    by_block: Any,
    backend: str | None,
    num_threads: Any,
) -> ShardStats:
    """`fastxent.partial_stats`, as arrays of NumPy."""
    by_block = checks.check_by_block(by_block)
    problem = Problem.of_options(logits, target, options, num_threads, shard=shard)
    checks.check_aux_of_stats(problem.asked)
    if by_block:
        checks.check_begins_block(problem.class_offset, BLOCK)
    chosen = pick(backend, problem, "partial")
    problem = problem.with_labels(chosen)
    sums = _sums(problem, chosen)
    bare = PartialSums(sums.max, sums.sum)
    if "log_prob" in problem.asked and problem.soft is not None and not problem.is_bare:
        bare = _sums(replace(problem.bare(), asked=()), chosen)
    assert problem.reduction is not None
    parts, rows = len(sums.max), problem.reduction.rows_shape
    given: dict[str, Array | None] = {
        "max": sums.max,
        "sum": sums.sum,
        "mass": sums.mass,
        "dot": sums.dot,
        "argmax": sums.argmax,
        "spread": sums.spread,
        "bare_mass": bare.mass,
        "bare_dot": bare.dot,
    }
    arrays: dict[str, Any] = {
        name: None if array is None else array.reshape(parts, *rows)
        for name, array in given.items()
    }
    first_class, classes = runs_of(problem, BLOCK)
    stats = ShardStats(
        **arrays,
        label_logit=None if sums.label_logit is None else sums.label_logit.reshape(rows),
        first_class=first_class,
        classes=classes,
        dtype=problem.precision.loss,
        by_block=by_block,
        softcap=problem.softcap,
        logit_scale=problem.logit_scale,
    )
    if by_block:
        return stats
    return (combined(stats) if parts > 1 else stats)._replace(by_block=False)


def runs_of(problem: Problem, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Beginnings and lengths of the parts of a problem's classes."""
    end = problem.class_offset + problem.classes
    begins = range(problem.class_offset, end, length)
    return tuple(begins), tuple(min(length, end - begin) for begin in begins)


def _sums(problem: Problem, backend: Backend) -> PartialSums:
    """Sums of the blocks of a shard; of a shard without classes there are none."""
    parts = -(-problem.classes // BLOCK)

    def of_parts(wanted: bool, dtype: type[np.generic] = np.float64) -> Array | None:
        return np.empty((parts, problem.rows), dtype) if wanted else None

    has_mass = problem.soft is not None or problem.background is not None
    sums = PartialSums(
        np.empty((parts, problem.rows)),
        np.empty((parts, problem.rows)),
        of_parts(has_mass),
        of_parts(has_mass),
        of_parts("entropy" in problem.aux),
        of_parts("argmax" in problem.aux, np.int64),
        None if problem.target is None else np.zeros(problem.rows),
    )
    if parts:
        backend.partial(problem, sums)
    return sums


def check_suffice(stats: ShardStats, problem: Problem) -> None:
    """Check that statistics have what the target and the options need."""
    is_soft = problem.soft is not None
    checks.check_stats_suffice(
        stats,
        hard=not is_soft,
        has_mass=is_soft or problem.background is not None,
        needs_bare=is_soft and not problem.is_bare,
        asked=problem.asked,
    )


class Merged:
    """Rows whose statistics are there: `forward` merges them.

    Attributes
    ----------
    sums : PartialSums
        Of all classes.
    """

    def __init__(self, stats: ShardStats, backend: Backend) -> None:
        self._backend = backend
        parts, *rows = stats.max.shape
        shape = parts, math.prod(rows)

        def flat(array: Any) -> Any:
            return None if array is None else array.reshape(shape)

        label_logit = stats.label_logit
        self.sums = PartialSums(
            flat(stats.max),
            flat(stats.sum),
            flat(stats.mass),
            flat(stats.dot),
            flat(stats.spread),
            flat(stats.argmax),
            None if label_logit is None else label_logit.reshape(-1),
        )
        self._bare = self.sums
        if stats.bare_mass is not None:
            bare = flat(stats.bare_mass), flat(stats.bare_dot)
            self._bare = replace(self.sums, mass=bare[0], dot=bare[1])

    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill outputs of rows."""
        sums = self._bare if problem.soft is not None and problem.is_bare else self.sums
        self._backend.merge(problem, sums, out)


def loss_of(
    stats: Any,
    target: Any,
    options: Options,
    num_classes: Any,
    backend: str | None,
    num_threads: Any,
) -> tuple[Any, Aux | None]:
    """`fastxent.loss_from_stats`, as arrays of NumPy."""
    whole = checks.check_stats(stats, ShardStats)
    num_classes = checks.check_num_classes(num_classes)
    checks.check_whole_stats(whole, num_classes)
    logits, axis = checks.check_target_of_stats(
        target, options.axis, whole.max.shape[1:], whole.dtype, num_classes
    )
    problem = Problem.of_options(
        logits, target, options._replace(axis=axis), None, shard=(0, num_classes)
    )
    checks.check_aux_of_stats(
        problem.asked, None if problem.soft is None else problem.classes, num_classes
    )
    check_suffice(whole, problem)
    chosen = pick(backend, problem, "merge")
    # a row is worth reading its statistics
    problem.num_threads = threads.plan(num_threads, problem.rows, whole.max.nbytes)
    problem = problem.with_labels(chosen)
    return loss_and_aux(problem, Merged(whole, chosen), Outputs())


def grad_of(
    logits: Any,
    target: Any,
    stats: Any,
    options: Options,
    shard: tuple[Any, Any],
    backend: str | None,
    num_threads: Any,
    grad_output: Any,
    out: Any,
) -> Array:
    """`fastxent.grad_from_stats`, as an array of NumPy."""
    whole = checks.check_stats(stats, ShardStats)
    into = checks.as_output(out)
    problem = Problem.of_options(
        logits, target, options, num_threads, grad_output, into, shard=shard
    )
    checks.check_whole_stats(whole, problem.num_classes)
    assert problem.reduction is not None
    rows_shape, dtype = problem.reduction.rows_shape, problem.precision.loss
    checks.check_stats_fit(whole, rows_shape, dtype, problem.softcap, problem.logit_scale)
    check_suffice(whole, problem)
    checks.check_out_apart(into, whole)
    chosen = pick(backend, problem, "partial_backward")
    problem = problem.with_labels(chosen)
    grad = problem.new_output(into)
    if problem.denominator == 0.0:
        grad.rows.fill(0)
    elif problem.classes:
        rows = problem.rows
        row_max = np.empty(rows, problem.precision.compute)
        row_sum, mass = np.empty(rows), np.empty(rows)
        found = Outputs(row_max=row_max, row_sum=row_sum, mass=mass)
        chosen.merge(problem, Merged(whole, chosen).sums, found)
        maxima = row_max.astype(np.float64)
        chosen.partial_backward(problem, maxima, row_sum, mass, grad.rows)
    return grad.deliver()
