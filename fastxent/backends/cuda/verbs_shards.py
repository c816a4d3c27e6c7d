"""The verbs for rows of which only some classes are on the device: partial, merge and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import BLOCK, Outputs, PartialSums
from fastxent.backends.cuda.plan import Plan
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, ShardVariant, Variant
from fastxent.backends.cuda.verbs_rows import RowsCall, put_vectors

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["merge", "partial", "partial_backward"]

_FLOAT64 = np.dtype(np.float64)
_GEOMETRY = LoopGeometry(128)
# Of a row whose parts need not be told from each other: so many classes a block.
_GRAD_CLASSES = 4 * BLOCK


def _plan(step: str, formula: Variant, grid: int, rows: int) -> Plan:
    return Plan(KernelSpec("shard", ShardVariant(step, formula), _GEOMETRY), grid, 0, (), rows)


def _put_sums(call: RowsCall, sums: PartialSums) -> None:
    for name, array in (
        ("part_max", sums.max),
        ("part_sum", sums.sum),
        ("part_mass", sums.mass),
        ("part_dot", sums.dot),
        ("part_spread", sums.spread),
        ("part_argmax", sums.argmax),
        ("label_logit", sums.label_logit),
    ):
        if array is not None:
            call.vectors[name] = array


def _put_classes(call: RowsCall, problem: Problem, parts: int, part_classes: int) -> None:
    call.put_formula()
    call.arguments.update(
        classes=problem.num_classes,
        classes_here=problem.classes,
        class_offset=problem.class_offset,
        parts=parts,
        part_classes=part_classes,
    )


def partial(runtime: Runtime, problem: Problem, sums: PartialSums) -> None:
    """Fill the sums of each block of classes, or of all in one part if `sums` has one."""
    call, parts = RowsCall(runtime, problem), sums.max.shape[0]
    _put_classes(call, problem, parts, problem.classes if parts == 1 else BLOCK)
    _put_sums(call, sums)
    sides = sums.spread is not None or sums.argmax is not None
    formula = Variant(*call.formula, "loss", sides)
    call.run(_plan("partial", formula, problem.rows * parts, problem.rows))


def merge(runtime: Runtime, problem: Problem, sums: PartialSums, out: Outputs) -> None:
    """Fill the outputs that are not None, `partial` in the place of `total`.

    `partial` is another array afterwards, where its size is not that of the kernel.
    """
    place: Any = sums.max.place  # type: ignore[attr-defined]
    call, parts = RowsCall(runtime, problem, place), sums.max.shape[0]
    call.put_labels()
    call.put_mass()
    call.arguments.update(classes=problem.num_classes, parts=parts)
    _put_sums(call, sums)
    put_vectors(call, out)
    if out.mass is not None:
        call.vectors["row_mass"] = out.mass
    kind = "float64" if problem.precision.kind == "float64" else "float32"
    sides = out.argmax is not None or out.entropy is not None or out.correct is not None
    # of probabilities the parts have the mass, however they were stored
    target = kind if problem.target is None else "label"
    formula = Variant(kind, target, "label", "plain", "loss", sides)
    grid = -(-problem.rows // _GEOMETRY.threads)
    if out.partial is not None and out.partial.size != grid:
        out.partial = out.partial.place.scratch((grid,), _FLOAT64)
    call.run(_plan("merge", formula, grid, problem.rows), out.partial)


def partial_backward(
    runtime: Runtime, problem: Problem, row_max: Any, row_sum: Any, row_mass: Any, grad: Any
) -> None:
    """Fill `grad` from the statistics of all classes."""
    call, parts = RowsCall(runtime, problem), -(-problem.classes // _GRAD_CLASSES)
    _put_classes(call, problem, parts, _GRAD_CLASSES)
    call.put_grad(grad)
    call.vectors.update(row_max=row_max, row_sum=row_sum, row_mass=row_mass)
    formula = Variant(*call.formula, "backward")
    call.run(_plan("backward", formula, problem.rows * parts, problem.rows))
