"""Rows of which only some classes are here, in NumPy: the verbs that take and give their sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fastxent.backends.contract import BLOCK, Outputs, PartialSums
from fastxent.backends.numpy_rows import Rows, column, logits_of, of_rows, store, target_mass
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["merge", "partial", "partial_backward"]

# Elements that are taken at a time, as in `fastxent.backends.numpy`.
_GROUP = 1 << 18


def _groups(rows: int, classes: int) -> Iterator[slice]:
    step = max(1, _GROUP // min(classes, BLOCK))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _live_rows(problem: Problem, group: slice) -> tuple[Rows, Array | None]:
    """Rows that count, and those that are skipped: None where there are none."""
    if problem.target is None or problem.skip is None:
        return group, None
    skipped = problem.target[group] == problem.skip
    if not skipped.any():
        return group, None
    return group.start + np.flatnonzero(~skipped), group.start + np.flatnonzero(skipped)


def _blocks(problem: Problem) -> Iterator[Problem]:
    """The problem, block by block of its classes."""
    for begin in range(0, problem.classes, BLOCK):
        here = slice(begin, min(begin + BLOCK, problem.classes))

        def of_classes(factor: float | Array | None, here: slice = here) -> float | Array | None:
            return factor[here] if isinstance(factor, np.ndarray) else factor

        yield replace(
            problem,
            logits=problem.logits[..., here],
            soft=None if problem.soft is None else problem.soft[..., here],
            background=of_classes(problem.background),
            gain=of_classes(problem.gain),
            classes=here.stop - here.start,
            class_offset=problem.class_offset + begin,
        )


def _mass(problem: Problem, rows: Rows) -> Array | float | None:
    """Mass of the target but for that on the label."""
    return problem.background if problem.soft is None else target_mass(problem, rows)


def _labels_here(problem: Problem, rows: Rows) -> tuple[Array, Array]:
    """Which of some rows have their label among these classes, and where."""
    assert problem.target is not None
    labels = problem.target[rows].astype(np.int64) - problem.class_offset
    (places,) = np.nonzero((labels >= 0) & (labels < problem.classes))
    return places, labels[places]


def _shift_of(maxima: Array) -> Array:
    """What logits are taken relative to: -inf minus -inf would be NaN where all are masked."""
    return np.where(np.isneginf(maxima), 0, maxima)


def partial(problem: Problem, sums: PartialSums) -> None:
    """Fill what is not None with the sums of each block of classes of `problem`."""
    if sums.label_logit is not None:
        sums.label_logit[...] = 0
    with np.errstate(all="ignore"):
        for group in _groups(problem.rows, problem.classes):
            rows, skipped = _live_rows(problem, group)
            if skipped is not None:
                _clear(sums, skipped)
            for part, block in enumerate(_blocks(problem)):
                _fill(block, rows, part, sums)


def _clear(sums: PartialSums, rows: Array) -> None:
    """Write what skipped rows hold."""
    sums.max[:, rows], sums.sum[:, rows] = 0, 1
    for zeros in (sums.mass, sums.dot, sums.spread):
        if zeros is not None:
            zeros[:, rows] = 0
    if sums.argmax is not None:
        sums.argmax[:, rows] = -1


def _fill(block: Problem, rows: Rows, part: int, sums: PartialSums) -> None:
    """Write the sums of a block of classes."""
    z, _ = logits_of(block, rows)
    top = np.fmax.reduce(z, axis=1, initial=-np.inf)
    sums.max[part, rows] = top
    if sums.label_logit is not None:
        places, labels = _labels_here(block, rows)
        numbers = np.arange(block.rows)[rows] if isinstance(rows, slice) else rows
        sums.label_logit[numbers[places]] = z[places, labels]
    if sums.argmax is not None:
        sums.argmax[part, rows] = block.class_offset + (z == top[:, None]).argmax(axis=1)
    shifted = z - _shift_of(top)[:, None]
    exps = np.exp(shifted)
    sums.sum[part, rows] = exps.sum(axis=1, dtype=np.float64)
    mass = _mass(block, rows)
    if sums.mass is not None and mass is not None:
        everywhere = np.broadcast_to(np.asarray(mass, z.dtype), z.shape)
        sums.mass[part, rows] = everywhere.sum(axis=1, dtype=np.float64)
    if sums.dot is not None and mass is not None:
        # a class without mass counts for nothing, be it at -inf
        products = np.where(np.asarray(mass) != 0, mass * shifted, 0)
        sums.dot[part, rows] = products.sum(axis=1, dtype=np.float64)
    if sums.spread is not None:
        exps *= np.maximum(shifted, np.finfo(z.dtype).min)
        sums.spread[part, rows] = exps.sum(axis=1, dtype=np.float64)


def merge(problem: Problem, sums: PartialSums, out: Outputs) -> None:
    """Fill outputs of rows from the sums of all classes, in class order."""
    with np.errstate(all="ignore"):
        top = sums.max.max(axis=0)
        factor = np.where(sums.max == top, 1.0, np.exp(sums.max - top))
        # relative to the row's maximum, as far as there is more than one to speak of
        down = 0.0 if len(factor) == 1 else _shift_of(sums.max) - top
        total = (sums.sum * factor).sum(axis=0)
        log_sum = np.log(total)
        dot: Array | float = 0.0
        if sums.dot is not None:
            assert sums.mass is not None
            dot = (sums.dot + sums.mass * down).sum(axis=0)
        spike: Array | float = 0.0
        at_label: Array | float = 0.0
        skipped: Array | slice = slice(0)
        if problem.target is None:
            assert sums.mass is not None
            mass = sums.mass.sum(axis=0)
        else:
            assert sums.label_logit is not None
            is_skipped = np.zeros(problem.rows, np.bool_)
            if problem.skip is not None:
                is_skipped = problem.target == problem.skip
            skipped = np.flatnonzero(is_skipped)
            labels = np.where(is_skipped, 0, problem.target).astype(np.int64)
            spike = np.broadcast_to(of_rows(problem.spike, labels), total.shape)
            at_label = sums.label_logit - top
            mass = spike + problem.background_total
        loss = mass * log_sum - dot - np.where(spike, spike * at_label, 0)
        log_prob = -loss if problem.target is None else at_label - log_sum
        if problem.z_loss:
            loss = loss + problem.z_loss * (top + log_sum) ** 2
        loss[skipped] = 0
        if out.total is not None:
            out.total[0] = loss.sum()
        results = {"loss": loss, "log_prob": log_prob, "mass": mass, "row_max": top}
        results["row_sum"] = total
        if out.entropy is not None:
            assert sums.spread is not None
            spreads = np.where(factor != 0, (sums.spread + sums.sum * down) * factor, 0)
            results["entropy"] = log_sum - spreads.sum(axis=0) / total
        for name, result in results.items():
            array = getattr(out, name)
            if array is not None:
                array[...] = result
                array[skipped] = 1 if name == "row_sum" else 0
        if out.argmax is not None:
            assert sums.argmax is not None
            first = sums.max.argmax(axis=0)
            found = sums.argmax[first, np.arange(problem.rows)]
            out.argmax[...] = np.where(total > 0, found, -1)
            out.argmax[skipped] = -1


def partial_backward(
    problem: Problem, row_max: Array, row_sum: Array, row_mass: Array, grad: Array
) -> None:
    """Fill `grad`, rows like those of `problem`, from the statistics of all classes."""
    with np.errstate(all="ignore"):
        factor = row_mass
        if problem.z_loss:
            factor = factor + 2 * problem.z_loss * (row_max + np.log(row_sum))
        share = factor / row_sum
        for group in _groups(problem.rows, problem.classes):
            rows, skipped = _live_rows(problem, group)
            if skipped is not None:
                store(grad, problem.precision.kind, skipped, 0)
            for part, block in enumerate(_blocks(problem)):
                begin = part * BLOCK
                here = grad[..., begin : begin + block.classes]
                _write_grad(block, rows, row_max[rows], share[rows], here)


def _write_grad(block: Problem, rows: Rows, row_max: Array, share: Array, grad: Array) -> None:
    """Write the gradient of a block of classes."""
    z, slope = logits_of(block, rows)
    exps = np.exp(z - column(row_max, z.dtype))
    mass = _mass(block, rows)
    scale = np.broadcast_to(of_rows(block.row_scale, rows), share.shape)
    if block.logit_scale != 1.0:
        scale = scale * block.logit_scale
    if block.target is not None:
        # p - 1 cancels: the element at the label is computed in float64 before it is rounded
        places, labels = _labels_here(block, rows)
        assert block.target is not None
        spike = of_rows(block.spike, block.target[rows].astype(np.int64)[places])
        if mass is not None:
            spike = spike + np.broadcast_to(mass, block.classes)[labels]
        at_label = share[places] * exps[places, labels].astype(np.float64) - spike
        at_label = at_label * scale[places]
    if mass is None:
        exps *= column(scale * share, exps.dtype)
    else:
        exps *= column(share, exps.dtype)
        exps -= np.asarray(mass, exps.dtype)
        exps *= column(scale, exps.dtype)
    if block.target is not None:
        exps[places, labels] = at_label
    if slope is not None:
        exps *= slope
    store(grad, block.precision.kind, rows, exps)
